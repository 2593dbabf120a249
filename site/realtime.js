// Tidemark's browser client: one subscriber that never loses its place.
//
//   import { connect } from "./realtime.js";
//   connect({ token: () => fetchToken(), onEvent: (event) => console.log(event.type, event.data) });
//
// fetch instead of EventSource: a token travels in a header (not in a URL that logs keep), one listener hears every
// type, a refusal can be read, and a silent connection can be given up. Runs in browsers and in Node 20.

import { eventOf, parse, refusalOf } from "./client/answer.js";
import { addressOf, ask, isVisibleAscii, listOf, startOf } from "./client/request.js";
import { backoff, CLOSING_JITTER_MS, expiryOf, renewIn } from "./client/retry.js";
import { Watchdog } from "./client/watchdog.js";
import { Decoder } from "./sse.js";

/** @typedef {import("./realtime.d.ts").ConnectOptions} ConnectOptions */
/** @typedef {import("./realtime.d.ts").State} State */
/** @typedef {import("./realtime.d.ts").Problem} Problem */
/** @typedef {import("./client/answer.js").End} End */

/** A healthy server sends its first bytes at once; a cold function may need seconds. Longer is a proxy that buffers. */
const FIRST_BYTE_MS = 12_000;

/** The application's token function talks to a server too, and may hang. */
const TOKEN_MS = 30_000;

/** Network delay granted on top of the heartbeats before a connection counts as dead. */
const HEARTBEAT_SLACK_MS = 2_000;

/** A connection that ended sooner than this was no success: a server that answers and dies must not be hammered. */
const STABLE_MS = 5_000;

/** No `retry:` may keep a tab away longer than this. */
const LONGEST_RETRY_MS = 60_000;

/** A long poll's length; the server allows at most 20 s, a rewrite proxy may cut at 26 s. */
const POLL_WAIT_S = 20;

/** How long to poll before streaming is tried again: the laptop may have left the network with the proxy. */
const STREAM_AGAIN_MS = 300_000;

/** Attempts in a row that failed without one byte before a poll is tried. */
const BLOCKED_AFTER = 3;

/** @param {ConnectOptions} [options] @returns {import("./realtime.d.ts").Subscription} */
export function connect(options = {}) {
  return new Subscription(options);
}

class Subscription {
  #options;
  #address;
  #from;
  #heartbeat;
  #storageKey;
  #cursor;
  /** @type {State} */ #state = "closed";
  /** @type {"stream" | "poll"} */ #mode = "stream";
  #open = true;
  #failures = 0; // in a row; the exponent of the backoff
  #unheard = 0; // attempts in a row that brought no byte, or were cut for silence
  #unauthorized = false; // the last answer was a 401
  #serverRetry = 0;
  #liveSince = 0;
  /** @type {AbortController | null} */ #attempt = null;
  /** @type {(() => void) | null} */ #wake = null;
  #wakeableAt = 0;
  /** @type {string | null} */ #renewed = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer; // token timeout, later token renewal
  #watchdog = new Watchdog(() => this.#cut({ kind: "silent", reason: "silent" }));
  #listeners = new AbortController();

