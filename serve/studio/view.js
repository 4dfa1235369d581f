/** The page as the Studio's state has it: everything is drawn again from the state when that changes. */

import { boxesToSend, renderBoxes } from "./canvas.js";
import { byId, make, refill, show } from "./dom.js";
import { lineage, renderHistory } from "./history.js";
import { texts } from "./texts.js";

export class View {
  said = 0; // when a screen reader was given its last words
  shown = null; // the variations on display

  /** @param {import("./app.js").Studio} studio @param {{instruction: string, n: number}} draft of the last visit */
  constructor(studio, draft) {
    this.studio = studio;
    byId("instruction").value = draft?.instruction ?? "";
    this.renderLimits({}, draft?.n ?? 1);
    byId("split").oninput = ({ target }) => {
      byId("picture").style.setProperty("--split", `${target.value}%`);
      target.setAttribute("aria-valuetext", texts.splitAt(target.value));
    };
  }

  dismiss = () => (byId("notice").hidden = true);
  draft = () => ({ instruction: byId("instruction").value.trim(), n: Number(byId("count").value) });

  /** Write an instruction into the form. */
  write(instruction) {
    byId("instruction").value = instruction;
    byId("instruction").focus();
    this.studio.keepDraft();
  }

  /** Show a message, with an action if there is one. */
  notify(message, action = "", act = null) {
    const [text, button] = byId("notice").children;
    [text.textContent, button.textContent, button.hidden] = [message, action, !act];
    button.onclick = () => (this.dismiss(), act());
    byId("notice").hidden = false;
  }

  /** Have a screen reader say something. */
  say(text) {
    byId("live").textContent = text;
    this.said = Date.now();
  }

  render() {
    const { node, picks, current, starting, model, state } = this.studio;
    const view = !node || starting ? "start" : picks?.job.parent === current ? "picks" : "picture";
    document.querySelectorAll("[data-when]").forEach((part) => (part.hidden = part.dataset.when !== view));
    byId("back").hidden = !node;
    byId("model").textContent = state === "ready" ? model.id : texts.state[state];
    byId("model").dataset.state = state;
    renderHistory(byId("nodes"), this.studio);
    byId("history-empty").hidden = this.studio.nodes.size > 1;
    byId("history-toggle").textContent = texts.historyCount(this.studio.nodes.size);
    if (picks !== this.shown) this.#renderPicks((this.shown = picks));
    if (view === "picture") this.#renderPicture(node);
    byId("mask-tools").hidden = view !== "picture" || !this.studio.masking;
    this.renderRun();
  }

  /** Bound the form by the model's limits. */
  renderLimits(limits, chosen) {
    const most = Math.min(4, limits.max_images ?? 4);
    byId("count").replaceChildren(...[1, 2, 3, 4].slice(0, most).map((count) => make("option", {}, String(count))));
    byId("count").value = String(Math.min(chosen, most));
    byId("instruction").maxLength = limits.max_prompt_chars ?? 10_000;
  }

  #renderPicture(node) {
    const { nodes, other, parent, comparing, showing, masking } = this.studio;
    const before = nodes.get(other) ?? parent;
    const compares = Boolean(before) && comparing && !masking;
    byId("picture").style.setProperty("--ratio", node.width / node.height);
    show(byId("after"), node.blob);
    byId("after").alt = node.title;
    this.#renderCompared(compares ? before : null, node);
    byId("boxes").hidden = !showing || !node.regions.length;
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

  /** Draw the picture before in the same frame, divided from the one after by a slider. */
  #renderCompared(before, after) {
    show(byId("before"), before?.blob);
    for (const part of ["divider", "split", "titles"]) byId(part).hidden = !before;
    if (!before) return;
    byId("before").alt = byId("before-title").textContent = texts.before(before.title);
    byId("after-title").textContent = texts.after(after.title);
  }

  /** Draw what the next edit is limited to, and suggestions for a sample. */
  #renderChips(node) {
    const chip = (text, onclick) => make("button", { type: "button", class: "chip", onclick }, text);
    const boxes = boxesToSend(node.regions, node.marks);
    const regions = boxes && chip(texts.scopeRegions(boxes.length), () => this.studio.limit({ marks: {} }));
    const mask = node.mask && chip(texts.scopeMask, () => this.studio.clearMask());
    refill(byId("scope"), [regions, mask].filter(Boolean));
    const used = lineage(this.studio.nodes, node.id).map(({ title }) => title);
    const all = texts.samples.find(({ name }) => name === node.sample)?.suggestions ?? [];
    const unused = all.filter((text) => !used.includes(text));
    refill(byId("chips"), unused.map((text) => chip(text, () => this.write(text))));
  }

  #renderPicks(picks) {
    byId("pick-list").querySelectorAll("img").forEach((image) => show(image, null));
    const item = (picture, index) => {
      const image = make("img", { alt: texts.pick(index + 1) });
      show(image, picture.blob);
      const onclick = () => this.studio.pick(picks, picture);
      return make("li", {}, make("button", { type: "button", onclick }, image, texts.seed(picture.seed)));
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
    if (byId("live").textContent !== run.text && Date.now() - this.said > 3_000) this.say(run.text);
  }
}
