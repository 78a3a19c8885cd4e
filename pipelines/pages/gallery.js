"use strict";
// The gallery of an evaluation: views, filters, order, and one image large. What is shown is in the address
// (#view=worst&kind=splice), so that it can be sent to somebody. Text from the data enters the page as text only.

const { rows, scale, threshold } = JSON.parse(document.getElementById("data").textContent);
const DEFAULTS = { view: "worst", set: "", kind: "", source: "", low: "", high: "", sort: "", q: "", seed: "1", image: "" };
const state = { ...DEFAULTS };
rows.forEach((row, place) => Object.assign(row, { place }));
const look = { opacity: 0.7, threshold };
const cards = document.getElementById("cards");
const dialog = document.querySelector("dialog");
const inView = new Set();
let shown = [];

const VIEWS = {
  worst: { has: (row) => row.f1 !== null, order: (a, b) => a.f1 - b.f1 },
  best: { has: (row) => row.f1 !== null, order: (a, b) => b.f1 - a.f1 },
  random: { has: () => true, order: (a, b) => mixed(a.place) - mixed(b.place) },
  alarms: { has: (row) => row.forged === 0, order: (a, b) => b.called - a.called },
  all: { has: () => true, order: (a, b) => a.place - b.place },
};
const SORTS = {
  "f1": (a, b) => (a.f1 ?? 2) - (b.f1 ?? 2),
  "-f1": (a, b) => (b.f1 ?? -1) - (a.f1 ?? -1),
  "called": (a, b) => (b.called ?? -1) - (a.called ?? -1),
  "score": (a, b) => (b.score ?? -1) - (a.score ?? -1),
  "forged": (a, b) => (b.forged ?? -1) - (a.forged ?? -1),
  "name": (a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0),
};

/** A number that seems drawn at random: the same for the same place and seed. */
function mixed(place) {
  let value = Math.imul(place + 1, 2654435761) ^ Math.imul(Number(state.seed), 40503);
  value = Math.imul(value ^ (value >>> 15), 2246822519);
  return (value ^ (value >>> 13)) >>> 0;
}

/** An element with attributes, and children that are elements or text. */
function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function number(value, digits = 3) {
  return value === null || value === undefined ? "not defined" : value.toFixed(digits);
}

function percent(value) {
  return value === null || value === undefined ? "not defined" : `${(100 * value).toFixed(value < 0.1 ? 2 : 1)}%`;
}

// What is shown, and in which order

function chosen() {
  const view = VIEWS[state.view];
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return rows
    .filter(
      (row) =>
        view.has(row) &&
        ["set", "kind", "source"].every((name) => !state[name] || row[name] === state[name]) &&
        (state.low === "" || (row.f1 !== null && row.f1 >= Number(state.low))) &&
        (state.high === "" || (row.f1 !== null && row.f1 <= Number(state.high))) &&
        words.every((word) => row.key.toLowerCase().includes(word)),
    )
    .sort((a, b) => (Object.hasOwn(SORTS, state.sort) ? SORTS[state.sort] : view.order)(a, b) || a.place - b.place);
}

function render() {
  shown = chosen();
  observer.disconnect();
  inView.clear();
  cards.replaceChildren(...shown.map(card));
  for (const one of cards.children) observer.observe(one);
  document.getElementById("count").textContent = `${shown.length} of ${rows.length} pictures`;
  document.getElementById("none").hidden = shown.length > 0;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", String(button.dataset.view === state.view));
  }
  for (const field of document.querySelectorAll("[data-state]")) {
    if (field.value !== state[field.dataset.state]) field.value = state[field.dataset.state];
  }
}

// Cards. Their pictures are there only while they are in view, or nearly.

function card(row, index) {
  const result = row.f1 === null ? `called forged ${percent(row.called)}` : `F1 ${number(row.f1)}`;
  const caption = element("span", { class: "caption" }, element("b", {}, result), ` ${row.kind} `);
  caption.append(element("span", {}, row.key));
  const pictures = element("span", { class: "pictures" }, frame(row), frame(row), frame(row));
  return element("button", { class: "card", type: "button", "data-index": index }, pictures, caption);
}

