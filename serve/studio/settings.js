/** The advanced settings: seed, and one field for each setting that the model declares. */

import { make } from "./dom.js";
import { texts } from "./texts.js";

const MAX_SEED = 2 ** 32 - 1;

/** @typedef {{name: string, type: "integer" | "number" | "string", default: any, minimum: number | null,
 *   maximum: number | null, description: string}} Setting */

export class Settings {
  /** @param {{values?: Object<string, string>, seed?: string, random?: boolean}} kept from an earlier visit */
  constructor(container, kept = {}) {
    this.container = container;
    this.seedInput = make("input", { id: "seed", type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, step: 1 });
    this.random = make("input", { id: "random", type: "checkbox", onchange: () => this.#lock() });
    this.seedInput.value = kept.seed ?? "0";
    this.random.checked = kept.random ?? true;
    this.kept = kept.values ?? {};
    this.inputs = new Map();
    this.declare([]);
  }

  /** Build the fields. @param {Setting[]} declared */
  declare(declared) {
    const values = { ...this.kept, ...this.values() };
    this.inputs = new Map(declared.map((setting) => [setting.name, { setting, input: inputOf(setting) }]));
    this.write(values);
    const fields = [...this.inputs.values()].map(({ setting, input }) => field(setting, input));
    const random = make("label", { class: "check" }, this.random, make("span", {}, texts.randomSeed));
    const reset = make("button", { type: "button", onclick: () => this.write({}) }, texts.resetSettings);
    const seed = make("div", { class: "setting" }, make("label", { for: "seed" }, texts.settings.seed), this.seedInput, random);
    this.container.replaceChildren(seed, ...fields, ...(fields.length ? [reset] : []));
    this.#lock();
  }

  /** Return every field's text. */
  values = () => Object.fromEntries([...this.inputs].map(([name, { input }]) => [name, input.value]));

  /** Set fields; those that are not given get their defaults. */
  write(values) {
    for (const [name, { setting, input }] of this.inputs) input.value = values[name] ?? setting.default ?? "";
  }

  /** Return the settings that differ from the model's own. */
  changed() {
    const own = ({ setting, input }) => input.value.trim() === "" || input.value === String(setting.default);
    const value = ({ setting, input }) => (setting.type === "string" ? input.value : Number(input.value));
    return Object.fromEntries([...this.inputs].filter(([, each]) => !own(each)).map(([name, each]) => [name, value(each)]));
  }

  /** Return the seed of the next edit; a random one is drawn here, and shown. */
  nextSeed() {
    if (this.random.checked) this.seedInput.value = String(crypto.getRandomValues(new Uint32Array(1))[0] % MAX_SEED);
    return this.seed();
  }

  seed = () => Number(this.seedInput.value || 0);

  /** Return what to keep for the next visit. */
  keep = () => ({ values: this.values(), seed: this.seedInput.value, random: this.random.checked });

  /** Take the settings of an earlier edit, its seed included. */
  restore({ settings, seed }) {
    this.write(settings);
    this.seedInput.value = String(seed);
    this.random.checked = false;
    this.#lock();
  }

  #lock() {
    this.seedInput.readOnly = this.random.checked;
  }
}

/** @param {Setting} setting */
function inputOf({ name, type, default: own, minimum, maximum }) {
  const id = `setting-${name}`;
  if (type === "string") return make("input", { id, type: "text" });
  const range = { min: minimum ?? undefined, max: maximum ?? undefined, step: type === "integer" ? 1 : "any" };
  return make("input", { id, type: "number", placeholder: own, ...range });
}

function field({ name, description }, input) {
  const hint = make("small", { id: `${input.id}-hint` }, description ?? "");
  input.setAttribute("aria-describedby", hint.id);
  const title = make("label", { for: input.id }, texts.settings[name] ?? name);
  return make("div", { class: "setting" }, title, input, hint);
}
