/** What lies over the picture: the regions that the model read, and the brushed mask. Also reads picture files. */

import { byId, make, refill } from "./dom.js";
import { texts } from "./texts.js";

const NEXT_MARK = { undefined: "pinned", pinned: "excluded", excluded: undefined };
const THUMB_SIDE = 96;

/** Choose the boxes for the next edit: the pinned ones, or all but the excluded; null leaves it to the detector. */
export function boxesToSend(regions, marks) {
  const marked = (mark) => regions.filter((_, index) => marks[index] === mark);
  const chosen = marked("pinned").length ? marked("pinned") : marked("excluded").length ? marked(undefined) : null;
  return chosen?.map(({ box }) => box.map((edge) => Number(edge.toFixed(4)))) ?? null;
}

/** Draw regions as buttons, small ones on top; `turn` gets the index and the mark that follows. */
export function renderBoxes(layer, regions, marks, turn) {
  const area = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
  const button = ({ region, index }) => {
    const percent = Math.round(100 * region.score);
    const name = texts.region(index + 1, percent, marks[index]);
    const properties = { class: `box ${marks[index] ?? ""}`, "data-key": `box ${index}`, "aria-label": name };
    const onclick = () => turn(index, NEXT_MARK[marks[index]]);
    const box = make("button", { ...properties, onclick }, make("span", {}, texts.regionTag(percent, marks[index])));
    const [left, top, right, bottom] = region.box.map((edge) => `${100 * edge}%`);
    Object.assign(box.style, { left, top, width: `calc(${right} - ${left})`, height: `calc(${bottom} - ${top})` });
    return box;
  };
  const numbered = regions.map((region, index) => ({ region, index }));
  refill(layer, numbered.sort((one, other) => area(other.region) - area(one.region)).map(button));
}

/** Turn brushed pixels into the API's mask, in place: transparent where brushed, black elsewhere. */
export function invert(rgba) {
  for (let at = 0; at < rgba.length; at += 4) rgba.set([0, 0, 0, rgba[at + 3] > 127 ? 0 : 255], at);
}

/** The mask of one picture, brushed by mouse, touch or pen, in the picture's own pixels. */
export class MaskLayer {
  constructor(canvas, changed) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.changed = changed;
    canvas.onpointerdown = (event) => this.#begin(event);
    canvas.onpointermove = (event) => this.#draw(event);
    canvas.onpointerup = canvas.onpointercancel = () => this.#end();
  }

  /** Begin with the mask that a picture has. @param {import("./history.js").Node} [node] */
  load({ width, height, mask } = {}) {
    Object.assign(this.canvas, { width, height });
    const loading = (this.ready = mask && createImageBitmap(mask));
    loading?.then((bitmap) => loading === this.ready && this.context.drawImage(bitmap, 0, 0));
  }

  /** Add or erase a rectangle, in percent of the sides. */
  rectangle(left, top, width, height) {
    const [across, down] = [this.canvas.width / 100, this.canvas.height / 100];
    this.#prepare();
    this.context.fillRect(left * across, top * down, width * across, height * down);
    this.changed();
  }

  /** Save what is brushed, opaque; null if nothing is. */
  async blob() {
    if (!new Uint32Array(this.#pixels().data.buffer).some(Boolean)) return null;
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }

  /** Encode the mask for the API, as a PNG of the picture's size. */
  async forServer() {
    await this.ready;
    const pixels = this.#pixels();
    invert(pixels.data);
    const canvas = new OffscreenCanvas(pixels.width, pixels.height);
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas.convertToBlob({ type: "image/png" });
  }

  #pixels = () => this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);

  #prepare() {
    this.context.globalCompositeOperation = byId("erase").checked ? "destination-out" : "source-over";
    Object.assign(this.context, { lineCap: "round", lineJoin: "round", strokeStyle: "#f25c05", fillStyle: "#f25c05" });
    const share = Number(byId("brush").value) / 100; // of the short side
    this.context.lineWidth = Math.max(1, share * Math.min(this.canvas.width, this.canvas.height));
  }

  #at({ clientX, clientY }) {
    const { left, top, width } = this.canvas.getBoundingClientRect();
    return [clientX - left, clientY - top].map((distance) => (distance * this.canvas.width) / width);
  }

  #begin(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#prepare();
    this.last = this.#at(event);
    this.#draw(event);
  }

  #draw(event) {
    if (!this.last) return;
    for (const point of [...event.getCoalescedEvents(), event]) {
      this.context.beginPath();
      this.context.moveTo(...this.last);
      this.last = this.#at(point);
      this.context.lineTo(...this.last);
      this.context.stroke();
    }
  }

  #end() {
    if (this.last) this.changed();
    this.last = null;
  }
}

/** Read the size of a picture file and make its thumbnail, a data URL; null if it is no picture. */
export async function readPicture(blob) {
  const bitmap = await createImageBitmap(blob).catch(() => null);
  if (!bitmap) return null;
  const { width, height } = bitmap;
  const side = Math.min(width, height);
  const canvas = make("canvas", { width: THUMB_SIDE, height: THUMB_SIDE });
  const middle = [(width - side) / 2, (height - side) / 2, side, side];
  canvas.getContext("2d").drawImage(bitmap, ...middle, 0, 0, THUMB_SIDE, THUMB_SIDE);
  bitmap.close();
  return { width, height, thumb: canvas.toDataURL("image/jpeg", 0.85) };
}
