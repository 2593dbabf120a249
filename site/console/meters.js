// Counters, and the rate and the lag of the last minute.

import { byId, span } from "./dom.js";

/** One point of a sparkline a second. */
const SECONDS = 60;
const WIDTH = 120;
const HEIGHT = 28;
const LOWEST_RATE = 4;
const LOWEST_LAG_MS = 40;

const counts = { events: 0, reconnects: 0, gaps: 0 };
/** Events per second, the current second last. */
const perSecond = new Array(SECONDS).fill(0);
/** The slowest live event of each second, in milliseconds. */
const slowest = new Array(SECONDS).fill(0);
let second = Math.floor(Date.now() / 1000);
let changed = true;
/** Median of few is calm and still honest: one slow event does not make the number jump. @type {number[]} */
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

/** A live event's age when it came in; two clocks are compared, so a small negative one is a zero. @param {string} time */
export function measure(time) {
  const lag = Date.now() - Date.parse(time);
  if (!Number.isFinite(lag)) return;
  roll();
  lags = [...lags.slice(-8), Math.max(0, lag)];
  slowest[SECONDS - 1] = Math.max(slowest[SECONDS - 1], lag);
}

export function reset() {
  counts.events = counts.reconnects = counts.gaps = 0;
  perSecond.fill(0);
  slowest.fill(0);
  lags = [];
  changed = true;
}

function roll() {
  const now = Math.floor(Date.now() / 1000);
  const passed = Math.min(SECONDS, now - second);
  if (passed <= 0) return;
  second = now;
  for (const values of [perSecond, slowest]) {
    values.splice(0, passed);
    values.push(...new Array(passed).fill(0));
  }
  changed = true;
}

/** Draws at most four times a second, whatever comes in. */
export function start() {
  const draw = () => {
    roll();
    if (!changed || document.hidden) return;
    changed = false;
    byId("count-events").textContent = counts.events.toLocaleString();
    byId("count-reconnects").textContent = counts.reconnects.toLocaleString();
    byId("count-gaps").textContent = counts.gaps.toLocaleString();
    byId("count-gaps").classList.toggle("alarm", counts.gaps > 0);
    const recent = perSecond.slice(-6, -1); // whole seconds only: the current one is still filling
    byId("rate").textContent = tidy(recent.reduce((sum, n) => sum + n, 0) / recent.length);
    byId("lag").textContent = lags.length === 0 ? "–" : span([...lags].sort((a, b) => a - b)[lags.length >> 1]);
    plot("rate-spark", perSecond, LOWEST_RATE);
    plot("lag-spark", slowest, LOWEST_LAG_MS);
  };
  draw();
  setInterval(draw, 250);
}

/** @param {string} id @param {number[]} values @param {number} lowest what the top stands for at least: noise is no mountain */
function plot(id, values, lowest) {
  const [area, line] = byId(id).querySelectorAll("path");
  const top = Math.max(lowest, ...values);
  const step = WIDTH / (SECONDS - 1);
  const points = values.map((n, i) => `${(i * step).toFixed(1)} ${(HEIGHT - 2 - (n / top) * (HEIGHT - 5)).toFixed(1)}`);
  line.setAttribute("d", `M${points.join("L")}`);
  area.setAttribute("d", `M${points.join("L")}V${HEIGHT}H0Z`);
}

/** @param {number} rate */
function tidy(rate) {
  return rate === 0 ? "0" : rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString();
}
