// One connection of a subscription, from the request to its end: a stream, or JSON pages.

import { parse, refusalOf } from "./response.js";
import { Decoder } from "./sse.js";
import { sleep } from "./wait.js";

/** @typedef {import("./response.js").End} End */
/** @typedef {import("./response.js").Entry} Entry */

/**
 * The subscription, as an attempt sees it.
 * @typedef {object} Context
 * @property {string} cursor
 * @property {import("../realtime.d.ts").State} state
 * @property {number} heartbeat  milliseconds
 * @property {boolean} isOpen
 * @property {boolean} isTokenExpiring  and a new token can be requested
 * @property {import("./watchdog.js").Watchdog} watchdog
 * @property {(accept: string, wait?: number) => Promise<Response>} request
 * @property {() => void} accepted  the server sent the expected response
 * @property {(seconds: number) => void} expiring  the token expires after this time
 * @property {(ms: number) => void} setRetry  the server's `retry:`
 * @property {(entry: Entry) => void} emit
 * @property {(ms: number) => Promise<void>} pause  between two polls
 * @property {() => void} flush  once per chunk or page, in the same task as its events: a reload sees both or neither
 */

/** A running server sends its first bytes at once, a cold function within seconds. After this a proxy is buffering. */
const FIRST_BYTE_MS = 12_000;

/** Network delay allowed in addition to the heartbeats, before a connection counts as dead. */
export const HEARTBEAT_SLACK_MS = 2_000;

/** Duration of a long poll. The server's maximum is 20 s; a rewriting proxy may end a request after 26 s. */
const LONG_POLL_S = 20;

/** A page of this length may be incomplete: request the next one at once. */
const LONG_PAGE = 100;

/** How long to poll before a stream is tried again: the laptop may have left the network with the proxy. */
const STREAM_AGAIN_MS = 300_000;

/** An empty long poll that returns sooner came from a platform that cannot hold requests. */
const SHORT_POLL_MS = 1_000;

/** @param {Context} context @param {AbortSignal} signal @returns {Promise<End>} */
export async function stream(context, signal) {
  context.watchdog.start(FIRST_BYTE_MS);
  const resumed = context.cursor !== "";
  const response = await context.request("text/event-stream");
  const refusal = await refusalOf(response, "text/event-stream");
  if (refusal) return refusal;
  context.accepted();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new Decoder(context.cursor);
  let hasData = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { kind: "lost", reason: "lost" };
    context.watchdog.received(2 * context.heartbeat + HEARTBEAT_SLACK_MS);
    const frames = decoder.push(value);
    if (decoder.retry !== undefined) context.setRetry(decoder.retry);
    for (const frame of frames) {
      // A callback called drop() or close(): frames that were not handled must not move the cursor.
      if (signal.aborted) return signal.reason;
      // The server sends the new cursor before it reports a gap. If the client stored that cursor and lost the connection
      // before the gap frame, it would resume after the gap, and the gap would never be reported.
      if (frame.data === null && !hasData) continue;
      hasData = true;
      const end = handleFrame(context, frame, resumed);
      if (end) return end;
    }
    context.flush();
  }
}

/** @param {Context} context @param {import("./sse.js").Frame} frame @param {boolean} resumed @returns {End | null} */
function handleFrame(context, { type, data, lastEventId: cursor }, resumed) {
  if (data === null) context.emit({ kind: "moved", cursor });
  else if (!type.startsWith("realtime.")) {
    context.emit({ kind: "event", cursor, event: { type, raw: data, replayed: context.state !== "live" } });
  } else {
    const fields = /** @type {any} */ (parse(data)) ?? {};
    if (type === "realtime.ready") {
      const { recovered, replayed } = fields;
      context.emit({ kind: "ready", cursor, recovered: recovered !== false, replayed: Number(replayed) || 0, resumed });
    } else if (type === "realtime.gap") context.emit({ kind: "gap", cursor, reason: String(fields.reason ?? "unknown") });
    else if (type === "realtime.expiring") context.expiring(Number(fields.seconds) || 0);
    else if (type === "realtime.closing") return { kind: "closing", reason: String(fields.reason ?? "closing") };
  }
  return null;
}

/**
 * JSON pages: long polls while streams do not get through, or, with `interval`, short polls at that interval. A page is
 * delivered completely even after drop(), because only its end has a cursor.
 * @param {Context} context @param {AbortSignal} signal @param {string} [format] @param {number} [interval] milliseconds
 * @returns {Promise<End>}
 */
export async function poll(context, signal, format, interval = 0) {
  const until = interval > 0 ? Infinity : Date.now() + STREAM_AGAIN_MS;
  const resumed = context.cursor !== "";
  let recovered = true;
  let replayed = 0;
  while (Date.now() < until) {
    const live = context.state === "live";
    const wait = live && interval === 0 ? LONG_POLL_S : 0;
    if (live && context.isTokenExpiring) return { kind: "renewed", reason: "renewed" };
    const startedAt = Date.now();
    context.watchdog.start(wait * 1000 + FIRST_BYTE_MS);
    const response = await context.request("application/json", wait);
    const refusal = await refusalOf(response, "application/json");
    if (refusal) return refusal;
    if (context.state === "connecting") context.accepted();
    const { events, gap, cursor } = await response.json();
    if (signal.aborted) return signal.reason;
    if (!Array.isArray(events) || typeof cursor !== "string") throw new TypeError("The response is not a page of events.");
    if (gap) {
      recovered = false;
      context.emit({ kind: "gap", cursor: "", reason: String(gap.reason ?? "unknown") });
    }
    for (const { id, time, source, type, data, ...rest } of events) {
      if (!context.isOpen) return { kind: "stop", reason: "closed" };
      const raw = JSON.stringify(format === "cloudevents" ? { id, time, source, type, data, ...rest } : data);
      context.emit({ kind: "event", cursor: "", event: { type, raw, replayed: !live, id, time, source } });
    }
    if (!live) replayed += events.length;
    if (!live && events.length === 0 && !gap) context.emit({ kind: "ready", cursor, recovered, replayed, resumed });
    else context.emit({ kind: "moved", cursor });
    context.flush();
    if (live && interval > 0 && events.length < LONG_PAGE) {
      context.watchdog.stop();
      await context.pause(interval * (0.9 + Math.random() / 5)); // jitter: pages that were opened together poll apart
    } else if (live && events.length === 0 && Date.now() - startedAt < SHORT_POLL_MS) {
      await sleep(2_000 + Math.random() * 1_000, signal); // prevents a tight loop
    }
    if (signal.aborted) return signal.reason;
  }
  return { kind: "restart", reason: "stream-again" };
}
