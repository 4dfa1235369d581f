/** The Studio: its state, and what happens to it. view.js draws the page from the state. */

import { Api, formOf } from "./api.js";
import { boxesToSend, MaskLayer, readPicture } from "./canvas.js";
import { byId, save } from "./dom.js";
import { childrenOf, descendants } from "./history.js";
import { follow, submit } from "./jobs.js";
import { askKey, connectPage, keepTheme, showCode, showTexts } from "./page.js";
import { Settings } from "./settings.js";
import { recall, remember, Store } from "./store.js";
import { texts } from "./texts.js";
import { View } from "./view.js";

const TYPES = ["image/png", "image/jpeg", "image/webp"];

export class Studio {
  /** @type {Map<string, import("./history.js").Node>} */
  nodes = new Map();
  current = null; // id of the picture on display
  other = null; // id of the picture compared with it; null: its parent
  starting = false; // choosing a picture
  comparing = true; // with the slider
  showing = false; // regions
  masking = false;
  run = null; // the running edit: {parent, request, id, abort, text, step, steps, partial}
  picks = null; // variations of which none is picked yet: {job, pictures, regions}
  model = null;
  state = "waiting"; // ready, locked, unreachable or offline
  api = new Api();

  /** Begin where the last visit ended. @param {Store} store */
  async begin(store) {
    this.store = store;
    const [draft, job] = ["draft", "job"].map(recall);
    for (const node of (await store.all("nodes")) ?? []) {
      const blob = await store.get("blobs", node.id);
      if (blob) this.nodes.set(node.id, { ...node, blob });
    }
    this.api.key = recall("key") ?? "";
    this.picks = (await store.get("picks", "last")) ?? null;
    this.settings = new Settings(byId("settings"), draft ?? {});
    this.mask = new MaskLayer(byId("mask-layer"), () => this.keepMask());
    this.view = new View(this, draft);
    connectPage(this);
    this.select((this.nodes.get(recall("current")) ?? childrenOf(this.nodes, null).at(-1))?.id ?? null);
    if (!store.database) this.view.notify(texts.notKept);
    await this.connect();
    if (job) this.track(job);
  }

  get node() { return this.nodes.get(this.current); }
  get parent() { return this.nodes.get(this.node?.parent); }

  /** Get to know the served model; tries again until the server answers. */
  async connect() {
    clearTimeout(this.timer);
    try {
      this.model = await this.withKey(() => this.api.model());
      this.state = "ready";
      this.settings.declare(this.model.settings ?? []);
      this.view.renderLimits(this.model.limits ?? {}, this.view.draft().n);
    } catch (error) {
      this.state = error.status === 401 ? "locked" : navigator.onLine ? "unreachable" : "offline";
      if (this.state !== "locked") this.timer = setTimeout(() => this.connect(), 5_000);
    }
    this.view.render();
  }

  /** Call the server; where it asks for a key, ask for one and call again. */
  async withKey(call) {
    return call().catch(async (error) => {
      if (error.status !== 401 || !(await askKey(this, error.message))) throw error;
      return this.withKey(call);
    });
  }

  /** Take a picture as the beginning of a history. */
  async open(blob, name, title = name, sample = null) {
    const { max_image_bytes: bytes, max_image_pixels: pixels } = this.model?.limits ?? {};
    const read = TYPES.includes(blob.type) && (await readPicture(blob));
    if (!read) return this.view.notify(texts.notPicture);
    if (blob.size > bytes) return this.view.notify(texts.tooManyBytes(bytes));
    if (read.width * read.height > pixels) return this.view.notify(texts.tooManyPixels(pixels));
    await this.add({ id: `${Date.now()}-${Math.random()}`, parent: null, title, name, sample, blob, ...read });
    byId("instruction").focus();
  }

  /** Add a picture to the history, and show it once it is kept. */
  async add(node, shown = true) {
    await this.keep({ request: null, regions: [], marks: {}, mask: null, created: Date.now(), ...node }, true);
    if (shown) this.select(node.id);
  }

