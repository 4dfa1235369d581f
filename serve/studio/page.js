/** The page around the Studio: texts, theme, dialogs, keyboard, and pictures that are dropped or pasted. */

import { byId, label, make, save } from "./dom.js";
import { walk } from "./history.js";
import { curl, python } from "./snippets.js";
import { texts } from "./texts.js";

const THEMES = ["auto", "light", "dark"];

/** Put every text of the page in its place. */
export function showTexts() {
  document.querySelectorAll("[data-text]").forEach((part) => (part.textContent = texts[part.dataset.text]));
  document.querySelectorAll("[data-label]").forEach((part) => part.setAttribute("aria-label", texts[part.dataset.label]));
  document.querySelectorAll("[data-tool]").forEach((tool) => label(tool, tool.id, ...(texts.button[tool.id] ?? [""])));
  byId("instruction").placeholder = texts.placeholder;
  const shortcuts = Object.entries(texts.shortcuts).map(([keys, what]) => [make("dt", {}, keys), make("dd", {}, what)]);
  byId("shortcuts").replaceChildren(...shortcuts.flat());
}

/** Apply the theme of the last visit, and switch it by its button. @param {import("./store.js").Store} store */
export async function keepTheme(store) {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    label(byId("theme"), "theme", texts.theme[theme]);
  };
  apply((await store.get("values", "theme")) ?? "auto");
  byId("theme").addEventListener("click", () => {
    const theme = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    store.put("values", "theme", theme);
    apply(theme);
  });
}

/** Ask for an API key; resolves to true once there is one. */
export async function askKey(studio, reason = "") {
  const [dialog, value, keep] = ["key-dialog", "key-value", "key-keep"].map(byId);
  byId("key-reason").textContent = `${reason} ${texts.keyText}`.trim();
  value.value = studio.api.key;
  keep.checked = Boolean(await studio.store.get("values", "key"));
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  if (dialog.returnValue !== "save") return false;
  studio.api.key = value.value.trim();
  studio.keepValue("key", keep.checked ? studio.api.key : "");
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
  const acts = {
    undo: () => studio.undo(),
    compare: () => studio.toggle("comparing"),
    regions: () => studio.toggle("showsRegions"),
    mask: () => studio.toggle("masking"),
    reuse: () => studio.reuse(),
    download: () => studio.download(),
    code: () => studio.code(),
    open: () => studio.toggle("starting"),
    back: () => studio.toggle("starting"),
    choose: () => byId("file").click(),
    cancel: () => studio.cancel(),
    discard: () => studio.discard(),
    dismiss: () => studio.dismiss(),
    key: async () => (await askKey(studio)) && studio.connect(),
    help: () => byId("help-dialog").showModal(),
    "mask-clear": () => studio.clearMask(),
  };
  for (const [id, act] of Object.entries(acts)) byId(id).addEventListener("click", act);
  connectForms(studio);
  connectKeys(studio.store, acts);
  connectPictures(studio);
  byId("nodes").addEventListener("keydown", (event) => walk(byId("nodes"), event));
  byId("history-toggle").addEventListener("click", () => {
    byId("history-toggle").setAttribute("aria-expanded", byId("history").classList.toggle("open"));
  });
  for (const change of ["online", "offline"]) addEventListener(change, () => studio.connect());
  for (const close of document.querySelectorAll("[data-close]")) close.onclick = () => close.closest("dialog").close("");
}

function connectForms(studio) {
  byId("bar").addEventListener("submit", (event) => (event.preventDefault(), studio.edit()));
  byId("bar").addEventListener("input", () => studio.keepDraft());
  byId("bar").addEventListener("invalid", () => (byId("advanced").open = true), true);
  byId("instruction").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    byId("bar").requestSubmit();
  });
  byId("mask-tools").addEventListener("submit", (event) => {
    event.preventDefault();
    studio.mask.rectangle(...["rect-x", "rect-y", "rect-w", "rect-h"].map((id) => Number(byId(id).value)));
  });
}

/** Single keys outside of text fields; the help dialog can switch them off. */
async function connectKeys(store, acts) {
  byId("single-keys").checked = (await store.get("values", "single-keys")) ?? true;
  byId("single-keys").addEventListener("change", ({ target }) => store.put("values", "single-keys", target.checked));
  const resize = (by) => () => (byId("brush").value = Number(byId("brush").value) + by);
  const press = (id) => () => !byId(id).disabled && byId(id).checkVisibility() && byId(id).click();
  const keys = { "?": acts.help, "/": () => byId("instruction").focus(), "[": resize(-2), "]": resize(2), n: press("open") };
  const tools = { u: "undo", c: "compare", r: "regions", m: "mask", e: "reuse", d: "download", x: "cancel" };
  for (const [key, id] of Object.entries(tools)) keys[key] = press(id);
  for (const number of [1, 2, 3, 4]) keys[number] = () => byId("pick-list").querySelectorAll("button")[number - 1]?.click();
  addEventListener("keydown", (event) => {
    const typing = event.target.closest("textarea, select, input:not([type=range], [type=checkbox], [type=radio]), dialog");
    const undoes = (event.ctrlKey || event.metaKey) && event.key === "z";
    if (typing || (event.ctrlKey || event.metaKey || event.altKey) !== undoes) return;
    const act = undoes ? keys.u : byId("single-keys").checked && keys[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  });
}

/** Take pictures that are chosen, dropped anywhere, pasted, or samples. */
function connectPictures(studio) {
  const take = (files) => files?.length && studio.open(files[0], safeName(files[0].name));
  byId("file").addEventListener("change", ({ target }) => (take(target.files), (target.value = "")));
  addEventListener("paste", (event) => take(event.clipboardData?.files));
  addEventListener("dragover", (event) => (event.preventDefault(), document.body.classList.add("dropping")));
  addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    take(event.dataTransfer.files);
  });
  const sample = ({ name, title }) => {
    const address = new URL(`samples/${name}.jpg`, import.meta.url);
    const open = async () => studio.open(await (await fetch(address)).blob(), `${name}.jpg`, title, name);
    const image = make("img", { src: address, alt: "", width: 256, height: 256 });
    return make("li", {}, make("button", { type: "button", onclick: open }, image, title));
  };
  byId("samples").replaceChildren(...texts.samples.map(sample));
}

/** Make a file name that needs no quotes anywhere. */
const safeName = (name) => name.replace(/[^\w.-]+/g, "-").slice(-60) || "picture";
