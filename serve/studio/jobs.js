/** The life of one edit on the server: accepted, waited for, painted, canceled. */

import { ApiError, blobOf, sentence } from "./api.js";
import { texts } from "./texts.js";

const LONGEST_WAIT_S = 120;
const LONGEST_PAUSE_S = 8;

/** @typedef {{waits: (seconds: number, message: string) => void, progress: (status: object) => void,
 *   partial: (base64: string) => void, lost: (seconds: number) => void}} Listener */

/** Send an edit; while the server is busy, count its Retry-After down and try again. @param {Listener} on */
export async function submit(api, form, signal, on) {
  for (;;) {
    try {
      return await api.start(form, signal);
    } catch (error) {
      const busy = [429, 503].includes(error.status) && error.code !== "insufficient_quota";
      if (!busy || error.retryAfter > LONGEST_WAIT_S) throw withTime(error);
      for (let left = Math.ceil(error.retryAfter ?? 5); left > 0; left--) {
        on.waits(left, error.message);
        await pause(1, signal);
      }
    }
  }
}

/** Follow an edit to its pictures, through lost connections. @param {Listener} on */
export async function follow(api, id, signal, on) {
  for (let wait = 1; ; wait = Math.min(2 * wait, LONGEST_PAUSE_S)) {
    try {
      const result = await read(api.events(id, signal), on, () => (wait = 1));
      if (result) return result;
    } catch (error) {
      const passes = error instanceof ApiError && (error.status === 0 || [429, 502, 503, 504].includes(error.status));
      if (!passes) throw error;
      wait = Math.max(wait, Math.min(error.retryAfter ?? 1, LONGEST_PAUSE_S));
    }
    on.lost(wait);
    await pause(wait, signal);
  }
}

/** Read events to their end; null if they ended before the edit did. */
async function read(events, on, alive) {
  const pictures = [];
  let regions = [];
  for await (const { type, data } of events) {
    alive();
    if (type === "edit.progress") {
      if (data.error) throw new ApiError(sentence(data.error.message), 500);
      on.progress(data);
    }
    if (type === "image_edit.partial_image" && !data.output_index) on.partial(data.b64_json);
    if (type === "image_edit.completed") {
      const index = data.output_index ?? pictures.length;
      pictures[index] = { blob: blobOf(data.b64_json, data.output_format), seed: data.seed };
      regions = data.regions ?? regions;
    }
    if (type === "edit.canceled") throw new ApiError(texts.canceled, 499, "canceled");
    if (type === "error") throw new ApiError(sentence(data.error?.message) || texts.status(500), 500);
  }
  return pictures.length ? { pictures: pictures.filter(Boolean), regions } : null;
}

/** Say when to try again, for a wait too long to sit through. */
function withTime(error) {
  if (error.status === 429 && error.retryAfter) error.message += ` ${texts.after(error.retryAfter)}`;
  return error;
}

/** Wait; rejects when the signal aborts. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => (clearTimeout(timer), reject(signal.reason));
    const timer = setTimeout(() => (signal.removeEventListener("abort", stop), resolve()), 1000 * seconds);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
  });
}
