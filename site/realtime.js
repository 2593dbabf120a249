// Tidewire's browser client: a subscription that resumes at its cursor after each lost connection.
//
//   import { connect } from "./realtime.js";
//   connect({ token: () => fetchToken(), onEvent: (event) => console.log(event.type, event.data) });
//
// It uses fetch instead of EventSource: the token travels in a header (URLs are logged), one callback receives all event
// types, the page can read why a request was refused, and a silent connection is replaced. Runs in browsers and in Node 20.
// Each server with the console serves this file and client/. To host it yourself, copy both.

import { HEARTBEAT_SLACK_MS, poll, stream } from "./client/attempt.js";
import { Endpoints } from "./client/endpoints.js";
import { fromParameter, isVisibleAscii, listOf, pollIntervalOf, sendRequest } from "./client/request.js";
import { eventOf, failureOf } from "./client/response.js";
import { backoff, BACKOFF_CAP_MS, CLOSING_JITTER_MS, NOT_FOUND_CAP_MS } from "./client/retry.js";
import { groupOf, Tabs } from "./client/tabs.js";
import { isExpiring, Tokens } from "./client/tokens.js";
import { isHidden, Wait } from "./client/wait.js";
import { Watchdog } from "./client/watchdog.js";

/** @typedef {import("./realtime.d.ts").ConnectOptions} ConnectOptions */
/** @typedef {import("./realtime.d.ts").State} State */
/** @typedef {import("./realtime.d.ts").StateChange} StateChange */
/** @typedef {import("./realtime.d.ts").Problem} Problem */
/** @typedef {import("./client/response.js").End} End */
/** @typedef {import("./client/response.js").Entry} Entry */

/** A connection that was live for less than this counts as a failure, so that a crashing server is not overloaded. */
const STABLE_MS = 5_000;

/** Maximum of the server's `retry:`. */
const MAX_RETRY_MS = 60_000;

/** Consecutive attempts without a byte before the client polls. */
const BLOCKED_AFTER = 3;

/** @param {ConnectOptions} [options] @returns {import("./realtime.d.ts").Subscription} */
export function connect(options = {}) {
  return new Subscription(options);
}

class Subscription {
  #options;
  #endpoints;
  #pollInterval; // milliseconds, 0 in stream mode
  #from;
  #heartbeat;
  #storageKey;
  #cursor;
  /** @type {State} */ #state = "closed";
  /** @type {"stream" | "poll"} */ #mode;
  #isOpen = true;
  #failures = 0; // consecutive; the exponent of the backoff
  #silentAttempts = 0; // consecutive; without a byte, or ended by the watchdog
  #wasUnauthorized = false; // the last response was a 401
  #serverRetry = 0;
  #liveSince = 0;
  /** @type {AbortController | null} */ #attempt = null;
  #wait = new Wait();
  #tokens;
  #tabs;
  #watchdog = new Watchdog(() => this.#endAttempt({ kind: "silent", reason: "silent" }));
  #listeners = new AbortController();