function frame(row) {
  const made = element("span", { class: "picture" });
  made.style.aspectRatio = `${row.width} / ${row.height}`;
  return made;
}

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const row = shown[Number(target.dataset.index)];
      const [over, mask, map] = target.querySelectorAll(".picture");
      if (isIntersecting && !inView.has(target)) {
        inView.add(target);
        fill(row, over, mask, map);
      } else if (!isIntersecting) {
        inView.delete(target);
        for (const one of [over, mask, map]) one.replaceChildren();
      }
    }
  },
  { rootMargin: "400px" },
);

/** Put the pictures of a row into their frames: the image under its map, the mask, and the map. */
function fill(row, over, mask, map) {
  over.replaceChildren(picture(row.image, "image"), canvas(row, "over"));
  mask.replaceChildren(picture(row.mask, "mask"));
  map.replaceChildren(canvas(row, "map"));
}

function picture(source, alt) {
  return element("img", { src: source, alt, draggable: "false" });
}

function canvas(row, mode) {
  const made = element("canvas", { "data-mode": mode, role: "img", "aria-label": mode === "over" ? "map over the image" : "map" });
  made.row = row;
  levels(row).then(() => draw(made));
  return made;
}

/** The map of a row as levels of 0 to 255, decoded once. */
function levels(row) {
  row.levels ??= (async () => {
    const image = new Image();
    image.src = row.map;
    await image.decode();
    const board = new OffscreenCanvas(image.naturalWidth, image.naturalHeight).getContext("2d");
    board.drawImage(image, 0, 0);
    const { width, height, data } = board.getImageData(0, 0, image.naturalWidth, image.naturalHeight);
    row.decoded = { width, height, level: data.filter((_, index) => index % 4 === 0) };
  })();
  return row.levels;
}

const COLOURS = Array.from({ length: 256 }, (_, level) => {
  const at = (level / 255) * (scale.length - 1);
  const below = Math.min(Math.floor(at), scale.length - 2);
  return [0, 1, 2].map((c) => Math.round(scale[below][c] + (at - below) * (scale[below + 1][c] - scale[below][c])));
});
const FORGED = [213, 63, 111]; // the colour of forged pixels in all pictures
const CLEAR = 0.1; // up to this probability the image shows as it is

/** Draw a map: in its colours; or over its image, transparent where it is low, with a contour at the threshold. */
function draw(board) {
  const { width, height, level } = board.row.decoded;
  const drawn = new ImageData(width, height);
  const paint = (at, colour, alpha) => drawn.data.set([...colour, alpha], 4 * at);
  if (board.dataset.mode === "map") {
    for (let at = 0; at < level.length; at += 1) paint(at, COLOURS[level[at]], 255);
  } else {
    const limit = look.threshold * 255;
    for (let at = 0; at < level.length; at += 1) {
      const high = level[at] > limit;
      if (isBorder(level, width, at, limit)) paint(at, high ? [255, 255, 255] : [20, 20, 20], 255);
      else paint(at, FORGED, (255 * look.opacity * Math.max(0, level[at] / 255 - CLEAR)) / (1 - CLEAR));
    }
  }
  [board.width, board.height] = [width, height];
  board.getContext("2d").putImageData(drawn, 0, 0);
}

/** Whether a pixel has a neighbour on the other side of the limit. */
function isBorder(level, width, at, limit) {
  const x = at % width;
  const other = (near) => near >= 0 && near < level.length && level[near] > limit !== level[at] > limit;
  return (x > 0 && other(at - 1)) || (x < width - 1 && other(at + 1)) || other(at - width) || other(at + width);
}

function redraw() {
  for (const board of document.querySelectorAll("canvas")) if (board.row.decoded) draw(board);
  for (const field of document.querySelectorAll("[data-look]")) field.value = look[field.dataset.look];
  for (const text of document.querySelectorAll("[data-value]")) text.textContent = look[text.dataset.value].toFixed(2);
}

// One image, large

