// The list of events, gaps and reconnects, in the order in which they happened.

import { byId, clock, copyChip, el, plural, span } from "./dom.js";
import { member, pretty } from "./json.js";

/** Maximum number of rows; the oldest are removed. */
const MAX_ROWS = 500;

/** Maximum characters of data in all rows: 500 of the largest events would be 128 MB. */
const MAX_CHARS = 8_000_000;

/** Longer data is not formatted. A webhook has some ten thousand characters. */
const PRETTY_CHARS = 64_000;

/** Longer data is folded: 500 unfolded webhooks would be a million elements. */
const OPEN_CHARS = 2_000;
const FOLDED_LINES = 12;

/** At most ten paints per second, so that the page stays usable during a burst of thousands of events. */
const PAINT_MS = 100;

/** @typedef {{render: () => HTMLElement, size: number, isEvent: boolean}} Entry */

const rows = byId("rows");
const scroll = byId("stream");
const jump = byId("jump");
const pauseButton = byId("pause");

/** @type {Entry[]} newest last */ let pending = [];
let newestFirst = true;
let paused = false;
let unseen = 0;
let chars = 0;
let painting = false;

/** @param {import("../realtime.d.ts").RealtimeEvent} event @param {string} format */
export function addEvent(event, format) {
  const received = new Date();
  const raw = format === "cloudevents" ? (member(event.raw, "data") ?? JSON.stringify(event.data) ?? "") : event.raw;
  add({ render: () => eventRow(event, raw, received), size: raw.length, isEvent: true });
}

/**
 * @param {"lost" | "gap" | "refused" | "info"} kind @param {string} title @param {string} [detail]
 * @param {string} [cursor]
 */
export function addNote(kind, title, detail = "", cursor = "") {
  const now = new Date();
  add({
    size: 0,
    isEvent: false,
    render: () => el("li", `row note ${kind}`,
      el("b", "", title),
      el("span", "why", detail),
      cursor === "" ? null : copyChip(cursor, "cursor"),
      time(now)),
  });
}

/** The line between replayed and live events. @param {string} text @param {boolean} recovered */
export function addDivider(text, recovered) {
  const now = new Date();
  add({
    size: 0,
    isEvent: false,
    render: () => el("li", `row divider ${recovered ? "" : "lossy"}`, el("span", "rule"), el("b", "", text), time(now), el("span", "rule")),
  });
}

/** @param {Entry} entry */
function add(entry) {
  pending.push(entry);
  if (pending.length > 2 * MAX_ROWS) pending = pending.slice(-MAX_ROWS); // a hidden or paused page still receives events
  if (!paused) schedule();
  else label();
}

function schedule() {
  if (painting) return;
  painting = true;
  setTimeout(() => requestAnimationFrame(() => {
    painting = false;
    if (!paused) paint();
  }), rows.childElementCount < 20 ? 0 : PAINT_MS);
}

function paint() {
  const entries = pending.slice(-MAX_ROWS);
  pending = [];
  if (entries.length === 0) return;
  const atEdge = newestFirst ? scroll.scrollTop < 8 : scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 24;
  const batch = document.createDocumentFragment();
  for (const entry of newestFirst ? entries.reverse() : entries) {
    const row = entry.render();
    row.dataset.size = String(entry.size);
    chars += entry.size;
    batch.append(row);
  }
  if (newestFirst) rows.prepend(batch);
  else rows.append(batch);
  while (rows.childElementCount > MAX_ROWS || (chars > MAX_CHARS && rows.childElementCount > 1)) {
    const oldest = newestFirst ? rows.lastElementChild : rows.firstElementChild;
    chars -= Number(oldest.dataset.size);
    oldest.remove();
  }
  if (atEdge) toEdge();
  else unseen += entries.filter((entry) => entry.isEvent).length;
  label();
}

function toEdge() {
  unseen = 0;
  scroll.scrollTop = newestFirst ? 0 : scroll.scrollHeight;
}

function label() {
  const held = pending.filter((entry) => entry.isEvent).length;
  byId("empty").hidden = rows.querySelector(".event, .gap, .refused") !== null;
  byId("shown").textContent = rows.childElementCount >= MAX_ROWS ? `last ${MAX_ROWS} rows` : plural(rows.childElementCount, "row");
  jump.hidden = unseen === 0;
  jump.textContent = `${newestFirst ? "↑" : "↓"} ${unseen.toLocaleString()} new`;
  pauseButton.textContent = paused ? `Resume view${held > 0 ? ` (${held > MAX_ROWS ? `${MAX_ROWS}+` : held})` : ""}` : "Pause";
}

