/** Questionnaire in the browser. The server decides which question is next; an answer that is sent twice counts once. */

const TOKEN = location.pathname.split("/").pop();
const OPEN = "open", REMEMBERED = "study-participant";
const byId = (id) => document.getElementById(id);
const form = byId("question");

let shown = null; // question on the screen
let answered = 0, of = 0; // progress of the participant
let since = 0; // when the pictures of the question were there, in ms
let ready = false, busy = false; // pictures are there; a request is on its way

/** Ask the server; throws an Error with a sentence for the participant. */
async function ask(path, body) {
  const post = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body ?? {}) };
  let response;
  try {
    response = await fetch(`../api/${path}`, body === undefined ? {} : post);
  } catch {
    throw new Error("No connection. Nothing is lost: try again in a moment.");
  }
  if (response.ok) return response.json();
  const error = new Error(response.status === 409 ? "This question was answered elsewhere. Reload the page to go on."
    : response.status === 404 ? "This link is not known, or no more participants are needed. Ask for a new link."
      : "The server cannot keep answers at the moment. Try again in a moment.");
  error.status = response.status;
  throw error;
}

/** Do one thing at a time, and show what went wrong. */
async function once(work) {
  if (busy) return;
  busy = true;
  notify("");
  try {
    await work();
  } catch (error) {
    notify(error.message);
  } finally {
    busy = false;
  }
}

function notify(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

function reveal(id) {
  for (const part of ["consent", "question", "done"]) byId(part).hidden = part !== id;
  window.scrollTo(0, 0);
  byId(id).querySelector("h1").focus({ preventScroll: true });
}

/** Show the state that the server answered with. */
function render(state) {
  ({ answered, of } = state);
  for (const count of document.querySelectorAll("[data-count]")) {
    count.textContent = state[count.dataset.count] ?? count.textContent;
  }
  if (state.step === "question") return renderQuestion(state.question);
  shown = null;
  if (state.step === "consent") {
    byId("aspects").replaceChildren(...state.aspects.map((text) => make("li", {}, text)));
    byId("how-open").hidden = TOKEN !== OPEN;
    byId("how-invited").hidden = TOKEN === OPEN;
  }
  reveal(state.step);
}

function renderQuestion(question) {
  shown = question;
  ready = false;
  const past = question.chosen !== null;
  byId("number").textContent = `Question ${question.number} of ${of}`;
  Object.assign(byId("progress"), { max: of, value: answered });
  byId("instruction").textContent = question.instruction;
  byId("back").disabled = question.number === 1;
  byId("hint").textContent = past ? "Answered: it stays as it is." : "Loading the pictures";
  const images = [setImage(byId("source"), question.source, question)];
  byId("choices").replaceChildren(...question.pictures.map((token, place) => {
    const image = setImage(make("img", { alt: `Result ${place + 1}` }), token, question);
    images.push(image);
    const radio = make("input", { type: "radio", name: "choice", value: token, disabled: past });
    radio.checked = token === question.chosen;
    return make("label", { className: "choice" }, make("span", {}, radio, `Result ${place + 1}`), image);
  }));
  reveal("question");
  Promise.all(images.map((image) => image.decode())).then(() => loaded(question), () => failed(question));
}

function loaded(question) {
  if (shown !== question) return;
  ready = true;
  since = performance.now();
  if (question.chosen === null) byId("hint").textContent = "";
  else form.querySelector(".choice:has(:checked)").scrollIntoView({ block: "nearest" });
}

function failed(question) {
  if (shown === question) notify("A picture did not load. Reload the page.");
}

function setImage(image, token, { width, height }) {
  return Object.assign(image, { width, height, src: `../pictures/${token}.png` });
}

function make(name, properties, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Send the answer, or go on from one that was given before. */
async function goOn() {
  if (!shown) return;
  if (shown.chosen !== null) {
    if (shown.number < answered) renderQuestion(await ask(`${TOKEN}/questions/${shown.number + 1}`));
    else render(await ask(TOKEN));
    return;
  }
  const choice = form.querySelector("input:checked");
  if (!ready || !choice) {
    byId("hint").textContent = ready ? "Choose one result first." : "Loading the pictures";
    return;
  }
  const seconds = (performance.now() - since) / 1000;
  render(await ask(`${TOKEN}/answers`, { question: shown.token, picture: choice.value, seconds }));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  once(goOn);
});

byId("back").addEventListener("click", () => once(async () => {
  renderQuestion(await ask(`${TOKEN}/questions/${shown.number - 1}`));
}));

byId("agree").addEventListener("click", () => once(async () => {
  if (TOKEN !== OPEN) return render(await ask(`${TOKEN}/consent`, {}));
  const { token } = await ask(OPEN, {});
  await ask(`${token}/consent`, {});
  localStorage.setItem(REMEMBERED, token);
  location.replace(token);
}));

document.addEventListener("keydown", (event) => {
  if (!shown || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (/^[1-9]$/.test(event.key)) {
    const radio = form.querySelectorAll("input[name=choice]")[Number(event.key) - 1];
    if (!radio || radio.disabled) return;
    radio.checked = true;
    radio.focus({ focusVisible: true });
    radio.closest("label").scrollIntoView({ block: "nearest" });
  } else if (event.key === "Enter" && !event.target.closest("button, input")) {
    once(goOn); // in a radio button, Enter submits the form by itself
  } else if (["ArrowLeft", "ArrowRight"].includes(event.key) && event.target === byId("instruction")) {
    const radio = form.querySelector("input:checked") ?? form.querySelector("input:not(:disabled)");
    if (!radio) return;
    event.preventDefault();
    radio.focus({ focusVisible: true });
    radio.checked = true;
  }
});

/** Start where the participant stopped; the open link goes to the participant that this browser remembers. */
once(async () => {
  const remembered = localStorage.getItem(REMEMBERED);
  if (TOKEN === OPEN && remembered) return location.replace(remembered);
  try {
    render(await ask(TOKEN));
  } catch (error) {
    if (error.status === 404 && TOKEN === remembered) localStorage.removeItem(REMEMBERED);
    throw error;
  }
});
