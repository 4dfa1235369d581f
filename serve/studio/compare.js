/** Before and after: two pictures in one frame, divided by a slider. */

import { byId, show } from "./dom.js";
import { texts } from "./texts.js";

export class Compare {
  constructor() {
    this.figure = byId("picture");
    this.split = byId("split");
    this.split.addEventListener("input", () => this.#move());
    this.#move();
  }

  /** Show the picture before beside the one that is on display, or nothing. */
  show(before, after) {
    show(byId("before"), before?.blob);
    byId("divider").hidden = this.split.hidden = this.figure.querySelector("figcaption").hidden = !before;
    byId("before-title").textContent = before ? texts.before(before.title) : "";
    byId("after-title").textContent = before ? texts.after_(after.title) : "";
    byId("before").alt = before ? texts.before(before.title) : "";
  }

  #move() {
    const percent = Number(this.split.value);
    this.figure.style.setProperty("--split", `${percent}%`);
    this.split.setAttribute("aria-valuetext", texts.splitAt(percent));
  }
}
