"use strict";
// The page of predictions: order, choice, pages of cards, and one image large. Names enter the page as text only.
const EACH = 100;
const data = JSON.parse(document.getElementById("data").textContent);
const images = data.map(([name, picture, map, score, share, forged, error]) => ({ name, picture, map, score, share, forged, error }));
const part = (id) => document.getElementById(id);
const orders = {
  score: (a, b) => (b.score ?? -1) - (a.score ?? -1),
  low: (a, b) => (a.score ?? 2) - (b.score ?? 2),
  share: (a, b) => (b.share ?? -1) - (a.share ?? -1),
  name: (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
};
const choices = {
  all: () => true,
  forged: (image) => image.forged === true,
  authentic: (image) => image.forged === false,
  errors: (image) => image.error !== null,
};
let chosen = [], start = 0, large = null;

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function about(image) {
  if (image.error !== null) return [element("span", { class: "error" }, image.error)];
  const words = [];
  if (image.score !== null) words.push(`score ${image.score.toFixed(3)}`);
  if (image.share !== null) words.push(`${(100 * image.share).toFixed(1)}% forged`);
  const text = element("span", {}, words.join(", "));
  return image.forged ? [text, element("span", { class: "called" }, " called forged")] : [text];
}

function card(image, place) {
  const shown = image.picture ?? image.map;
  const frame = element("div", { class: "frame" });
  if (shown) frame.append(element("img", { src: shown, alt: image.name, loading: "lazy", decoding: "async" }));
  const caption = element("figcaption", {}, image.name, element("br", {}), ...about(image));
  const made = element("figure", { tabindex: "0", "data-place": String(place) }, frame, caption);
  made.addEventListener("click", () => open(place));
  return made;
}

function show() {
  const end = Math.min(start + EACH, chosen.length);
  part("cards").replaceChildren(...chosen.slice(start, end).map((image, index) => card(image, start + index)));
  part("place").textContent = chosen.length ? `${start + 1} to ${end} of ${chosen.length}` : "no such image";
  part("before").disabled = start === 0;
  part("after").disabled = end >= chosen.length;
}

function choose() {
  const words = part("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const has = choices[part("which").value];
  chosen = images.filter((image) => has(image) && words.every((word) => image.name.toLowerCase().includes(word)));
  chosen.sort(orders[part("order").value]);
  start = 0;
  show();
}

function turn(pages) {
  const to = start + pages * EACH;
  if (to < 0 || to >= chosen.length) return;
  start = to;
  show();
  scrollTo(0, 0);
}

function open(place) {
  if (place < 0 || place >= chosen.length) return;
  large = place;
  const image = chosen[place];
  part("title").replaceChildren(`${place + 1} of ${chosen.length}: ${image.name}: `, ...about(image));
  for (const [id, file] of [["picture", image.picture], ["map", image.map]]) {
    part(`${id}-link`).hidden = !file;
    if (!file) continue;
    part(id).src = file;
    part(id).alt = `${id} of ${image.name}`;
    part(`${id}-link`).href = file;
  }
  if (!part("large").open) part("large").showModal();
}

part("large").addEventListener("close", () => {
  const place = large;
  large = null;
  if (place === null) return;
  if (place < start || place >= start + EACH) {
    start = Math.floor(place / EACH) * EACH;
    show();
  }
  document.querySelector(`[data-place="${place}"]`)?.focus();
});
part("close").addEventListener("click", () => part("large").close());
for (const id of ["order", "which"]) part(id).addEventListener("change", choose);
part("words").addEventListener("input", choose);
part("controls").addEventListener("submit", (event) => event.preventDefault());
part("before").addEventListener("click", () => turn(-1));
part("after").addEventListener("click", () => turn(1));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step) {
    event.preventDefault();
    if (large === null) turn(step);
    else open(large + step);
  } else if (event.key === "Enter" && large === null && event.target.dataset.place) {
    event.preventDefault(); // else the key would press the button that has the focus then
    open(Number(event.target.dataset.place));
  }
});
choose();
