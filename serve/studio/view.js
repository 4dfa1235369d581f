/** The page as the Studio's state has it: everything is drawn again from the state when that changes. */

import { boxesToSend, renderBoxes } from "./canvas.js";
import { Compare } from "./compare.js";
import { byId, make, refill, show } from "./dom.js";
import { lineage, renderHistory } from "./history.js";
import { texts } from "./texts.js";

const MOST_VARIATIONS = 4;
const SAY_EVERY_MS = 3_000;

export class View {
  /** @param {import("./app.js").Studio} studio @param {{instruction: string, n: number}} draft of the last visit */
  constructor(studio, draft) {
    this.studio = studio;
    this.compare = new Compare();
    this.said = 0;
    this.shown = null;
    byId("instruction").value = draft?.instruction ?? "";
    this.#renderLimits({}, draft?.n ?? 1);
  }

  /** Return what the form has. */
  draft = () => ({ instruction: byId("instruction").value.trim(), n: Number(byId("count").value) });

  /** Write an instruction into the form. */
  write(instruction) {
    byId("instruction").value = instruction;
    byId("instruction").focus();
    this.studio.keepDraft();
  }

  /** Empty the form, unless it has another instruction by now. */
  clear(instruction) {
    if (this.draft().instruction === instruction) byId("instruction").value = "";
  }

  /** Show a message, with an action if there is one. */
  notify(message, action = "", act = null) {
    const [text, button] = byId("notice").children;
    text.textContent = message;
    button.textContent = action;
    button.hidden = !act;
    button.onclick = () => (this.dismiss(), act());
    byId("notice").hidden = false;
  }

  dismiss() {
    byId("notice").hidden = true;
  }

  /** Have a screen reader say something. */
  say(text) {
    byId("live").textContent = text;
    this.said = Date.now();
  }

  offerPicks(count) {
    this.say(texts.donePicks(count));
    byId("pick-list").querySelector("button")?.focus();
  }

  render() {
    const { node, picks, current, starting, model, state } = this.studio;
    const view = !node || starting ? "start" : picks?.job.parent === current ? "picks" : "picture";
    document.querySelectorAll("[data-when]").forEach((part) => (part.hidden = part.dataset.when !== view));
    byId("back").hidden = !node;
    byId("model").textContent = state === "ready" ? model.id : texts.state[state];
    byId("model").dataset.state = state;
    if (model) this.#renderLimits(model.limits ?? {}, this.draft().n);
    this.#renderHistory();
    this.#renderPicks(picks);
    if (view === "picture") this.#renderPicture(node);
    byId("mask-tools").hidden = view !== "picture" || !this.studio.masking;
    this.renderRun();
  }

  #renderLimits(limits, chosen) {
    const most = Math.min(MOST_VARIATIONS, limits.max_images ?? MOST_VARIATIONS);
    const options = Array.from({ length: most }, (_, index) => make("option", {}, String(index + 1)));
    byId("count").replaceChildren(...options);
    byId("count").value = String(Math.min(chosen, most));
    byId("instruction").maxLength = limits.max_prompt_chars ?? 10_000;
  }

  #renderPicture(node) {
    const { nodes, other, parent, comparing, showsRegions, masking } = this.studio;
    const before = nodes.get(other) ?? parent;
    const compares = Boolean(before) && comparing && !masking;
    byId("picture").style.setProperty("--ratio", node.width / node.height);
    show(byId("after"), node.blob);
    byId("after").alt = node.title;
    this.compare.show(compares ? before : null, node);
    byId("boxes").hidden = !showsRegions || !node.regions.length;
    const mark = (index, next) => this.studio.limit({ marks: { ...node.marks, [index]: next } });
    renderBoxes(byId("boxes"), node.regions, node.marks, mark);
    byId("mask-layer").hidden = !masking && !node.mask;
    byId("mask-layer").classList.toggle("active", masking);
    const pressed = { compare: compares, regions: !byId("boxes").hidden, mask: masking };
    for (const [id, on] of Object.entries(pressed)) byId(id).setAttribute("aria-pressed", on);
    byId("undo").disabled = byId("reuse").disabled = !parent;
    byId("compare").disabled = !before;
    byId("regions").disabled = !node.regions.length;
    byId("regions").title = node.regions.length ? texts.button.regions[1] : texts.noRegions;
    this.#renderChips(node);
  }

  /** Draw what the next edit is limited to, and suggestions for a sample. */
  #renderChips(node) {
    const chip = (text, onclick) => make("button", { type: "button", class: "chip", onclick }, text);
    const boxes = boxesToSend(node.regions, node.marks);
    const scope = [];
    if (boxes) scope.push(chip(texts.scopeRegions(boxes.length), () => this.studio.limit({ marks: {} })));
    if (node.mask) scope.push(chip(texts.scopeMask, () => this.studio.clearMask()));
    refill(byId("scope"), scope);
    const used = lineage(this.studio.nodes, node.id).map(({ title }) => title);
    const all = texts.samples.find(({ name }) => name === node.sample)?.suggestions ?? [];
    const unused = all.filter((text) => !used.includes(text));
    refill(byId("chips"), unused.map((text) => chip(text, () => this.write(text))));
  }

  #renderHistory() {
    const { studio } = this;
    const select = (id) => studio.select(id);
    const actions = { select, compare: (id) => studio.compareWith(id), remove: (id) => studio.remove(id) };
    renderHistory(byId("nodes"), studio.nodes, studio.current, studio.other, actions);
    byId("history-empty").hidden = studio.nodes.size > 1;
    byId("history-toggle").textContent = texts.historyCount(studio.nodes.size);
  }

  #renderPicks(picks) {
    if (picks === this.shown) return;
    this.shown = picks;
    byId("pick-list").querySelectorAll("img").forEach((image) => show(image, null));
    const item = (picture, index) => {
      const image = make("img", { alt: texts.pick(index + 1, picture.seed) });
      show(image, picture.blob);
      const caption = make("span", { "aria-hidden": "true" }, texts.seed(picture.seed));
      const onclick = () => this.studio.pick(picks, picture);
      return make("li", {}, make("button", { type: "button", onclick }, image, caption));
    };
    byId("pick-list").replaceChildren(...(picks?.pictures ?? []).map(item));
  }

  /** Draw the running edit: its state in words, its bar, and its picture so far. */
  renderRun() {
    const { run, current } = this.studio;
    const partial = run?.parent === current && run?.partial;
    byId("progress").hidden = !run;
    byId("edit").textContent = run ? texts.editing : texts.edit;
    byId("edit").setAttribute("aria-disabled", Boolean(run));
    byId("partial").hidden = !partial;
    byId("picture").classList.toggle("painting", run?.parent === current);
    if (partial) byId("partial").src = partial;
    if (!run) return;
    byId("progress-text").textContent = run.text;
    if (run.step) Object.assign(byId("progress-bar"), { max: run.steps, value: run.step });
    else byId("progress-bar").removeAttribute("value");
    if (byId("live").textContent !== run.text && Date.now() - this.said > SAY_EVERY_MS) this.say(run.text);
  }
}