  /** Put a node into the history, and keep it for the next visit; its picture, which never changes, if it is new. */
  async keep({ blob, ...node }, isNew = false) {
    this.nodes.set(node.id, { ...node, blob });
    await Promise.all([this.#put("nodes", node.id, node), isNew && this.#put("blobs", node.id, blob)]);
  }

  #put = (...value) => this.store.put(...value).catch(() => this.view.notify(texts.notKept));
  keepDraft = () => remember("draft", { ...this.view.draft(), ...this.settings.keep() });

  /** Change what the next edit of a picture is limited to. */
  limit(changes, id = this.current) {
    if (this.nodes.has(id)) this.keep({ ...this.nodes.get(id), ...changes });
    this.view.render();
  }

  /** Keep the mask with the picture that it was brushed on. */
  async keepMask(id = this.current) {
    this.saving = this.mask.blob();
    this.limit({ mask: await this.saving }, id);
  }

  clearMask = () => (this.limit({ mask: null }), this.mask.load(this.node));

  /** Show a picture of the history. */
  select(id) {
    Object.assign(this, { current: id, other: null, starting: false });
    this.mask.load(this.node);
    remember("current", id);
    this.view.render();
    document.querySelector(".node[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  undo = () => this.parent && this.select(this.parent.id);
  download = () => save(this.node.blob, this.node.name);

  compareWith(id) {
    Object.assign(this, { other: this.other === id ? null : id, comparing: true, masking: false });
    this.view.render();
  }

  /** Switch `starting`, `comparing`, `showing` or `masking`. */
  toggle(name) {
    this[name] = !this[name];
    if (name === "comparing") this.masking = false;
    this.view.render();
  }

  /** Delete a picture and all that was made from it; one click restores them. */
  remove(id) {
    const removed = descendants(this.nodes, id);
    for (const { id } of removed) this.nodes.delete(id), this.store.remove("nodes", id), this.store.remove("blobs", id);
    if (!this.nodes.has(this.picks?.job.parent)) this.discard();
    if (!this.node) this.select(removed[0].parent ?? childrenOf(this.nodes, null).at(-1)?.id ?? null);
    const restore = () => (removed.forEach((node) => this.keep(node, true)), this.select(id));
    this.view.notify(texts.removed(removed.length), texts.restore, restore);
    this.view.render();
  }

  /** Return the next edit as the form has it. @returns {import("./api.js").EditRequest} */
  request(seed = this.settings.seed()) {
    const { regions, marks, mask } = this.node;
    const limits = { boxes: boxesToSend(regions, marks), masked: Boolean(mask) };
    return { ...this.view.draft(), seed, settings: this.settings.changed(), ...limits };
  }

  /** Send the edit in the form, and follow it. */
  async edit() {
    await this.saving;
    if (!this.node || this.run) return;
    const { id: parent, blob, name } = this.node;
    const request = this.request(this.settings.nextSeed());
    const form = async () => formOf(request, blob, name, request.masked && (await this.mask.forServer()));
    this.keepDraft();
    this.track({ parent, request }, form());
  }

  /** Send an edit, or take up one that was sent, and follow it to its end. */
  async track(job, form) {
    const abort = new AbortController();
    const run = (this.run = { ...job, abort, text: job.id ? texts.resuming : texts.sending });
    const change = (changes) => (Object.assign(run, changes), this.view.renderRun());
    const on = {
      waits: (seconds, message) => change({ text: texts.waits(seconds, message) }),
      lost: (seconds) => change({ text: texts.lost(seconds) }),
      partial: (base64) => change({ partial: `data:image/png;base64,${base64}` }),
      progress: ({ step, steps, status, queue_position: position }) =>
        change({ step, steps, text: status === "queued" ? texts.queued(position) : texts.step(step, steps) }),
    };
    this.view.dismiss();
    this.view.render();
    try {
      if (!job.id) {
        job.id = run.id = (await this.withKey(async () => submit(this.api, await form, abort.signal, on))).id;
        remember("job", job);
      }
      await this.finish(job, await this.withKey(() => follow(this.api, job.id, abort.signal, on)));
    } catch (error) {
      this.fail(error, job, form);
    } finally {
      this.run = null;
      this.view.render();
    }
  }

  cancel() {
    if (this.run?.id) this.api.cancel(this.run.id).catch((error) => this.view.notify(error.message));
    this.run?.abort.abort();
  }

  /** Tell why an edit ended without a picture, and offer to try again where that may help. */
  fail(error, job, form) {
    const locked = error.status === 401;
    if (!locked) remember("job", null);
    if (error.name === "AbortError") return this.view.say(texts.canceled);
    const passing = form && (error.status === 0 || error.status === 408 || error.status >= 429);
    const act = (locked || passing) && (() => this.track(locked ? job : { ...job, id: undefined }, form));
    const message = [error.message, error.hint].filter(Boolean).join(" ");
    this.view.notify(message, locked ? texts.enterKey : texts.tryAgain, act);
  }

  /** Take the picture of a finished edit into the history, or offer several; once kept, they need no job any more. */
  async finish(job, { pictures, regions }) {
    if (regions.length && !job.request.boxes) this.limit({ regions, marks: {} }, job.parent);
    if (this.view.draft().instruction === job.request.instruction) byId("instruction").value = "";
    this.keepDraft();
    const picks = { job, pictures, regions };
    await (pictures.length === 1 ? this.pick(picks, pictures[0]) : this.offer(picks));
    remember("job", null);
  }

  /** Let one of several pictures be picked. */
  async offer(picks) {
    await this.#put("picks", "last", picks);
    this.picks = picks;
    this.view.render();
    this.view.say(texts.donePicks(picks.pictures.length));
    byId("pick-list").querySelector("button")?.focus();
  }

  /** Take one picture of an edit into the history. */
  async pick({ job, regions }, { blob, seed }) {
    const parent = this.nodes.get(job.parent);
    const request = { ...job.request, n: 1, seed: seed ?? job.request.seed };
    const [id, title] = [`${job.id}-${request.seed}`, request.instruction];
    const name = `fireedit-${request.seed}.${blob.type.split("/")[1]}`;
    const known = { name, request, regions: regions.length ? regions : parent?.regions ?? [], sample: parent?.sample };
    const shown = this.current === job.parent || !parent;
    if (shown) Object.assign(this, { comparing: true, masking: false });
    await this.add({ id, parent: parent?.id ?? null, title, blob, ...known, ...(await readPicture(blob)) }, shown);
    if (this.picks?.job.id === job.id) this.discard();
    if (shown) this.view.say(texts.done(title));
    else this.view.notify(texts.done(title), texts.showIt, () => this.select(id));
  }

  discard() {
    this.picks = null;
    this.store.remove("picks", "last");
    this.view.render();
  }

  /** Go back to what an edit was made from, with its instruction, settings and seed in the form. */
  reuse() {
    const { request } = this.node;
    this.settings.restore(request);
    this.view.write(request.instruction);
    this.undo();
  }

  /** Show the edit in the form as code, or the one that made this picture if the form is empty. */
  code() {
    const { request } = this.node;
    if (request && !this.view.draft().instruction) return showCode(request, this.parent?.name ?? "picture.png");
    const next = this.request();
    showCode(next, this.node.name, next.masked && (() => this.mask.forServer()));
  }
}

showTexts();
keepTheme();
await new Studio().begin(await new Store().open());
