/** The life of one edit on the server: accepted, waited for, painted, canceled. */

import { ApiError, blobOf, sentence } from "./api.js";
import { texts } from "./texts.js";

const LONGEST_WAIT_S = 120;
const LONGEST_PAUSE_S = 8;

/** Send an edit; while the server is busy, count its Retry-After down and try again. `on` hears of it. */
export async function submit(api, form, signal, on) {
  for (;;) {
    try {
      return await api.start(form, signal);
    } catch (error) {
      const busy = [429, 503].includes(error.status) && error.code !== "insufficient_quota";
      if (error.status === 429 && error.retryAfter) error.hint = texts.retryAt(error.retryAfter);
      if (!busy || error.retryAfter > LONGEST_WAIT_S) throw error;
      for (let left = Math.ceil(error.retryAfter ?? 5); left > 0; left--) {
        on.waits(left, error.message);
        await pause(1, signal);
      }
    }
  }
}

/** Follow an edit to its pictures, through lost connections. `on` hears of it. */
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
    if (type === "edit.progress") on.progress(data);
    if (type === "image_edit.partial_image" && !data.output_index) on.partial(data.b64_json);
    if (type === "image_edit.completed") {
      const index = data.output_index ?? pictures.length;
      pictures[index] = { blob: blobOf(data.b64_json, data.output_format), seed: data.seed };
      regions = data.regions ?? regions;
    }
    if (type === "edit.canceled") throw new ApiError(texts.canceled, 499, "canceled");
    if (data.error) throw new ApiError(sentence(data.error?.message), 500);
  }
  return pictures.length ? { pictures: pictures.filter(Boolean), regions } : null;
}

/** Wait; rejects when the signal aborts. */
function pause(seconds, signal) {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