function open(row) {
  const [over, mask, map, image] = ["image under its map", "mask", "map", "image"].map((title) => {
    const inner = frame(row);
    return { inner, figure: element("figure", {}, inner, element("figcaption", {}, title)) };
  });
  fill(row, over.inner, mask.inner, map.inner);
  image.inner.replaceChildren(picture(row.image, "image"));
  dialog.querySelector(".large").replaceChildren(...[over, image, mask, map].map((one) => one.figure));
  dialog.querySelector("h3").textContent = row.key;
  dialog.querySelector(".facts").replaceChildren(
    ...Object.entries(facts(row)).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
  if (!dialog.open) dialog.showModal();
}

function facts(row) {
  const known = { kind: row.kind, source: row.source, size: `${row.height} x ${row.width}` };
  if (row.set) known.set = row.set;
  if (row.quality !== null) known["JPEG quality"] = String(row.quality);
  if (row.f1 !== null) {
    known.F1 = number(row.f1);
    known.IoU = number(row.iou);
    if (row.best_f1 !== null) known["best-threshold F1"] = `${number(row.best_f1)} at ${number(row.best_threshold, 2)}`;
    for (const [name, value] of Object.entries(row.baselines)) known[`F1 of ${name}`] = number(value);
    known["forged area"] = percent(row.forged);
  }
  known["called forged"] = percent(row.called);
  if (row.score !== null) known["image score"] = number(row.score);
  for (const [name, value] of Object.entries(row.degraded)) known[`F1 under ${name}`] = number(value);
  return known;
}

/** The next image in the large view, `by` places on; it stays at the ends. */
function step(by) {
  const at = shown.findIndex((row) => row.id === state.image);
  const next = shown[Math.min(Math.max(at + by, 0), shown.length - 1)];
  if (next) set({ image: next.id });
}

// State, and the address

function set(changes) {
  const before = { ...state };
  Object.assign(state, changes);
  const words = new URLSearchParams(Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]));
  history.replaceState(null, "", `#${words}`);
  show(before);
}

function show(before) {
  if (!before || Object.keys(state).some((name) => name !== "image" && state[name] !== before[name])) render();
  const row = rows.find((one) => one.id === state.image);
  if (row) open(row);
  else if (dialog.open) dialog.close();
}

function readAddress() {
  const words = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  Object.assign(state, DEFAULTS, words);
  if (!Object.hasOwn(VIEWS, state.view)) state.view = DEFAULTS.view;
  if (!words.view && !rows.some(VIEWS[state.view].has)) state.view = "all"; // no forged image
  show(null);
  if ("view" in words || state.image) document.getElementById("gallery").scrollIntoView();
}

// What people do

for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => {
    const again = button.dataset.view === "random" && state.view === "random";
    set({ view: button.dataset.view, sort: "", seed: again ? String(Number(state.seed) + 1) : DEFAULTS.seed });
  });
}
for (const field of document.querySelectorAll("[data-state]")) {
  field.addEventListener("input", () => set({ [field.dataset.state]: field.value }));
}
for (const field of document.querySelectorAll("[data-look]")) {
  field.addEventListener("input", () => {
    look[field.dataset.look] = Number(field.value);
    redraw();
  });
}
document.getElementById("reset").addEventListener("click", () => set({ ...DEFAULTS, view: state.view }));
cards.addEventListener("click", (event) => {
  const one = event.target.closest(".card");
  if (one) set({ image: shown[Number(one.dataset.index)].id });
});
for (const button of dialog.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => step(Number(button.dataset.step)));
}
dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  const at = shown.findIndex((row) => row.id === state.image);
  set({ image: "" });
  cards.children[at]?.focus();
});
window.addEventListener("hashchange", readAddress);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const search = document.querySelector("input[type=search]");
  const typing = event.target.matches("input, select");
  if (event.key === "/" && !typing && !dialog.open) {
    search.focus();
    search.select();
    event.preventDefault();
  } else if (event.key === "Escape" && event.target === search) {
    set({ q: "" });
    search.blur();
  } else if (dialog.open && !typing && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    step(event.key === "ArrowRight" ? 1 : -1);
    event.preventDefault();
  } else if (!dialog.open && event.target.classList.contains("card") && event.key.startsWith("Arrow")) {
    move(event.target, event.key);
    event.preventDefault();
  }
});

/** Move the focus from a card to the next one in the direction of an arrow. */
function move(from, key) {
  const all = [...cards.children];
  const columns = all.filter((one) => one.offsetTop === all[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  all[all.indexOf(from) + by]?.focus();
}

document.querySelector(".scale i").style.background = `linear-gradient(90deg, ${scale.map((c) => `rgb(${c})`).join(",")})`;
redraw();
readAddress();
