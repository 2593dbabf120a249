// One connection of a subscription, from the request to how it ended: a stream, or JSON pages where none gets through.

import { parse, refusalOf } from "./answer.js";
import { Decoder } from "./sse.js";

/** @typedef {import("./answer.js").End} End */
/** @typedef {import("./answer.js").Entry} Entry */

/**
 * What an attempt needs of its subscription.
 * @typedef {object} Host
 * @property {string} cursor
 * @property {import("../realtime.d.ts").State} state
 * @property {number} heartbeat milliseconds
 * @property {boolean} isOpen
 * @property {import("./watchdog.js").Watchdog} watchdog
 * @property {(accept: string, wait?: number) => Promise<Response>} ask
 * @property {() => void} accepted  the server has answered with what was asked for
 * @property {(seconds: number) => void} expiring  the token will end then
 * @property {(ms: number) => void} retryIn  the server's `retry:`
 * @property {(entry: Entry) => void} tell
 * @property {boolean} isTokenOver  and another one can be had
 * @property {(ms: number) => Promise<void>} pause  between plain polls
 * @property {() => void} settle  once a chunk or page, in the same task as its events: a reload sees both or neither
 */

/** A healthy server sends its first bytes at once; a cold function may need seconds. Longer is a proxy that buffers. */
const FIRST_BYTE_MS = 12_000;

/** Network delay granted on top of the heartbeats before a connection counts as dead. */
export const HEARTBEAT_SLACK_MS = 2_000;

/** A long poll's length; the server allows at most 20 s, a rewrite proxy may cut at 26 s. */
const POLL_WAIT_S = 20;

/** A page as long as this may have been cut: the next one is asked for at once. */
const LONG_PAGE = 100;

/** How long to poll before streaming is tried again: the laptop may have left the network with the proxy. */
const STREAM_AGAIN_MS = 300_000;

/** @param {Host} host @param {AbortSignal} signal @returns {Promise<End>} */
export async function stream(host, signal) {
  host.watchdog.start(FIRST_BYTE_MS);
  const resumed = host.cursor !== "";
  const response = await host.ask("text/event-stream");
  const refusal = await refusalOf(response, "text/event-stream");
  if (refusal) return refusal;
  host.accepted();
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new Decoder(host.cursor);
  let told = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return { kind: "lost", reason: "lost" };
    host.watchdog.heard(2 * host.heartbeat + HEARTBEAT_SLACK_MS);
    const frames = decoder.push(value);
    if (decoder.retry !== undefined) host.retryIn(decoder.retry);
    for (const frame of frames) {
      // drop() or close() inside a callback: what was not handled must not move the cursor either.
      if (signal.aborted) return signal.reason;
      // The first id primes the cursor ahead of a gap's announcement. Were it kept and the connection cut right
      // there, the next one would resume behind the gap and nobody would ever hear of it.
      if (frame.data === null && !told) continue;
      told = true;
      const end = frameOf(host, frame, resumed);
      if (end) return end;
    }
    host.settle();
  }
}

/** @param {Host} host @param {import("./sse.js").Frame} frame @param {boolean} resumed @returns {End | null} */
function frameOf(host, { type, data, lastEventId: cursor }, resumed) {
  if (data === null) host.tell({ kind: "moved", cursor });
  else if (!type.startsWith("realtime.")) {
    host.tell({ kind: "event", cursor, event: { type, raw: data, replayed: host.state !== "live" } });
  } else {
    const told = /** @type {any} */ (parse(data)) ?? {};
    if (type === "realtime.ready") {
      const { recovered, replayed } = told;
      host.tell({ kind: "ready", cursor, recovered: recovered !== false, replayed: Number(replayed) || 0, resumed });
    } else if (type === "realtime.gap") host.tell({ kind: "gap", cursor, reason: String(told.reason ?? "unknown") });
    else if (type === "realtime.expiring") host.expiring(Number(told.seconds) || 0);
    else if (type === "realtime.closing") return { kind: "closing", reason: String(told.reason ?? "closing") };
  }
  return null;
}

/**
 * JSON pages instead of a stream: long polls where no stream gets through, or, with `every`, plain ones that far apart.
 * A page is delivered whole, drop() or not: only its end is sure to have a cursor.
 * @param {Host} host @param {AbortSignal} signal @param {string} [format] @param {number} [every] ms @returns {Promise<End>}
 */
export async function poll(host, signal, format, every = 0) {
  const until = every > 0 ? Infinity : Date.now() + STREAM_AGAIN_MS;
  const resumed = host.cursor !== "";
  let recovered = true;
  let replayed = 0;
  while (Date.now() < until) {
    const live = host.state === "live";
    const wait = live && every === 0 ? POLL_WAIT_S : 0;
    if (live && host.isTokenOver) return { kind: "renewed", reason: "renewed" };
    const asked = Date.now();
    host.watchdog.start(wait * 1000 + FIRST_BYTE_MS);
    const response = await host.ask("application/json", wait);
    const refusal = await refusalOf(response, "application/json");
    if (refusal) return refusal;
    if (host.state === "connecting") host.accepted();
    const { events, gap, cursor } = await response.json();
    if (signal.aborted) return signal.reason;
    if (!Array.isArray(events) || typeof cursor !== "string") throw new TypeError("The answer is no page of events.");
    if (gap) {
      recovered = false;
      host.tell({ kind: "gap", cursor: "", reason: String(gap.reason ?? "unknown") });
    }
    for (const { id, time, source, type, data, ...rest } of events) {
      if (!host.isOpen) return { kind: "stop", reason: "closed" };
      const raw = JSON.stringify(format === "cloudevents" ? { id, time, source, type, data, ...rest } : data);
      host.tell({ kind: "event", cursor: "", event: { type, raw, replayed: !live, id, time, source } });
    }
    if (!live) replayed += events.length;
    if (!live && events.length === 0 && !gap) host.tell({ kind: "ready", cursor, recovered, replayed, resumed });
    else host.tell({ kind: "moved", cursor });
    host.settle();
    if (live && every > 0 && events.length < LONG_PAGE) {
      host.watchdog.stop();
      await host.pause(every * (0.9 + Math.random() / 5)); // pages that were opened together ask apart
    } else if (live && events.length === 0 && Date.now() - asked < 1_000) {
      await sleep(2_000 + Math.random() * 1_000, signal); // a platform that cannot hold a request: no tight loop
    }
    if (signal.aborted) return signal.reason;
  }
  return { kind: "again", reason: "stream-again" };
}

/** @template T @param {T | Promise<T>} value @param {AbortSignal} signal @returns {Promise<T>} */
export function orAborted(value, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    Promise.resolve(value).then(resolve, reject);
  });
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
function sleep(ms, signal) {
  return orAborted(new Promise((resolve) => setTimeout(resolve, ms)), signal);
}