  /** @param {ConnectOptions} options */
  constructor(options) {
    this.#options = options;
    this.#address = addressOf(options);
    this.#from = startOf(options.from);
    this.#heartbeat = options.heartbeat ?? 15_000;
    const { url = "", userId = "", types, signal } = options;
    this.#storageKey = options.storageKey ?? `realtime:${[url, userId, listOf(types)].join("|")}`;
    this.#cursor = options.cursor || this.#stored() || "";
    if (signal?.aborted) {
      this.#open = false;
      return;
    }
    const until = { signal: this.#listeners.signal };
    signal?.addEventListener("abort", () => this.close(), until);
    globalThis.addEventListener?.("online", () => this.#networkChanged(), until);
    globalThis.document?.addEventListener("visibilitychange", () => this.#comeBack(), until);
    this.#run();
  }

  get cursor() {
    return this.#cursor;
  }

  get state() {
    return this.#state;
  }

  get mode() {
    return this.#mode;
  }

  close() {
    this.#finish("closed");
  }

  drop(holdMs = 0) {
    this.#cut({ kind: "dropped", reason: "dropped", hold: holdMs });
  }

  retry() {
    this.#wake?.();
  }

  // ---- the loop: attempt, look how it ended, wait -------------------------------------------------------------

  async #run() {
    await null; // callbacks run only once the caller holds its handle
    let reason = "start";
    while (this.#open) {
      this.#enter("connecting", { reason });
      const end = await this.#once();
      reason = end.reason;
      if (this.#open) await this.#next(end);
    }
  }

  /** One connection, from its token to its end. Never throws. @returns {Promise<End>} */
  async #once() {
    const attempt = new AbortController();
    const { signal } = attempt;
    this.#attempt = attempt;
    this.#liveSince = 0;
    this.#watchdog.heardAt = 0;
    try {
      const token = await this.#token(signal);
      if (token !== "" && !isVisibleAscii(token)) {
        const problem = { title: "Unusable token", detail: "The token holds characters that no header can carry." };
        return { kind: "denied", reason: "refused", problem };
      }
      return await (this.#mode === "poll" ? this.#poll(token, signal) : this.#stream(token, signal));
    } catch (error) {
      return signal.aborted ? signal.reason : { kind: "lost", reason: "lost", error };
    } finally {
      this.#watchdog.stop();
      clearTimeout(this.#timer);
      this.#attempt = null;
      attempt.abort(); // a stream we turned away from (closing, renewed) must not stay open behind our back
      this.#store();
    }
  }

  /** @param {End} end */
  async #next(end) {
    if (end.kind === "stop") return this.#finish(end.reason);
    if (end.kind === "renewed" || end.kind === "again") return;
    // A token function may have answered from its cache just as that token expired: it is asked once more, no oftener.
    const expired = end.kind === "unauthorized" && typeof this.#options.token === "function" && !this.#unauthorized;
    this.#unauthorized = end.kind === "unauthorized";
    if (end.kind === "denied" || (end.kind === "unauthorized" && !expired)) return this.#rest("denied", end);
    const stable = this.#liveSince > 0 && Date.now() - this.#liveSince >= STABLE_MS;
    if (stable) this.#failures = 0;
    if (end.kind === "closing" && stable) return this.#rest("waiting", end, Math.random() * CLOSING_JITTER_MS);
    const asked = Math.max(end.floor ?? 0, end.hold ?? 0);
    const delay = backoff(this.#failures, Math.max(this.#serverRetry, asked));
    if (end.kind !== "dropped") {
      this.#chooseMode(end);
      this.#failures += 1;
    }
    return this.#rest("waiting", end, delay, asked);
  }

  /**
   * A proxy that buffers or blocks streams lets short answers through: after signs of one, poll.
   * @param {End} end
   */
  #chooseMode(end) {
    if (this.#mode === "poll") {
      this.#mode = "stream"; // the poll failed too: the server is away, and not only its streams
      this.#unheard = 0;
      return;
    }
    const nothing = this.#watchdog.heardAt === 0 && end.problem === undefined;
    this.#unheard = nothing || end.kind === "silent" ? this.#unheard + 1 : 0;
    const buffered = end.kind === "silent" && (nothing || this.#unheard >= 2);
    if (buffered || this.#unheard >= BLOCKED_AFTER) this.#mode = "poll";
  }

  /**
   * Stays until the time is over or someone wakes it: `retry()` at any time, a network or a tab that comes back only
   * after `floor`, which a server in need has asked for.
   * @param {"waiting" | "denied"} state @param {End} end @param {number} [delay] @param {number} [floor]
   */
  async #rest(state, end, delay, floor = 0) {
    this.#wakeableAt = state === "denied" ? Infinity : Date.now() + floor;
    const over = new Promise((resolve) => {
      this.#wake = () => resolve(undefined);
      if (delay !== undefined) this.#timer = setTimeout(resolve, delay);
    });
    this.#enter(state, { reason: end.reason, delay, problem: end.problem, error: end.error });
    await over;
    clearTimeout(this.#timer);
    this.#wake = null;
  }

  // ---- one attempt --------------------------------------------------------------------------------------------

  /** @param {string} token @param {AbortSignal} signal @returns {Promise<End>} */
  async #stream(token, signal) {
    this.#watchdog.start(FIRST_BYTE_MS);
    const resumed = this.#cursor !== "";
    const response = await this.#ask(token, signal, "text/event-stream");
    const refusal = await refusalOf(response, "text/event-stream");
    if (refusal) return refusal;
    this.#accepted(token, signal);
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    const decoder = new Decoder(this.#cursor);
    let told = false;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return { kind: "lost", reason: "lost" };
      this.#watchdog.heard(2 * this.#heartbeat + HEARTBEAT_SLACK_MS);
      const frames = decoder.push(value);
      if (decoder.retry !== undefined) this.#serverRetry = Math.min(decoder.retry, LONGEST_RETRY_MS);
      for (const frame of frames) {
        // drop() or close() inside a callback: what was not handled must not move the cursor either.
        if (signal.aborted) return signal.reason;
        // The first id primes the cursor ahead of a gap's announcement. Were it kept and the connection cut right
        // there, the next one would resume behind the gap and nobody would ever hear of it.
        if (frame.data === null && !told) continue;
        told = true;
        this.#cursor = frame.lastEventId;
        const end = frame.data === null ? null : this.#frame(frame.type, frame.data, resumed);
        if (end) return end;
      }
      this.#store(); // once a chunk, in the same task as its events: a reload sees both or neither
    }
  }

  /** @param {string} type @param {string} data @param {boolean} resumed @returns {End | null} */
  #frame(type, data, resumed) {
    if (!type.startsWith("realtime.")) {
      const { format } = this.#options;
      this.#call("onEvent", eventOf(type, data, { format, cursor: this.#cursor, replayed: this.#state !== "live" }));
      return null;
    }
    const told = /** @type {any} */ (parse(data)) ?? {};
    if (type === "realtime.ready") this.#ready(told.recovered !== false, Number(told.replayed) || 0, resumed);
    else if (type === "realtime.gap") this.#gap(told.reason);
    else if (type === "realtime.closing") return { kind: "closing", reason: String(told.reason ?? "closing") };
    return null;
  }

  /**
   * JSON pages instead of a stream. A page is delivered whole, drop() or not: only its end is sure to have a cursor.
   * @param {string} token @param {AbortSignal} signal @returns {Promise<End>}
   */
  async #poll(token, signal) {
    const until = Date.now() + STREAM_AGAIN_MS;
    const resumed = this.#cursor !== "";
    let recovered = true;
    let replayed = 0;
    while (Date.now() < until) {
      const live = this.#state === "live";
      const wait = live ? POLL_WAIT_S : 0;
      const asked = Date.now();
      this.#watchdog.start(wait * 1000 + FIRST_BYTE_MS);
      const response = await this.#ask(token, signal, "application/json", wait);
      const refusal = await refusalOf(response, "application/json");
      if (refusal) return refusal;
      if (this.#state === "connecting") this.#accepted(token, signal);
      const { events, gap, cursor } = await response.json();
      if (signal.aborted) return signal.reason;
      if (!Array.isArray(events) || typeof cursor !== "string") throw new TypeError("The answer is no page of events.");
      if (gap) {
        recovered = false;
        this.#gap(gap.reason);
      }
      for (const event of events) {
        if (!this.#open) return { kind: "stop", reason: "closed" };
        this.#pageEvent(event, cursor);
      }
      this.#cursor = cursor;
      this.#store();
      if (!live) {
        replayed += events.length;
        if (events.length === 0 && !gap) this.#ready(recovered, replayed, resumed);
      } else if (events.length === 0 && Date.now() - asked < 1_000) {
        await sleep(2_000 + Math.random() * 1_000, signal); // a platform that cannot hold a request: no tight loop
      }
      if (signal.aborted) return signal.reason;
    }
    this.#mode = "stream";
    return { kind: "again", reason: "stream-again" };
  }

  /** @param {string} token @param {AbortSignal} signal @param {string} accept @param {number} [wait] */
  #ask(token, signal, accept, wait) {
    const { credentials = "same-origin" } = this.#options;
    return ask({ address: this.#address, cursor: this.#cursor, from: this.#from, token, accept, wait, credentials, signal });
  }

  // ---- tokens -------------------------------------------------------------------------------------------------

  /** @param {AbortSignal} signal @returns {Promise<string>} */
  async #token(signal) {
    const { token } = this.#options;
    const renewed = this.#renewed;
    this.#renewed = null;
    if (renewed !== null) return renewed;
    if (typeof token !== "function") return (token ?? "").trim();
    this.#timer = setTimeout(() => this.#cut({ kind: "lost", reason: "token-timeout" }), TOKEN_MS);
    const value = await orAborted(token(), signal);
    clearTimeout(this.#timer);
    return String(value ?? "").trim();
  }

  /**
   * The next token is fetched while the old stream still delivers, and the switch is a resume by cursor: no hole.
   * @param {string} token @param {AbortSignal} signal
   */
  #accepted(token, signal) {
    this.#unauthorized = false;
    this.#enter("replaying", { reason: "accepted" });
    const source = this.#options.token;
    const wait = typeof source === "function" ? renewIn(expiryOf(token)) : undefined;
    if (typeof source !== "function" || wait === undefined) return;
    this.#timer = setTimeout(async () => {
      try {
        const fresh = String((await orAborted(source(), signal)) ?? "").trim();
        if (signal.aborted || fresh === token || !isVisibleAscii(fresh)) return; // the server ends the stream at expiry
        this.#renewed = fresh;
        this.#cut({ kind: "renewed", reason: "renewed" });
      } catch {
        // The old token still works. When it expires the server says so, and the next attempt asks again.
      }
    }, wait);
  }

  // ---- telling the page ---------------------------------------------------------------------------------------

  /** @param {any} event one of a page's `events` @param {string} pageCursor */
  #pageEvent(event, pageCursor) {
    const { id, time, source, type, data, cursor } = event;
    if (typeof cursor === "string") this.#cursor = cursor;
    const raw = JSON.stringify(this.#options.format === "cloudevents" ? event : data);
    const replayed = this.#state !== "live";
    this.#call("onEvent", { type, data, raw, cursor: cursor ?? pageCursor, replayed, id, time, source });
  }

  /** @param {unknown} reason */
  #gap(reason) {
    this.#call("onGap", { reason: String(reason ?? "unknown"), cursor: this.#cursor });
  }

  /** @param {boolean} recovered @param {number} replayed @param {boolean} resumed */
  #ready(recovered, replayed, resumed) {
    this.#liveSince = Date.now();
    this.#enter("live", { reason: "ready" });
    this.#call("onReady", { recovered, replayed, resumed, cursor: this.#cursor });
  }

