// The console page: subscribe, see the stream, publish, cut the line and watch it resume.

import { detail, problemText, readyText, reasonText, showCursor, showState } from "./console/connection.js";
import { byId, listenForCopies, note, plural } from "./console/dom.js";
import * as meters from "./console/meters.js";
import * as publish from "./console/publish.js";
import * as stream from "./console/stream.js";
import { find } from "./client/route.js";
import { connect } from "./realtime.js";

/** @type {import("./realtime.d.ts").Subscription | null} */ let subscription = null;
const form = byId("subscribe");

// ---- what a screen reader hears: states at once, events as a number now and then -----------------------------

let heard = 0;
const isDevelopment = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

/** @param {string} text */
function announce(text) {
  byId("announcer").textContent = text;
}

setInterval(() => {
  if (heard > 0) announce(`${plural(heard, "new event")}.`);
  heard = 0;
}, 10_000);

// ---- subscribing ---------------------------------------------------------------------------------------------

function subscribe() {
  const values = /** @type {Record<string, any>} */ (Object.fromEntries(new FormData(form)));
  const { userId, token, types, from, format, time } = values;
  note(byId("subscribe-error"));
  subscription?.close();
  meters.reset();
  let first = true;
  try {
    subscription = connect({
      userId: token.trim() !== "" || byId("user-field").hidden ? "" : userId.trim(),
      token: token.trim(),
      types: types.split(",").map((/** @type {string} */ type) => type.trim()).filter(Boolean),
      from: from === "time" ? new Date(time) : from === "resume" ? "now" : from,
      format,
      share: false, // this page is here to look at a connection: its own
      storage: tabStorage(from === "resume"),
      onEvent(event) {
        heard += 1;
        meters.count("events");
        if (!event.replayed && event.time !== undefined) meters.measure(event.time);
        stream.addEvent(event, format);
        showCursor(event.cursor);
      },
      onGap(gap) {
        meters.count("gaps");
        stream.addNote("gap", `Gap: ${gap.reason}`, GAPS[gap.reason] ?? "Events were lost here.");
        announce(`Gap. ${GAPS[gap.reason] ?? "Events were lost."}`);
      },
      onReady(ready) {
        if (!first) meters.count("reconnects");
        first = false;
        const text = readyText(ready);
        detail(`${text[0].toUpperCase()}${text.slice(1)}.`);
        stream.addTideLine(text, ready.recovered);
        announce(`Live. ${text}.`);
        showCursor(ready.cursor);
      },
      onState(state, change) {
        showState(state, change);
        if (state === "waiting") {
          stream.addNote(change.problem ? "refused" : "lost", reasonText(change.reason), problemText(change) || "Resuming after", subscription?.cursor);
          announce(`${reasonText(change.reason)}. Waiting to reconnect.`);
        } else if (state === "denied") {
          stream.addNote("refused", "Denied", problemText(change));
          announce(`Denied. ${problemText(change)}`);
          needToken(change.problem?.status === 401);
        }
      },
    });
  } catch (error) {
    subscription = null;
    note(byId("subscribe-error"), from === "time" ? "Choose a time to replay from." : String(error));
    return;
  }
  showCursor(subscription.cursor);
  const audience = token.trim() ? "the token's user" : userId.trim() || "events for everyone";
  byId("subscribed-to").textContent = `${audience} · ${types.trim() || "all types"} · from ${from === "time" ? time.replace("T", " ") : from}`;
  rememberInAddress({ userId, types, from, format });
}

const GAPS = /** @type {Record<string, string>} */ ({
  trimmed: "The log no longer holds what followed the cursor.",
  epoch: "The log was wiped or replaced: the cursor is of another one.",
  "no-log": "This transport keeps no log; what happened meanwhile is lost.",
  invalid: "The server cannot read the cursor.",
});

/** The cursor is kept for the tab in any case; whether a new subscription starts from it is the form's choice. @param {boolean} resume */
function tabStorage(resume) {
  return {
    getItem: (/** @type {string} */ key) => (resume ? sessionStorage.getItem(key) : null),
    setItem: (/** @type {string} */ key, /** @type {string} */ value) => sessionStorage.setItem(key, value),
    removeItem: (/** @type {string} */ key) => sessionStorage.removeItem(key),
  };
}

/** Filters go into the address, so that a second tab can be opened with them. Never a token: addresses are logged. */
function rememberInAddress(/** @type {Record<string, string>} */ { userId, types, from, format }) {
  const query = new URLSearchParams();
  if (userId) query.set("userId", userId);
  if (types) query.set("types", types);
  if (from !== "now" && from !== "time") query.set("from", from);
  if (format !== "cloudevents") query.set("format", format);
  history.replaceState(null, "", query.size > 0 ? `?${query}` : location.pathname);
}

function fillFromAddress() {
  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = ["userId", "types", "from", "format"].includes(name) ? form.elements.namedItem(name) : null;
    if (field instanceof HTMLSelectElement && ![...field.options].some((option) => option.value === value)) continue;
    if (field) field.value = value;
  }
}

// ---- with or without authentication --------------------------------------------------------------------------

/** @param {boolean} needed */
function needToken(needed) {
  if (!needed) return;
  byId("token-field").hidden = false;
  byId("user-field").hidden = !isDevelopment;
  byId("mint").hidden = !isDevelopment;
  byId("key-field").hidden = false;
  stream.showExample(true);
}

/**
 * A subscriber token for the user in the form. Only where the server is this machine: a publish key has no business in a
 * browser elsewhere, since whoever has it can be anyone.
 */
async function mint() {
  const userId = byId("user").value.trim();
  const key = byId("key").value.trim();
  note(byId("subscribe-error"));
  if (key === "") {
    byId("publish-card").open = true;
    byId("key").focus();
    return note(byId("subscribe-error"), "A token is minted with a publish key: put it into the field on the Publish card.");
  }
  try {
    const response = await fetch("/api/tokens", {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
      body: JSON.stringify(userId === "" ? {} : { userId }),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) return note(byId("subscribe-error"), problemText({ problem: { title: `HTTP ${response.status}`, ...answer } }));
    byId("token").value = answer.token;
    announce("A token was minted.");
    subscribe();
  } catch {
    note(byId("subscribe-error"), "The server cannot be reached.");
  }
}

/** Where it does not say (it is away, or older), the subscription itself will find out. */
async function asksForTokens() {
  const found = await find(new URL("/api/events", location.href)).catch(() => null);
  return found !== null && "auth" in found && found.auth === "required";
}

// ---- start ---------------------------------------------------------------------------------------------------

form.addEventListener("submit", (/** @type {SubmitEvent} */ submit) => {
  submit.preventDefault();
  subscribe();
});
byId("from").addEventListener("change", () => {
  byId("time-field").hidden = byId("from").value !== "time";
});
byId("disconnect").addEventListener("click", () => subscription?.close());
byId("drop").addEventListener("click", () => subscription?.drop(Number(byId("hold").value)));
byId("mint").addEventListener("click", mint);
byId("retry").addEventListener("click", () => subscription?.retry());
listenForCopies(announce);
meters.start();
stream.start();
publish.start(announce);
fillFromAddress();
if (matchMedia("(max-width: 60rem)").matches) byId("subscribe-card").open = byId("publish-card").open = false;
if (!(await asksForTokens())) subscribe();
else {
  needToken(true);
  byId("subscribe-card").open = true;
  detail("This server asks for a token.");
  byId("token").focus();
}
