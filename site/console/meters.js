// The counters, and the rate and lag of the last minute.

import { byId, span } from "./dom.js";

/** Points of a sparkline, one per second. */
const SECONDS = 60;
const WIDTH = 120;
const HEIGHT = 28;
/** Minimum of the vertical scale: noise must not look like a peak. */
const MIN_TOP_RATE = 4;
const MIN_TOP_LAG_MS = 40;

const counts = { events: 0, reconnects: 0, gaps: 0 };
/** Events per second, the current second is the last element. */
const perSecond = new Array(SECONDS).fill(0);
/** Maximum lag of each second, in milliseconds. */
const maxLag = new Array(SECONDS).fill(0);
let second = Math.floor(Date.now() / 1000);
let changed = true;
/** Lags of the last nine events. Their median does not jump with one slow event. @type {number[]} */
let lags = [];

/** @param {"events" | "reconnects" | "gaps"} name */
export function count(name) {
  counts[name] += 1;
  changed = true;
  if (name === "events") {
    roll();
    perSecond[SECONDS - 1] += 1;
  }
}

/** Measures a live event's lag. The two clocks differ, so a negative lag counts as 0. @param {string} time */
export function measure(time) {
  const lag = Date.now() - Date.parse(time);
  if (!Number.isFinite(lag)) return;
  roll();
  lags = [...lags.slice(-8), Math.max(0, lag)];
  maxLag[SECONDS - 1] = Math.max(maxLag[SECONDS - 1], lag);
}

export function reset() {
  counts.events = counts.reconnects = counts.gaps = 0;
  perSecond.fill(0);
  maxLag.fill(0);
  lags = [];
  changed = true;
}

function roll() {
  const now = Math.floor(Date.now() / 1000);
  const passed = Math.min(SECONDS, now - second);
  if (passed <= 0) return;
  second = now;
  for (const values of [perSecond, maxLag]) {
    values.splice(0, passed);
    values.push(...new Array(passed).fill(0));
  }
  changed = true;
}

/** Draws at most four times per second. */
export function start() {
  const draw = () => {
    roll();
    if (!changed || document.hidden) return;
    changed = false;
    byId("count-events").textContent = counts.events.toLocaleString();
    byId("count-reconnects").textContent = counts.reconnects.toLocaleString();
    byId("count-gaps").textContent = counts.gaps.toLocaleString();
    byId("count-gaps").classList.toggle("alarm", counts.gaps > 0);
    const recent = perSecond.slice(-6, -1); // whole seconds only: the current one is incomplete
    byId("rate").textContent = formatRate(recent.reduce((sum, n) => sum + n, 0) / recent.length);
    byId("lag").textContent = lags.length === 0 ? "–" : span([...lags].sort((a, b) => a - b)[lags.length >> 1]);
    plot("rate-spark", perSecond, MIN_TOP_RATE);
    plot("lag-spark", maxLag, MIN_TOP_LAG_MS);
  };
  draw();
  setInterval(draw, 250);
}

/** @param {string} id @param {number[]} values @param {number} minTop */
function plot(id, values, minTop) {
  const [area, line] = byId(id).querySelectorAll("path");
  const top = Math.max(minTop, ...values);
  const step = WIDTH / (SECONDS - 1);
  const points = values.map((n, i) => `${(i * step).toFixed(1)} ${(HEIGHT - 2 - (n / top) * (HEIGHT - 5)).toFixed(1)}`);
  line.setAttribute("d", `M${points.join("L")}`);
  area.setAttribute("d", `M${points.join("L")}V${HEIGHT}H0Z`);
}

/** @param {number} rate */
function formatRate(rate) {
  return rate === 0 ? "0" : rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString();
}
