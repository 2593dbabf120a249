// The console page: subscribe, see events, publish, drop the connection and see it resume.

import { detail, problemText, readyText, reasonText, showCursor, showState } from "./console/connection.js";
import { byId, listenForCopies, note, plural } from "./console/dom.js";
import * as meters from "./console/meters.js";
import * as publish from "./console/publish.js";
import * as stream from "./console/stream.js";
import { fetchConfig } from "./client/endpoints.js";
import { connect } from "./realtime.js";

/** @type {import("./realtime.d.ts").Subscription | null} */ let subscription = null;
const form = byId("subscribe");

// ---- announcements for screen readers: states at once, the number of new events every 10 s -------------------

let unannounced = 0;
const isDevelopment = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);

/** @param {string} text */
function announce(text) {
  byId("announcer").textContent = text;
}

setInterval(() => {
  if (unannounced > 0) announce(`${plural(unannounced, "new event")}.`);
  unannounced = 0;
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
      share: false, // the page shows its own connection
      storage: tabStorage(from === "resume"),
      onEvent(event) {
        unannounced += 1;
        meters.count("events");
        if (!event.replayed && event.time !== undefined) meters.measure(event.time);
        stream.addEvent(event, format);
        showCursor(event.cursor);
      },
      onGap(gap) {
        meters.count("gaps");
        stream.addNote("gap", `Gap: ${gap.reason}`, GAPS[gap.reason] ?? "Events were lost.");
        announce(`Gap. ${GAPS[gap.reason] ?? "Events were lost."}`);
      },
      onReady(ready) {
        if (!first) meters.count("reconnects");
        first = false;
        const text = readyText(ready);
        detail(`${text[0].toUpperCase()}${text.slice(1)}.`);
        stream.addDivider(text, ready.recovered);
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
          if (change.problem?.status === 401) showTokenFields();
        }
      },
    });
  } catch (error) {
    subscription = null;
    note(byId("subscribe-error"), from === "time" ? "Enter a start time." : String(error));
    return;
  }
  showCursor(subscription.cursor);
  const audience = token.trim() ? "the token's user" : userId.trim() || "public events";
  byId("subscribed-to").textContent = `${audience} · ${types.trim() || "all types"} · from ${from === "time" ? time.replace("T", " ") : from}`;
  rememberInAddress({ userId, types, from, format });
}

const GAPS = /** @type {Record<string, string>} */ ({
  trimmed: "The log no longer contains the events after the cursor.",
  epoch: "The log was deleted or replaced. The cursor belongs to the previous log.",
  "no-log": "This transport has no log. Events during the interruption are lost.",
  invalid: "The server cannot read the cursor.",
});

/** Always stores the tab's cursor; the form decides whether a new subscription starts from it. @param {boolean} resume */
function tabStorage(resume) {
  return {
    getItem: (/** @type {string} */ key) => (resume ? sessionStorage.getItem(key) : null),
    setItem: (/** @type {string} */ key, /** @type {string} */ value) => sessionStorage.setItem(key, value),
    removeItem: (/** @type {string} */ key) => sessionStorage.removeItem(key),
  };
}

/** The URL contains the filters, for a second tab. It never contains a token: URLs are logged. */
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

function showTokenFields() {
  byId("token-field").hidden = false;
  byId("user-field").hidden = !isDevelopment;
  byId("create-token").hidden = !isDevelopment;
  byId("key-field").hidden = false;
  stream.showExample(true);
}

/**
 * Requests a subscriber token for the user in the form. Only on this machine: the owner of a publish key can act as any
 * user, so it must not be used in a browser elsewhere.
 */
async function createToken() {
  const userId = byId("user").value.trim();
  const key = byId("key").value.trim();
  note(byId("subscribe-error"));
  if (key === "") {
    byId("publish-card").open = true;
    byId("key").focus();
    return note(byId("subscribe-error"), "This requires a publish key. Enter it in the Publish form.");
  }
  try {
    const response = await fetch("/api/tokens", {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
      body: JSON.stringify(userId === "" ? {} : { userId }),
    });
    const body = await response.json().catch(() => ({}));
    if (!response.ok) return note(byId("subscribe-error"), problemText({ problem: { title: `HTTP ${response.status}`, ...body } }));
    byId("token").value = body.token;
    announce("Token created.");
    subscribe();
  } catch {
    note(byId("subscribe-error"), "The server cannot be reached.");
  }
}

/** false also if the server does not respond, or is an older one: the subscription shows its error then. */
async function requiresToken() {
  const config = await fetchConfig(new URL("/api/events", location.href)).catch(() => null);
  return config !== null && "auth" in config && config.auth === "required";
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
byId("create-token").addEventListener("click", createToken);
byId("retry").addEventListener("click", () => subscription?.retry());
listenForCopies(announce);
meters.start();
stream.start();
publish.start(announce);
fillFromAddress();
if (matchMedia("(max-width: 60rem)").matches) byId("subscribe-card").open = byId("publish-card").open = false;
if (!(await requiresToken())) subscribe();
else {
  showTokenFields();
  byId("subscribe-card").open = true;
  detail("This server requires a token.");
  byId("token").focus();
}