/** @param {import("../realtime.d.ts").RealtimeEvent} event @param {string} raw @param {Date} received */
function eventRow(event, raw, received) {
  const dot = el("span", "dot");
  dot.style.setProperty("--hue", String(hue(event.type)));
  const at = event.time === undefined ? received : new Date(event.time);
  const lag = event.time === undefined || event.replayed ? null : el("span", "lag", span(Math.max(0, received.getTime() - at.getTime())));
  return el("li", `row event ${event.replayed ? "replayed" : "live"}`,
    el("div", "meta",
      dot,
      el("b", "type", event.type),
      el("span", "phase", event.replayed ? "replayed" : "live"),
      event.id === undefined ? null : copyChip(event.id, "event id"),
      el("span", "spacer"),
      lag,
      time(at),
      copyChip(event.cursor, "cursor")),
    event.data === undefined && raw !== "" ? el("pre", "data", raw.slice(0, PRETTY_CHARS)) : dataBlock(raw));
}

/** @param {string} raw */
function dataBlock(raw) {
  const block = el("pre", "data");
  if (raw.length > PRETTY_CHARS) {
    block.append(`${raw.slice(0, 1_000)}…`);
    fold(block, `Show all ${plural(raw.length, "character")}`, () => block.append(raw));
    return block;
  }
  const tokens = pretty(raw);
  const breaks = tokens.flatMap(({ kind, text }, index) => (kind === "space" && text !== " " ? [index] : []));
  const isTall = breaks.length > FOLDED_LINES + 2;
  colour(block, isTall ? tokens.slice(0, breaks[FOLDED_LINES - 1]) : tokens);
  if (isTall || raw.length > OPEN_CHARS) {
    const all = isTall ? plural(breaks.length + 1, "line") : plural(raw.length, "character");
    fold(block, `Show all ${all}`, () => colour(block, pretty(raw)));
  }
  return block;
}

/** @param {HTMLElement} block @param {import("./json.js").Token[]} tokens */
function colour(block, tokens) {
  for (const { kind, text } of tokens) block.append(kind === "mark" || kind === "space" ? text : el("span", kind, text));
}

/** @param {HTMLElement} block @param {string} text @param {() => void} fill appends the complete data */
function fold(block, text, fill) {
  block.classList.add("folded");
  block.append(button(text, () => {
    block.classList.remove("folded");
    block.replaceChildren();
    fill();
  }));
}

/** @param {string} text @param {() => void} act */
function button(text, act) {
  const self = /** @type {HTMLButtonElement} */ (el("button", "more", text));
  self.type = "button";
  self.addEventListener("click", act);
  return self;
}

/** @param {Date} date */
function time(date) {
  const valid = !Number.isNaN(date.getTime());
  const element = /** @type {HTMLTimeElement} */ (el("time", "", valid ? clock(date) : "invalid time"));
  if (valid) element.dateTime = element.title = date.toISOString();
  return element;
}

/** The same type has the same colour on every page. @param {string} type */
function hue(type) {
  let hash = 7;
  for (const char of type) hash = (hash * 31 + (char.codePointAt(0) ?? 0)) % 9973;
  return hash % 360;
}

/** @param {boolean} first */
function setOrder(first) {
  if (first === newestFirst) return;
  newestFirst = first;
  byId("order-new").setAttribute("aria-pressed", String(first));
  byId("order-follow").setAttribute("aria-pressed", String(!first));
  byId("list").classList.toggle("follow", !first);
  rows.append(...[...rows.children].reverse());
  toEdge();
  label();
}

/** @param {boolean} withKey */
export function showExample(withKey) {
  const key = withKey ? ' \\\n  -H "Authorization: Bearer $PUBLISH_KEY"' : "";
  byId("curl").textContent = `curl ${location.origin}/api/publish${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '{"type":"task-updated","data":{"id":7}}'`;
}

export function start() {
  showExample(false);
  byId("order-new").addEventListener("click", () => setOrder(true));
  byId("order-follow").addEventListener("click", () => setOrder(false));
  jump.addEventListener("click", () => {
    toEdge();
    label();
  });
  scroll.addEventListener("scroll", () => {
    const atEdge = newestFirst ? scroll.scrollTop < 8 : scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 24;
    if (atEdge && unseen > 0) {
      unseen = 0;
      label();
    }
  }, { passive: true });
  pauseButton.addEventListener("click", () => {
    paused = !paused;
    pauseButton.setAttribute("aria-pressed", String(paused));
    if (!paused) paint();
    label();
  });
  byId("clear").addEventListener("click", () => {
    rows.replaceChildren();
    pending = [];
    chars = unseen = 0;
    label();
  });
  label();
}