  /** @param {State} state @param {{reason: string, delay?: number, problem?: Problem, error?: unknown}} change */
  #enter(state, change) {
    if (!this.#open && state !== "closed") return;
    const previous = this.#state;
    this.#state = state;
    this.#call("onState", state, { previous, attempt: this.#failures, mode: this.#mode, ...change });
  }

  /** @param {string} reason */
  #finish(reason) {
    if (!this.#open) return;
    this.#open = false;
    this.#listeners.abort();
    this.#cut({ kind: "stop", reason });
    this.#wake?.();
    this.#enter("closed", { reason });
  }

  /** A page's bug in a callback must not end the stream. @param {"onEvent" | "onGap" | "onReady" | "onState"} name @param {...any} args */
  #call(name, ...args) {
    if (!this.#open && name !== "onState") return;
    try {
      /** @type {any} */ (this.#options[name])?.(...args);
    } catch (error) {
      if (typeof reportError === "function") reportError(error);
      else queueMicrotask(() => { throw error; });
    }
  }

  // ---- the network, the tab, the storage ------------------------------------------------------------------------

  #networkChanged() {
    this.#comeBack();
    // The connection may hang on a network that is gone. One heartbeat must come, else it is dead.
    if (this.#mode === "stream") this.#watchdog.hurry(this.#heartbeat + HEARTBEAT_SLACK_MS);
  }

  #comeBack() {
    if (globalThis.document?.visibilityState !== "hidden" && Date.now() >= this.#wakeableAt) this.#wake?.();
  }

  /** @param {End} end */
  #cut(end) {
    this.#attempt?.abort(end);
  }

  #stored() {
    try {
      return this.#options.storage?.getItem(this.#storageKey) ?? "";
    } catch {
      return ""; // storage may be forbidden; then a reload starts at `from`
    }
  }

  #store() {
    try {
      if (this.#cursor !== "") this.#options.storage?.setItem(this.#storageKey, this.#cursor);
    } catch {
      // full or forbidden: the connection itself does not need it
    }
  }
}

/** @template T @param {T | Promise<T>} value @param {AbortSignal} signal @returns {Promise<T>} */
function orAborted(value, signal) {
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
