// The connection card: the tide gauge shows the state machine, the text below says why.

import { byId, plural, short, span } from "./dom.js";

/** @typedef {import("../realtime.d.ts").StateChange} StateChange */

const REASONS = /** @type {Record<string, string>} */ ({
  lost: "The connection was lost",
  silent: "Two heartbeats did not come: the connection is dead",
  dropped: "You dropped the connection",
  refused: "The server refused",
  "token-failed": "There is no token",
  "token-timeout": "The token did not come",
  "max-age": "The server ended the stream at its age limit",
  "token-expired": "The token expired",
  revoked: "This user's tokens were revoked",
  draining: "The server is shutting down",
  "slow-consumer": "The server let this slow reader go",
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
let waitText = "";
/** @type {ReturnType<typeof setInterval> | undefined} */ let countdown;

/** @param {import("../realtime.d.ts").State} state @param {StateChange} change */
export function showState(state, change) {
  byId("connection").dataset.state = state;
  for (const item of byId("states").children) {
    if (item.dataset.name.split(" ").includes(state)) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
  byId("rest-state").textContent = state === "denied" ? "denied" : "closed";
  byId("rest-hint").textContent = state === "denied" ? "the server said no" : "not connected";
  const poll = change.mode === "poll" ? " Streams do not get through here, so it polls." : "";
  clearInterval(countdown);
  if (state === "connecting") detail(change.attempt > 0 ? `Attempt ${change.attempt + 1}…` : "Asking the server…");
  else if (state === "replaying") detail(`Reading the log up to its head.${poll}`);
  else if (state === "denied") detail(problemText(change) || "The server refused this subscriber.");
  else if (state === "closed") detail(change.reason === "stopped" ? "The server asked to stop (204)." : "Not connected.");
  else if (state === "waiting") {
    due = Date.now() + (change.delay ?? 0);
    waitText = [reasonText(change.reason), problemText(change)].filter(Boolean).join(": ");
    tick();
    countdown = setInterval(tick, 100);
  }
  const open = state !== "closed";
  byId("drop").disabled = byId("hold").disabled = !(state === "live" || state === "replaying");
  swap(state === "waiting" || state === "denied");
  byId("disconnect").disabled = !open;
  document.title = state === "live" ? "Tidewire console" : `${state} · Tidewire console`;
}

/** "Drop" and "Reconnect now" share a place; the keyboard's focus goes along instead of falling off the page. @param {boolean} resting */
function swap(resting) {
  const [drop, retry] = [byId("drop"), byId("retry")];
  const focused = document.activeElement === drop || document.activeElement === retry;
  retry.hidden = !resting;
  drop.hidden = byId("hold-label").hidden = resting;
  if (focused) (resting ? retry : drop).focus();
}

function tick() {
  const left = Math.max(0, due - Date.now());
  detail(`${waitText}. Next attempt in ${left < 60_000 ? `${(left / 1000).toFixed(1)} s` : span(left)}.`);
}

/** @param {import("../realtime.d.ts").Ready} ready */
export function readyText({ recovered, replayed, resumed }) {
  const read = `${plural(replayed, "event")} replayed`;
  if (!recovered) return `after the gap: ${read}, then live`;
  if (resumed) return `resumed: ${read}, nothing lost`;
  return replayed > 0 ? `${read}, then live` : "live from now";
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
  chip.textContent = cursor === "" ? "none yet" : short(cursor, 28);
  chip.title = cursor === "" ? "" : `Copy cursor: ${cursor}`;
  if (cursor === "") delete chip.dataset.copy;
  else chip.dataset.copy = cursor;
}
