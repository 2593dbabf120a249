// The Connection card: the gauge shows the state, the text below it the reason.

import { byId, plural, short, span } from "./dom.js";

/** @typedef {import("../realtime.d.ts").StateChange} StateChange */

const REASONS = /** @type {Record<string, string>} */ ({
  lost: "The connection was lost",
  silent: "Two heartbeats are missing: the connection is dead",
  dropped: "You dropped the connection",
  refused: "The server refused the request",
  "token-failed": "The token function failed",
  "token-timeout": "The token function timed out",
  "max-age": "The server ended the stream at its maximum age",
  "token-expired": "The token expired",
  revoked: "This user's tokens were revoked",
  draining: "The server is shutting down",
  "slow-consumer": "The server closed the stream: this client read too slowly",
});

/** @param {string} reason */
export function reasonText(reason) {
  return REASONS[reason] ?? `The connection ended (${reason})`;
}

/** @param {Pick<StateChange, "problem" | "error">} change */
export function problemText({ problem, error }) {
  if (problem) return [problem.title, problem.detail].filter(Boolean).join(": ");
  return error instanceof Error ? error.message : "";
}

let due = 0;
let waitReason = "";
/** @type {ReturnType<typeof setInterval> | undefined} */ let countdown;

/** @param {import("../realtime.d.ts").State} state @param {StateChange} change */
export function showState(state, change) {
  byId("connection").dataset.state = state;
  for (const item of byId("states").children) {
    if (item.dataset.name.split(" ").includes(state)) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
  byId("rest-state").textContent = state === "denied" ? "denied" : "closed";
  byId("rest-hint").textContent = state === "denied" ? "request refused" : "not connected";
  const poll = change.mode === "poll" ? " Streams do not get through: polling instead." : "";
  clearInterval(countdown);
  if (state === "connecting") detail(change.attempt > 0 ? `Attempt ${change.attempt + 1}…` : "Connecting…");
  else if (state === "replaying") detail(`Receiving stored events.${poll}`);
  else if (state === "denied") detail(problemText(change) || "The server refused the subscription.");
  else if (state === "closed") detail(change.reason === "stopped" ? "The server ended the subscription (204)." : "Not connected.");
  else if (state === "waiting") {
    due = Date.now() + (change.delay ?? 0);
    waitReason = [reasonText(change.reason), problemText(change)].filter(Boolean).join(": ");
    tick();
    countdown = setInterval(tick, 100);
  }
  const open = state !== "closed";
  byId("drop").disabled = byId("hold").disabled = !(state === "live" || state === "replaying");
  swap(state === "waiting" || state === "denied");
  byId("disconnect").disabled = !open;
  document.title = state === "live" ? "Tidewire console" : `${state} · Tidewire console`;
}

/** Shows either "Drop connection" or "Reconnect now", and moves the keyboard focus with them. @param {boolean} showRetry */
function swap(showRetry) {
  const [drop, retry] = [byId("drop"), byId("retry")];
  const focused = document.activeElement === drop || document.activeElement === retry;
  retry.hidden = !showRetry;
  drop.hidden = byId("hold-label").hidden = showRetry;
  if (focused) (showRetry ? retry : drop).focus();
}

function tick() {
  const left = Math.max(0, due - Date.now());
  detail(`${waitReason}. Next attempt in ${left < 60_000 ? `${(left / 1000).toFixed(1)} s` : span(left)}.`);
}

/** @param {import("../realtime.d.ts").Ready} ready */
export function readyText({ recovered, replayed, resumed }) {
  const replay = `${plural(replayed, "event")} replayed`;
  if (!recovered) return `after the gap: ${replay}, then live`;
  if (resumed) return `resumed: ${replay}, nothing lost`;
  return replayed > 0 ? `${replay}, then live` : "live from now";
}

/** @param {string} text */
export function detail(text) {
  byId("detail").textContent = text;
}

/** @param {string} cursor */
export function showCursor(cursor) {
  const chip = byId("cursor");
  if (chip.dataset.copy === cursor || chip.dataset.flash !== undefined) return;
  chip.disabled = cursor === "";
  chip.textContent = cursor === "" ? "none" : short(cursor, 28);
  chip.title = cursor === "" ? "" : `Copy cursor: ${cursor}`;
  if (cursor === "") delete chip.dataset.copy;
  else chip.dataset.copy = cursor;
}
