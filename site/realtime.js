// Tidewire's browser client: one subscriber that never loses its place.
//
//   import { connect } from "./realtime.js";
//   connect({ token: () => fetchToken(), onEvent: (event) => console.log(event.type, event.data) });
//
// fetch instead of EventSource: a token travels in a header (not in a URL that logs keep), one listener hears every
// type, a refusal can be read, and a silent connection can be given up. Runs in browsers and in Node 20.
// An instance serves this file and client/ beside it; copy both where a page shall have its own.

import { eventOf, failureOf } from "./client/answer.js";
import { HEARTBEAT_SLACK_MS, poll, stream } from "./client/attempt.js";
import { addressOf, ask, everyOf, isVisibleAscii, listOf, startOf } from "./client/request.js";
import { isHidden, Rest } from "./client/rest.js";
import { backoff, BACKOFF_CAP_MS, CLOSING_JITTER_MS, isOver, NOWHERE_CAP_MS } from "./client/retry.js";
import { Route } from "./client/route.js";
import { groupOf, Tabs } from "./client/tabs.js";
import { Tokens } from "./client/tokens.js";
import { Watchdog } from "./client/watchdog.js";

/** @typedef {import("./realtime.d.ts").ConnectOptions} ConnectOptions */
/** @typedef {import("./realtime.d.ts").State} State */
/** @typedef {import("./realtime.d.ts").StateChange} StateChange */
/** @typedef {import("./realtime.d.ts").Problem} Problem */
/** @typedef {import("./client/answer.js").End} End */
/** @typedef {import("./client/answer.js").Entry} Entry */

/** A connection that ended sooner than this was no success: a server that answers and dies must not be hammered. */
const STABLE_MS = 5_000;

/** No `retry:` may keep a tab away longer than this. */
const LONGEST_RETRY_MS = 60_000;

/** Attempts in a row that failed without one byte before a poll is tried. */
const BLOCKED_AFTER = 3;

/** @param {ConnectOptions} [options] @returns {import("./realtime.d.ts").Subscription} */
export function connect(options = {}) {
  return new Subscription(options);
}

class Subscription {
  #options;
  #route;
  #every; // milliseconds between plain polls, 0 where it streams
  #from;
  #heartbeat;
  #storageKey;
  #cursor;
  /** @type {State} */ #state = "closed";
  /** @type {"stream" | "poll"} */ #mode;
  #open = true;
  #failures = 0; // in a row; the exponent of the backoff
  #unheard = 0; // attempts in a row that brought no byte, or were cut for silence
  #unauthorized = false; // the last answer was a 401
  #serverRetry = 0;
  #liveSince = 0;
  /** @type {AbortController | null} */ #attempt = null;
  #rest = new Rest();
  #tokens;
  #tabs;
  #watchdog = new Watchdog(() => this.#cut({ kind: "silent", reason: "silent" }));
  #listeners = new AbortController();