  /** @param {ConnectOptions} options */
  constructor(options) {
    this.#options = options;
    const { url = options.streamUrl ?? "", userId = "", types, signal, token } = options;
    this.#endpoints = Endpoints.of(options);
    this.#pollInterval = pollIntervalOf(options);
    this.#mode = this.#pollInterval > 0 ? "poll" : "stream";
    this.#from = fromParameter(options.from);
    this.#heartbeat = options.heartbeat ?? 15_000;
    this.#storageKey = options.storageKey ?? `realtime:${[url, userId, listOf(types)].join("|")}`;
    this.#cursor = options.cursor || this.#loadCursor() || "";
    this.#tokens = new Tokens(token, () => this.#endAttempt({ kind: "lost", reason: "token-timeout" }),
      () => this.#endAttempt({ kind: "renewed", reason: "renewed" }));
    this.#tabs = new Tabs(this.#tabMember());
    if (signal?.aborted) {
      this.#isOpen = false;
      return;
    }
    const until = { signal: this.#listeners.signal };
    signal?.addEventListener("abort", () => this.close(), until);
    globalThis.addEventListener?.("online", () => this.#networkChanged(), until);
    globalThis.document?.addEventListener("visibilitychange", () => this.#visibilityChanged(), until);
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
    this.#close("closed");
  }

  drop(holdMs = 0) {
    this.#endAttempt({ kind: "dropped", reason: "dropped", hold: holdMs });
  }

  retry() {
    this.#wait.skip();
    this.#tabs.pingLeader();
  }

  // ---- the loop: attempt, evaluate its end, wait --------------------------------------------------------------

  async #run() {
    await null; // no callback runs before connect() has returned
    let reason = "start";
    while (this.#isOpen) {
      this.#enter("connecting", { reason });
      const end = await this.#runAttempt();
      reason = end.reason;
      if (this.#isOpen) await this.#afterAttempt(end);
    }
  }

  /** One connection, or the time as a follower of another tab. Never throws. @returns {Promise<End>} */
  async #runAttempt() {
    const attempt = new AbortController();
    const { signal } = attempt;
    this.#attempt = attempt;
    this.#liveSince = 0;
    this.#watchdog.receivedAt = 0;
    try {
      const token = await this.#nextToken(signal);
      if (typeof token !== "string") return token;
      if (token !== "" && !isVisibleAscii(token)) {
        const problem = { title: "Invalid token", detail: "The token contains characters that an HTTP header cannot carry." };
        return { kind: "denied", reason: "refused", problem };
      }
      const group = await groupOf(this.#options, this.#endpoints.address, token);
      signal.throwIfAborted();
      if (await this.#tabs.join(group, signal)) return { kind: "restart", reason: "leading" }; // to get a current token
      if (this.#mode === "poll") {
        const context = this.#context(this.#endpoints.pages, token, signal);
        return await poll(context, signal, this.#options.format, this.#pollInterval);
      }
      const address = await this.#endpoints.stream(token, signal);
      return address instanceof URL ? await stream(this.#context(address, token, signal), signal) : address;
    } catch (error) {
      return signal.aborted ? signal.reason : { kind: "lost", reason: "lost", error };
    } finally {
      this.#watchdog.stop();
      this.#tokens.stop();
      this.#attempt = null;
      attempt.abort(); // closes a stream that is still open (closing, renewed)
      this.#flush();
    }
  }

  /** The token, or how the attempt ended without one. @param {AbortSignal} signal @returns {Promise<string | End>} */
  async #nextToken(signal) {
    try {
      return await this.#tokens.next(signal);
    } catch (error) {
      if (signal.aborted) throw error;
      const detail = error instanceof Error ? error.message : String(error);
      return { kind: "lost", reason: "token-failed", error, problem: { title: "The token function failed", detail } };
    }
  }

  /** @param {End} end */
  async #afterAttempt(end) {
    if (end.kind === "stop") return this.#close(end.reason);
    if (end.reason === "stream-again") this.#mode = "stream";
    if (end.kind === "renewed" || end.kind === "restart") return;
    // A token function may return a cached token that has just expired, so it is called once more, and only once.
    const mayBeExpired = end.kind === "unauthorized" && this.#tokens.renewable && !this.#wasUnauthorized;
    this.#wasUnauthorized = end.kind === "unauthorized";
    if (end.kind === "denied" || (end.kind === "unauthorized" && !mayBeExpired)) {
      this.#tabs.leave(); // another tab may have a valid token
      return this.#rest("denied", end);
    }
    const isStable = this.#liveSince > 0 && Date.now() - this.#liveSince >= STABLE_MS;
    if (isStable) this.#failures = 0;
    if (end.kind === "closing" && isStable) return this.#rest("waiting", end, Math.random() * CLOSING_JITTER_MS);
    if (end.kind === "too-early") this.#tokens.reuse();
    const minimum = Math.max(end.minimum ?? 0, end.hold ?? 0);
    const isNotFound = end.problem?.status === 404;
    if (isNotFound) this.#endpoints.forget();
    const cap = isNotFound ? NOT_FOUND_CAP_MS : BACKOFF_CAP_MS;
    const delay = backoff(this.#failures, Math.max(this.#serverRetry, minimum), Math.random, cap);
    if (end.kind !== "dropped") {
      this.#chooseMode(end);
      this.#failures += 1;
    }
    return this.#rest("waiting", end, delay, minimum);
  }

  /**
   * Polls if a proxy seems to buffer or block streams: short responses get through.
   * @param {End} end
   */
  #chooseMode(end) {
    if (this.#pollInterval > 0) return;
    if (this.#mode === "poll") {
      this.#mode = "stream"; // polls fail too, so the server itself is away
      this.#silentAttempts = 0;
      return;
    }
    const isEmpty = this.#watchdog.receivedAt === 0 && end.problem === undefined;
    this.#silentAttempts = isEmpty || end.kind === "silent" ? this.#silentAttempts + 1 : 0;
    const isBuffered = end.kind === "silent" && (isEmpty || this.#silentAttempts >= 2);
    const status = end.problem?.status;
    const hasPagesOnly = status === 406 || (status === 404 && this.#endpoints.hasSeparateStream);
    if (!hasPagesOnly && !isBuffered && this.#silentAttempts < BLOCKED_AFTER) return;
    this.#mode = "poll";
    this.#endpoints.forget();
    if (end.kind === "lost") end.problem ??= this.#endpoints.unreachable();
  }

  /**
   * Waits in this state. `retry()` ends the wait at any time; a network or page that comes back, only after `minimum`.
   * @param {"waiting" | "denied"} state @param {End} end @param {number} [delay] @param {number} [minimum]
   */
  async #rest(state, end, delay, minimum = 0) {
    const ended = this.#wait.beforeAttempt(delay, state === "denied" ? Infinity : minimum);
    this.#enter(state, { reason: end.reason, delay, problem: end.problem, error: end.error });
    await ended;
  }

  // ---- what attempts and tabs get of this subscription --------------------------------------------------------

  /** @param {URL} address @param {string} token @param {AbortSignal} signal @returns {import("./client/attempt.js").Context} */
  #context(address, token, signal) {
    const self = this;
    return {
      get cursor() { return self.#cursor; },
      get state() { return self.#state; },
      get isOpen() { return self.#isOpen; },
      get isTokenExpiring() { return self.#tokens.renewable && isExpiring(token); },
      heartbeat: this.#heartbeat,
      watchdog: this.#watchdog,
      request: (accept, wait) => {
        const { credentials = "same-origin" } = this.#options;
        return sendRequest({ address, cursor: this.#cursor, from: this.#from, token, accept, wait, credentials, signal });
      },
      accepted: () => {
        this.#wasUnauthorized = false;
        this.#enter("replaying", { reason: "accepted" });
        if (this.#pollInterval === 0) this.#tokens.accepted(token, signal);
      },
      pause: (ms) => this.#wait.betweenPolls(ms, signal),
      expiring: (seconds) => this.#tokens.expiring(seconds, signal),
      setRetry: (ms) => { this.#serverRetry = Math.min(ms, MAX_RETRY_MS); },
      emit: (entry) => {
        this.#tabs.record(entry);
        this.#deliver(entry);
      },
      flush: () => this.#flush(),
    };
  }

  /** @returns {import("./client/tabs.js").Member} */
  #tabMember() {
    const self = this;
    return {
      get cursor() { return self.#cursor; },
      fromNow: this.#from === "now",
      heartbeat: this.#heartbeat,
      deliver: (entry) => this.#deliver(entry),
      saveCursor: () => this.#saveCursor(),
      mirror: ({ state, change }) => {
        this.#mode = change.mode;
        if (state !== this.#state) this.#setState(state, change);
      },
      joined: (resumed, recovered, replayed) => {
        this.#call("onReady", { recovered, replayed, resumed, cursor: this.#cursor });
      },
      restart: (reason) => {
        this.#endAttempt({ kind: "restart", reason });
        this.#wait.skip();
      },
      becameLeader: () => {
        this.#setState(this.#state, { previous: this.#state, reason: "leading", attempt: 0, mode: this.#mode, role: "leader" });
      },
      skipWait: () => this.#wait.skipIfAllowed(),
    };
  }

  // ---- callbacks ----------------------------------------------------------------------------------------------

  /** @param {Entry} entry */
  #deliver(entry) {
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

  /**
   * A change of this subscription's own connection, which the group's other tabs mirror.
   * @param {State} state @param {{reason: string, delay?: number, problem?: Problem, error?: unknown}} details
   */
  #enter(state, details) {
    if (!this.#isOpen && state !== "closed") return;
    const change = { previous: this.#state, attempt: this.#failures, mode: this.#mode, role: this.#tabs.role, ...details };
    this.#setState(state, change);
    this.#tabs.stateChanged(state, change);
  }

  /** @param {State} state @param {StateChange} change */
  #setState(state, change) {
    const previous = this.#state;
    this.#state = state;
    this.#call("onState", state, { ...change, previous, role: this.#tabs.role });
    const failure = failureOf(state, change);
    if (failure) this.#call("onError", failure);
  }

  /** @param {string} reason */
  #close(reason) {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#listeners.abort();
    this.#tabs.leave();
    this.#endAttempt({ kind: "stop", reason });
    this.#wait.skip();
    this.#enter("closed", { reason });
  }

  /**
   * Reports an exception of a callback without ending the stream.
   * @param {"onEvent" | "onGap" | "onReady" | "onState" | "onError"} name @param {...any} args
   */
  #call(name, ...args) {
    if (!this.#isOpen && name !== "onState") return;
    try {
      /** @type {any} */ (this.#options[name])?.(...args);
    } catch (error) {
      if (typeof reportError === "function") reportError(error);
      else queueMicrotask(() => { throw error; });
    }
  }

  // ---- network, visibility, storage ---------------------------------------------------------------------------

  #networkChanged() {
    this.#visibilityChanged();
    // The connection may belong to the old network: without a heartbeat from now on, it is dead.
    if (this.#mode === "stream") this.#watchdog.shorten(this.#heartbeat + HEARTBEAT_SLACK_MS);
  }

  #visibilityChanged() {
    if (isHidden()) return;
    this.#wait.skipIfAllowed();
    this.#tabs.pingLeader();
  }

  /** @param {End} end */
  #endAttempt(end) {
    this.#attempt?.abort(end);
  }

  #flush() {
    this.#saveCursor();
    this.#tabs.flush();
  }

  #loadCursor() {
    try {
      return this.#options.storage?.getItem(this.#storageKey) ?? "";
    } catch {
      return ""; // storage is blocked: a reload starts at `from`
    }
  }

  #saveCursor() {
    try {
      if (this.#cursor !== "") this.#options.storage?.setItem(this.#storageKey, this.#cursor);
    } catch {
      // Storage is full or blocked. The connection does not need it.
    }
  }
}
