/** The advanced settings: seed, and one field for each setting that the model declares. */

import { make } from "./dom.js";
import { texts } from "./texts.js";

/** @typedef {{name: string, type: "integer" | "number" | "string", default: any, minimum: number | null,
 *   maximum: number | null, description: string}} Setting */

export class Settings {
  /** @type {Map<string, {setting: Setting, input: HTMLInputElement}>} */
  fields = new Map();

  /** @param {{values?: Object<string, string>, seed?: string, random?: boolean}} kept from an earlier visit */
  constructor(container, { values = {}, seed = "0", random = true } = {}) {
    const onchange = () => (this.seedInput.readOnly = this.random.checked);
    this.container = container;
    this.kept = values;
    this.seedInput = make("input", { id: "seed", type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, value: seed });
    this.random = make("input", { type: "checkbox", checked: random, onchange });
    onchange();
    this.declare([]);
  }

  /** Build the fields. @param {Setting[]} declared */
  declare(declared) {
    const values = { ...this.kept, ...this.values() };
    this.fields = new Map(declared.map((setting) => [setting.name, { setting, input: inputOf(setting) }]));
    this.write(values);
    const row = (text, input, ...below) =>
      make("div", { class: "setting" }, make("label", { for: input.id }, text), input, ...below);
    const random = make("label", { class: "check" }, this.random, make("span", {}, texts.randomSeed));
    const reset = make("button", { type: "button", onclick: () => this.write({}) }, texts.resetSettings);
    const fields = [...this.fields.values()].map(({ setting: { name, description }, input }) =>
      row(texts.settings[name] ?? name, input, make("small", { id: `${input.id}-hint` }, description ?? "")));
    this.container.replaceChildren(row(texts.settings.seed, this.seedInput, random), ...fields, reset);
  }

  /** Set fields; those that are not given get their defaults. */
  write(values) {
    for (const [name, { setting, input }] of this.fields) input.value = values[name] ?? setting.default ?? "";
  }

  /** Return the settings that differ from the model's own. */
  changed() {
    const isOwn = ({ setting, input }) => ["", String(setting.default)].includes(input.value.trim());
    const value = ({ setting, input }) => (setting.type === "string" ? input.value : Number(input.value));
    const changed = [...this.fields].filter(([, field]) => !isOwn(field));
    return Object.fromEntries(changed.map(([name, field]) => [name, value(field)]));
  }

  values = () => Object.fromEntries([...this.fields].map(([name, { input }]) => [name, input.value]));
  seed = () => Number(this.seedInput.value || 0);
  keep = () => ({ values: this.values(), seed: this.seedInput.value, random: this.random.checked });

  /** Return the seed of the next edit; a random one is drawn here, and shown. */
  nextSeed() {
    if (this.random.checked) this.seedInput.value = String(crypto.getRandomValues(new Uint32Array(1))[0]);
    return this.seed();
  }

  /** Take the settings of an earlier edit, its seed included. */
  restore({ settings, seed }) {
    this.write(settings);
    this.seedInput.value = String(seed);
    this.random.checked = this.seedInput.readOnly = false;
  }
}

/** @param {Setting} setting */
function inputOf({ name, type, default: own, minimum, maximum }) {
  const properties = { id: `setting-${name}`, "aria-describedby": `setting-${name}-hint` };
  if (type === "string") return make("input", { ...properties, type: "text" });
  const range = { min: minimum ?? undefined, max: maximum ?? undefined, step: type === "integer" ? 1 : "any" };
  return make("input", { ...properties, ...range, type: "number", placeholder: own });
}
