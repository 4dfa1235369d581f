/** Helpers for elements of the page. Foreign text only ever becomes text nodes and attributes. */

const urls = new WeakMap();

export const byId = (id) => document.getElementById(id);

/** Make an element; properties called `on...` become listeners, the others attributes (true: empty, false: none). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== undefined) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Fill a button with an icon and a label that CSS hides where there is no room. */
export function label(button, icon, text, hint = text) {
  const [svg, use] = ["svg", "use"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
  use.setAttribute("href", new URL(`icons.svg#${icon}`, import.meta.url));
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  button.replaceChildren(svg, make("span", {}, text));
  button.setAttribute("aria-label", text);
  button.title = hint;
  return button;
}

/** Show a blob in an <img>, or nothing; the object URL that it showed before is revoked. */
export function show(image, blob) {
  const shown = urls.get(image);
  if (shown?.blob === blob) return;
  if (shown) URL.revokeObjectURL(shown.url);
  const url = blob ? URL.createObjectURL(blob) : "";
  urls.set(image, { blob, url });
  image.hidden = !blob;
  image.src = url;
}

/** Save a blob as a file, byte for byte. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Replace the children of a list, and keep the keyboard's focus on the element with the same data-key. */
export function refill(list, children) {
  const key = list.contains(document.activeElement) && document.activeElement.dataset.key;
  list.replaceChildren(...children);
  if (key) list.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}