  /** @param {ConnectOptions} options */
  constructor(options) {
    this.#options = options;
    const { url = options.streamUrl ?? "", userId = "", types, signal, token } = options;
    this.#route = Route.of(options);
    this.#every = everyOf(options);
    this.#mode = this.#every > 0 ? "poll" : "stream";
    this.#from = startOf(options.from);
    this.#heartbeat = options.heartbeat ?? 15_000;
    this.#storageKey = options.storageKey ?? `realtime:${[url, userId, listOf(types)].join("|")}`;
    this.#cursor = options.cursor || this.#stored() || "";
    this.#tokens = new Tokens(token, () => this.#cut({ kind: "lost", reason: "token-timeout" }),
      () => this.#cut({ kind: "renewed", reason: "renewed" }));
    this.#tabs = new Tabs(this.#member());
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

  get role() {
    return this.#tabs.role;
  }

  close() {
    this.#finish("closed");
  }

  drop(holdMs = 0) {
    this.#cut({ kind: "dropped", reason: "dropped", hold: holdMs });
  }

  retry() {
    this.#rest.wake();
    this.#tabs.nudge();
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

  /** One connection, from its token to its end, or following another tab's. Never throws. @returns {Promise<End>} */
  async #once() {
    const attempt = new AbortController();
    const { signal } = attempt;
    this.#attempt = attempt;
    this.#liveSince = 0;
    this.#watchdog.heardAt = 0;
    try {
      const token = await this.#token(signal);
      if (typeof token !== "string") return token;
      if (token !== "" && !isVisibleAscii(token)) {
        const problem = { title: "Unusable token", detail: "The token holds characters that no header can carry." };
        return { kind: "denied", reason: "refused", problem };
      }
      const group = await groupOf(this.#options, this.#route.address, token);
      signal.throwIfAborted();
      if (await this.#tabs.enter(group, signal)) return { kind: "again", reason: "leading" }; // with a token of today
      if (this.#mode === "poll") {
        const host = this.#host(this.#route.pages, token, signal);
        return await poll(host, signal, this.#options.format, this.#every);
      }
      const address = await this.#route.stream(token, signal);
      return address instanceof URL ? await stream(this.#host(address, token, signal), signal) : address;
    } catch (error) {
      return signal.aborted ? signal.reason : { kind: "lost", reason: "lost", error };
    } finally {
      this.#watchdog.stop();
      this.#tokens.stop();
      this.#attempt = null;
      attempt.abort(); // a stream we turned away from (closing, renewed) must not stay open behind our back
      this.#settle();
    }
  }

  /** The token, or how the attempt ended for want of one. @param {AbortSignal} signal @returns {Promise<string | End>} */
  async #token(signal) {
    try {
      return await this.#tokens.next(signal);
    } catch (error) {
      if (signal.aborted) throw error;
      const detail = error instanceof Error ? error.message : String(error);
      return { kind: "lost", reason: "token-failed", error, problem: { title: "The token function failed", detail } };
    }
  }

  /** @param {End} end */
  async #next(end) {
    if (end.kind === "stop") return this.#finish(end.reason);
    if (end.reason === "stream-again") this.#mode = "stream";
    if (end.kind === "renewed" || end.kind === "again") return;
    // A token function may have answered from its cache just as that token expired: it is asked once more, no oftener.
    const expired = end.kind === "unauthorized" && this.#tokens.renewable && !this.#unauthorized;
    this.#unauthorized = end.kind === "unauthorized";
    if (end.kind === "denied" || (end.kind === "unauthorized" && !expired)) {
      this.#tabs.leave(); // another tab's token may do
      return this.#stay("denied", end);
    }
    const stable = this.#liveSince > 0 && Date.now() - this.#liveSince >= STABLE_MS;
    if (stable) this.#failures = 0;
    if (end.kind === "closing" && stable) return this.#stay("waiting", end, Math.random() * CLOSING_JITTER_MS);
    if (end.kind === "early") this.#tokens.keep();
    const asked = Math.max(end.floor ?? 0, end.hold ?? 0);
    const isNowhere = end.problem?.status === 404;
    if (isNowhere) this.#route.forget();
    const cap = isNowhere ? NOWHERE_CAP_MS : BACKOFF_CAP_MS;
    const delay = backoff(this.#failures, Math.max(this.#serverRetry, asked), Math.random, cap);
    if (end.kind !== "dropped") {
      this.#chooseMode(end);
      this.#failures += 1;
    }
    return this.#stay("waiting", end, delay, asked);
  }

  /**
   * A proxy that buffers or blocks streams lets short answers through: after signs of one, poll.
   * @param {End} end
   */
  #chooseMode(end) {
    if (this.#every > 0) return;
    if (this.#mode === "poll") {
      this.#mode = "stream"; // the poll failed too: the server is away, and not only its streams
      this.#unheard = 0;
      return;
    }
    const nothing = this.#watchdog.heardAt === 0 && end.problem === undefined;
    this.#unheard = nothing || end.kind === "silent" ? this.#unheard + 1 : 0;
    const buffered = end.kind === "silent" && (nothing || this.#unheard >= 2);
    const status = end.problem?.status;
    const isPagesOnly = status === 406 || (status === 404 && this.#route.isElsewhere);
    if (!isPagesOnly && !buffered && this.#unheard < BLOCKED_AFTER) return;
    this.#mode = "poll";
    this.#route.forget();
    if (end.kind === "lost") end.problem ??= this.#route.unreachable();
  }

  /**
   * Waits. `retry()` ends it at any time, a network or a tab that comes back only after `floor`, which a server in need
   * has asked for.
   * @param {"waiting" | "denied"} state @param {End} end @param {number} [delay] @param {number} [floor]
   */
  async #stay(state, end, delay, floor = 0) {
    const over = this.#rest.stay(delay, state === "denied" ? Infinity : floor);
    this.#enter(state, { reason: end.reason, delay, problem: end.problem, error: end.error });
    await over;
  }

  // ---- what an attempt, and the other tabs, may do here --------------------------------------------------------

  /** @param {URL} address @param {string} token @param {AbortSignal} signal @returns {import("./client/attempt.js").Host} */
  #host(address, token, signal) {
    const self = this;
    return {
      get cursor() { return self.#cursor; },
      get state() { return self.#state; },
      get isOpen() { return self.#open; },
      heartbeat: this.#heartbeat,
      watchdog: this.#watchdog,
      ask: (accept, wait) => {
        const { credentials = "same-origin" } = this.#options;
        return ask({ address, cursor: this.#cursor, from: this.#from, token, accept, wait, credentials, signal });
      },
      accepted: () => {
        this.#unauthorized = false;
        this.#enter("replaying", { reason: "accepted" });
        if (this.#every === 0) this.#tokens.accepted(token, signal);
      },
      get isTokenOver() { return self.#tokens.renewable && isOver(token); },
      pause: (ms) => this.#rest.pause(ms, signal),
      expiring: (seconds) => this.#tokens.expiring(seconds, signal),
      retryIn: (ms) => { this.#serverRetry = Math.min(ms, LONGEST_RETRY_MS); },
      tell: (entry) => {
        this.#tabs.add(entry);
        this.#apply(entry);
      },
      settle: () => this.#settle(),
    };
  }

  /** @returns {import("./client/tabs.js").Member} */
  #member() {
    const self = this;
    return {
      get cursor() { return self.#cursor; },
      fromNow: this.#from === "now",
      heartbeat: this.#heartbeat,
      apply: (entry) => this.#apply(entry),
      settle: () => this.#store(),
      mirror: ({ state, change }) => {
        this.#mode = change.mode;
        if (state !== this.#state) this.#tell(state, change);
      },
      joined: (resumed, recovered, replayed) => {
        this.#call("onReady", { recovered, replayed, resumed, cursor: this.#cursor });
      },
      again: (reason) => {
        this.#cut({ kind: "again", reason });
        this.#rest.wake();
      },
      leads: () => this.#tell(this.#state, { previous: this.#state, reason: "leading", attempt: 0, mode: this.#mode, role: "leader" }),
      nudge: () => this.#rest.hurry(),
    };
  }

  // ---- telling the page ---------------------------------------------------------------------------------------

  /** @param {Entry} entry */
  #apply(entry) {
    if (entry.cursor !== "") this.#cursor = entry.cursor;
    const cursor = this.#cursor;
    if (entry.kind === "event") this.#call("onEvent", eventOf(entry.event, cursor, this.#options.format));
    else if (entry.kind === "gap") this.#call("onGap", { reason: entry.reason, cursor });
    else if (entry.kind === "ready") {
      const { recovered, replayed, resumed } = entry;
      this.#liveSince = Date.now();
      if (this.#state !== "live") this.#enter("live", { reason: "ready" });
      this.#call("onReady", { recovered, replayed, resumed, cursor });
    }
  }

  /** @param {State} state @param {{reason: string, delay?: number, problem?: Problem, error?: unknown}} why */
  #enter(state, why) {
    if (!this.#open && state !== "closed") return;
    const change = { previous: this.#state, attempt: this.#failures, mode: this.#mode, role: this.#tabs.role, ...why };
    this.#tell(state, change);
    this.#tabs.changed(state, change);
  }

  /** @param {State} state @param {StateChange} change */
  #tell(state, change) {
    const previous = this.#state;
    this.#state = state;
    this.#call("onState", state, { ...change, previous, role: this.#tabs.role });
    const failure = failureOf(state, change);
    if (failure) this.#call("onError", failure);
  }

  /** @param {string} reason */
  #finish(reason) {
    if (!this.#open) return;
    this.#open = false;
    this.#listeners.abort();
    this.#tabs.leave();
    this.#cut({ kind: "stop", reason });
    this.#rest.wake();
    this.#enter("closed", { reason });
  }

  /** A page's bug in a callback must not end the stream. @param {"onEvent" | "onGap" | "onReady" | "onState" | "onError"} name @param {...any} args */
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
    if (isHidden()) return;
    this.#rest.hurry();
    this.#tabs.nudge();
  }

  /** @param {End} end */
  #cut(end) {
    this.#attempt?.abort(end);
  }

  #settle() {
    this.#store();
    this.#tabs.settle();
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
