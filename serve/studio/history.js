/** The history: a forest of pictures, each edit a child of the picture that it edited. */

import { label, make, refill } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {{id: string, parent: string | null, created: number, title: string, name: string, sample: string | null,
 *   blob: Blob, thumb: string, width: number, height: number, request: import("./api.js").EditRequest | null,
 *   regions: {box: number[], score: number}[], marks: Object<number, "pinned" | "excluded">, mask: Blob | null}} Node
 * `request` made the picture; `regions`, `marks` and `mask` are of the next edit of it. */

/** List a node's children, oldest first; those of null are the pictures that the history began with. */
export function childrenOf(nodes, id) {
  const parent = (node) => (nodes.has(node.parent) ? node.parent : null); // a lost parent's are beginnings too
  return [...nodes.values()].filter((node) => parent(node) === id).sort((one, other) => one.created - other.created);
}

/** List a node and its ancestors, the first picture first. */
export function lineage(nodes, id) {
  const node = nodes.get(id);
  return node ? [...lineage(nodes, node.parent), node] : [];
}

/** List a node and all that was made from it. */
export function descendants(nodes, id) {
  return [nodes.get(id), ...childrenOf(nodes, id).flatMap((child) => descendants(nodes, child.id))];
}

/** List all nodes in display order; only forks indent, so that a long series of edits stays one column. */
export function rows(nodes, parent = null, depth = 0) {
  const children = childrenOf(nodes, parent);
  const inner = depth + (parent !== null && children.length > 1 ? 1 : 0);
  return children.flatMap((node) => [{ node, depth: inner }, ...rows(nodes, node.id, inner)]);
}

/** Describe how a picture was made. @param {Node} node */
export function describe({ request, width, height }) {
  if (!request) return texts.size(width, height);
  const parts = [texts.seed(request.seed)];
  for (const [name, value] of Object.entries(request.settings)) parts.push(`${texts.settings[name] ?? name} ${value}`);
  if (request.boxes) parts.push(texts.regionsUsed(request.boxes.length));
  if (request.masked) parts.push(texts.masked);
  return parts.join(" · ");
}

/** Draw the list. @param {import("./app.js").Studio} studio */
export function renderHistory(list, studio) {
  const row = ({ node, depth }) => {
    const details = make("span", { class: "details" }, make("b", {}, node.title), make("small", {}, describe(node)));
    const isCurrent = node.id === studio.current;
    const properties = { class: "node", "data-key": node.id, "aria-current": isCurrent && "true", title: node.title };
    const image = make("img", { src: node.thumb, alt: "", width: 44, height: 44 });
    const select = make("button", { ...properties, onclick: () => studio.select(node.id) }, image, details);
    const tool = (name, onclick, properties) => {
      const button = make("button", { class: "quiet", "data-key": `${name} ${node.id}`, onclick, ...properties });
      return label(button, name, texts.history[name](node.title));
    };
    const compared = { "aria-pressed": String(node.id === studio.other) };
    const tools = isCurrent ? [] : [tool("compare", () => studio.compareWith(node.id), compared)];
    const item = make("li", {}, select, ...tools, tool("delete", () => studio.remove(node.id)));
    item.style.setProperty("--depth", Math.min(depth, 6));
    return item;
  };
  refill(list, rows(studio.nodes).map(row));
}

/** Move the focus through the list by the arrow keys. */
export function walk(list, event) {
  const buttons = [...list.querySelectorAll(".node")];
  const next = buttons[buttons.indexOf(event.target) + { ArrowUp: -1, ArrowDown: 1 }[event.key]];
  if (!next || !buttons.includes(event.target)) return;
  event.preventDefault();
  next.focus();
}
