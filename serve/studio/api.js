/** The HTTP API: requests, errors as sentences, and server-sent events read with fetch, which can send a key. */

import { texts } from "./texts.js";

export const ROOT = new URL("../v1/", import.meta.url);

/** @typedef {{instruction: string, n: number, seed: number, settings: Object<string, number | string>,
 *   boxes: number[][] | null, masked: boolean}} EditRequest */

export class ApiError extends Error {
  /** @param {number} status 0: no answer @param {number | null} retryAfter seconds, if the server says when */
  constructor(message, status = 0, code = null, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export class Api {
  key = "";

  async call(path, options = {}) {
    const headers = this.key ? { Authorization: `Bearer ${this.key}` } : {};
    const response = await fetch(new URL(path, ROOT), { ...options, headers, cache: "no-store" }).catch(unreachable);
    if (!response.ok) throw await errorOf(response);
    return response;
  }

  /** Describe the served model. */
  async model() {
    const listed = await (await this.call("models")).json();
    return (await this.call(`models/${encodeURIComponent(listed.data[0].id)}`)).json();
  }

  /** Start an edit; returns its status object. */
  start = async (form, signal) => (await this.call("edits", { method: "POST", body: form, signal })).json();
  cancel = (id) => this.call(`edits/${encodeURIComponent(id)}`, { method: "DELETE" });

  /** Yield the events of an edit, the present state first. */
  async *events(id, signal) {
    const response = await this.call(`edits/${encodeURIComponent(id)}/events`, { signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ;) {
      const { value, done } = await reader.read().catch(unreachable);
      if (done) return;
      rest += value;
      if (!value.includes("\n")) continue; // within a picture's base64
      const frames = rest.split("\n\n");
      rest = frames.pop();
      for (const event of frames.map(parseFrame)) if (event) yield event;
    }
  }
}

/** Parse one frame of server-sent events; null for a comment. */
export function parseFrame(frame) {
  const lines = frame.split("\n");
  const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
  if (!data.length) return null;
  return { type: lines.find((line) => line.startsWith("event:"))?.slice(6).trim(), data: JSON.parse(data.join("\n")) };
}

/** List the form fields of a request as texts. @param {EditRequest} request */
export function fieldsOf({ instruction, n, seed, settings, boxes }) {
  const fields = { prompt: instruction, seed, ...(n > 1 && { n }), ...settings };
  if (boxes) fields.regions = JSON.stringify(boxes);
  return Object.entries(fields).map(([name, value]) => [name, String(value)]);
}

/** Build the body of an edit. @param {EditRequest} request */
export function formOf(request, picture, name, mask) {
  const form = new FormData();
  const fields = [...fieldsOf(request), ["return_regions", "true"], ["partial_images", "3"]];
  for (const [name, value] of fields) form.append(name, value);
  form.append("image", picture, name);
  if (mask) form.append("mask", mask, "mask.png");
  return form;
}

/** Decode base64 into a blob of an image type. */
export function blobOf(base64, format = "png") {
  return new Blob([Uint8Array.from(atob(base64), (character) => character.charCodeAt(0))], { type: `image/${format}` });
}

/** Make a sentence of an error's message. */
export function sentence(message) {
  const text = String(message ?? "").trim();
  return text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

/** Turn the network's failure into an ApiError; an abort stays one. */
function unreachable(error) {
  throw error.name === "AbortError" ? error : new ApiError(navigator.onLine ? texts.unreachable : texts.offline);
}

async function errorOf(response) {
  const { error } = (await response.json().catch(() => null)) ?? {};
  const message = sentence(error?.message) || texts.status(response.status);
  return new ApiError(message, response.status, error?.code, Number(response.headers.get("retry-after")) || null);
}
