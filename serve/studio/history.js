/** The history: a forest of pictures, each edit a child of the picture that it edited. */

import { label, make, refill } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {{id: string, parent: string | null, created: number, title: string, name: string, sample: string | null,
 *   blob: Blob, thumb: string, width: number, height: number, request: import("./api.js").EditRequest | null,
 *   regions: {box: number[], score: number}[], marks: Object<number, "pinned" | "excluded">, mask: Blob | null}} Node
 * `request` made the picture; `regions`, `marks` and `mask` are of the next edit of it. */

/** List a node's children, oldest first; those of null are the pictures that the history began with. */
export function childrenOf(nodes, id) {
  return [...nodes.values()].filter((node) => node.parent === id).sort((one, other) => one.created - other.created);
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

/** Draw the list.
 * @param {{select: (id: string) => void, compare: (id: string) => void, remove: (id: string) => void}} actions */
export function renderHistory(list, nodes, current, other, actions) {
  const row = ({ node, depth }) => {
    const details = make("span", { class: "details" }, make("b", {}, node.title), make("small", {}, describe(node)));
    const select = make(
      "button",
      { type: "button", class: "node", "data-key": node.id, title: node.title, onclick: () => actions.select(node.id) },
      make("img", { src: node.thumb, alt: "", width: 48, height: 48 }),
      details,
    );
    if (node.id === current) select.setAttribute("aria-current", "true");
    const tool = (name, pressed) => {
      const properties = { type: "button", class: "quiet", "data-key": `${name} ${node.id}` };
      const button = make("button", { ...properties, onclick: () => actions[name](node.id) });
      if (pressed !== undefined) button.setAttribute("aria-pressed", pressed);
      return label(button, name === "remove" ? "delete" : name, texts.history[name](node.title));
    };
    const tools = node.id === current ? [] : [tool("compare", node.id === other)];
    const item = make("li", {}, select, ...tools, tool("remove"));
    item.style.setProperty("--depth", Math.min(depth, 6));
    return item;
  };
  refill(list, rows(nodes).map(row));
}

/** Move the focus through the pictures of the list by the arrow keys. */
export function walk(list, event) {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  const buttons = [...list.querySelectorAll(".node")];
  const next = buttons[buttons.indexOf(event.target) + step];
  if (step && next && buttons.includes(event.target)) {
    event.preventDefault();
    next.focus();
  }
}
