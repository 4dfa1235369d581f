/** The page around the Studio: texts, theme, dialogs, keyboard, and pictures that are dropped or pasted. */

import { byId, label, make, save } from "./dom.js";
import { walk } from "./history.js";
import { curl, python } from "./snippets.js";
import { recall, remember } from "./store.js";
import { texts } from "./texts.js";

const THEMES = ["auto", "light", "dark"];

/** Put every text of the page in its place. */
export function showTexts() {
  const parts = (name) => document.querySelectorAll(`[data-${name}]`);
  for (const part of parts("text")) part.textContent = texts[part.dataset.text];
  for (const part of parts("label")) part.setAttribute("aria-label", texts[part.dataset.label]);
  for (const tool of parts("tool")) label(tool, tool.id, ...(texts.button[tool.id] ?? [""]));
  byId("instruction").placeholder = texts.placeholder;
  const shortcuts = Object.entries(texts.shortcuts).map(([keys, what]) => [make("dt", {}, keys), make("dd", {}, what)]);
  byId("shortcuts").replaceChildren(...shortcuts.flat());
}

/** Apply the theme of the last visit, and switch it by its button. */
export function keepTheme() {
  const page = document.documentElement.dataset;
  const apply = (theme) => label(byId("theme"), "theme", texts.theme[(page.theme = theme)]);
  apply(recall("theme") ?? "auto");
  byId("theme").addEventListener("click", () => {
    apply(THEMES[(THEMES.indexOf(page.theme) + 1) % THEMES.length]);
    remember("theme", page.theme);
  });
}

/** Ask for an API key; resolves to true once there is one. */
export async function askKey(studio, reason = "") {
  const [dialog, why, value, keep] = ["key-dialog", "key-reason", "key-value", "key-keep"].map(byId);
  why.textContent = `${reason} ${texts.keyText}`.trim();
  value.value = studio.api.key;
  keep.checked = Boolean(recall("key"));
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "save") return false;
  studio.api.key = value.value.replace(/[^!-~]/g, ""); // what a header may hold
  remember("key", keep.checked ? studio.api.key : "");
  return true;
}

/** Show an edit as code. @param {(() => Promise<Blob>) | null} mask */
export function showCode(request, file, mask) {
  const write = () => {
    const kind = document.querySelector("[name=code-kind]:checked").value;
    byId("code-text").textContent = { curl, python }[kind](request, file);
    byId("code-copy").textContent = texts.copy;
  };
  document.querySelectorAll("[name=code-kind]").forEach((choice) => (choice.onchange = write));
  byId("save-mask").hidden = !mask;
  byId("save-mask").onclick = async () => save(await mask(), "mask.png");
  byId("code-copy").onclick = async () => {
    await navigator.clipboard?.writeText(byId("code-text").textContent);
    getSelection().selectAllChildren(byId("code-text")); // to copy by hand where a page may not
    if (navigator.clipboard) byId("code-copy").textContent = texts.copied;
  };
  write();
  byId("code-dialog").showModal();
}

/** Connect the page's controls to the Studio. */
export function connectPage(studio) {
  const toggles = { compare: "comparing", regions: "showing", mask: "masking", open: "starting", back: "starting" };
  for (const [id, name] of Object.entries(toggles)) byId(id).onclick = () => studio.toggle(name);
  for (const id of ["undo", "reuse", "download", "code", "cancel", "discard"]) byId(id).onclick = () => studio[id]();
  byId("choose").onclick = () => byId("file").click();
  byId("dismiss").onclick = () => studio.view.dismiss();
  byId("key").onclick = async () => (await askKey(studio)) && studio.connect();
  byId("help").onclick = () => byId("help-dialog").showModal();
  byId("clear").onclick = () => studio.clearMask();
  byId("nodes").onkeydown = (event) => walk(byId("nodes"), event);
  const unfold = byId("history-toggle");
  unfold.onclick = () => unfold.setAttribute("aria-expanded", byId("history").classList.toggle("open"));
  connectForms(studio);
  connectKeys();
  connectPictures(studio);
  for (const change of ["online", "offline"]) addEventListener(change, () => studio.connect());
  addEventListener("click", ({ target }) => target.closest("[data-close]")?.closest("dialog").close(""));
}

function connectForms(studio) {
  byId("bar").addEventListener("submit", (event) => (event.preventDefault(), studio.edit()));
  byId("bar").addEventListener("input", () => studio.keepDraft());
  byId("bar").addEventListener("invalid", () => (byId("advanced").open = true), true);
  byId("instruction").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("bar").requestSubmit();
  };
  byId("mask-tools").addEventListener("submit", (event) => {
    event.preventDefault();
    studio.mask.rectangle(...[...new FormData(event.target).values()].map(Number)); // left, top, width, height
  });
}

/** Single keys outside of text fields; the help dialog can switch them off. */
function connectKeys() {
  byId("single-keys").checked = recall("single-keys") ?? true;
  byId("single-keys").addEventListener("change", ({ target }) => remember("single-keys", target.checked));
  const resize = (by) => () => (byId("brush").value = Number(byId("brush").value) + by);
  const press = (id) => () => !byId(id).disabled && byId(id).checkVisibility() && byId(id).click();
  const keys = { "/": () => byId("instruction").focus(), "[": resize(-2), "]": resize(2) };
  const buttons = { u: "undo", c: "compare", r: "regions", m: "mask", e: "reuse", d: "download", n: "open" };
  for (const [key, id] of Object.entries({ ...buttons, x: "cancel", "?": "help" })) keys[key] = press(id);
  for (const key of [1, 2, 3, 4]) keys[key] = () => byId("pick-list").querySelectorAll("button")[key - 1]?.click();
  addEventListener("keydown", (event) => {
    if (event.target.closest("textarea, select, input:is([type=number], [type=text], [type=password]), dialog")) return;
    const held = event.ctrlKey || event.metaKey || event.altKey;
    const single = !held && byId("single-keys").checked && keys[event.key.toLowerCase()];
    const act = held && !event.altKey && event.key === "z" ? keys.u : single;
    if (act) event.preventDefault(), act();
  });
}

/** Take pictures that are chosen, dropped anywhere, pasted, or samples. */
function connectPictures(studio) {
  const plain = (name) => name.replace(/[^\w.-]+/g, "-").slice(-60); // needs no quotes anywhere
  const take = (files) => files?.length && studio.open(files[0], plain(files[0].name));
  byId("file").addEventListener("change", ({ target }) => (take(target.files), (target.value = "")));
  addEventListener("paste", (event) => take(event.clipboardData?.files));
  const dropping = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => (event.preventDefault(), dropping(true)));
  addEventListener("dragleave", (event) => event.relatedTarget || dropping(false));
  addEventListener("drop", (event) => (event.preventDefault(), dropping(false), take(event.dataTransfer.files)));
  const sample = ({ name, title }) => {
    const address = new URL(`samples/${name}.jpg`, import.meta.url);
    const open = async () => studio.open(await (await fetch(address)).blob(), `${name}.jpg`, title, name);
    const image = make("img", { src: address, alt: "", width: 256, height: 256 });
    return make("li", {}, make("button", { type: "button", onclick: open }, image, title));
  };
  byId("samples").replaceChildren(...texts.samples.map(sample));
}
