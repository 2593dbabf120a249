// Where a subscription's tokens come from, and when the next one is fetched.

import { orAborted } from "./attempt.js";
import { isVisibleAscii } from "./request.js";
import { claimsOf, renewIn } from "./retry.js";

/** A token that its stream told to be expiring sooner than this was short-lived from the start. */
const SHORT_MS = 5_000;

/** The application's token function talks to a server too, and may hang. */
const TOKEN_MS = 30_000;

export class Tokens {
  #source;
  #onTimeout;
  #onRenewed;
  #given = "";
  #inUse = "";
  #usedSince = 0;
  #asking = false;
  /** @type {string | null} */ #renewed = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  /**
   * @param {import("../realtime.d.ts").ConnectOptions["token"]} source
   * @param {() => void} onTimeout @param {() => void} onRenewed a fresh one is at hand: connect again
   */
  constructor(source, onTimeout, onRenewed) {
    this.#source = source;
    this.#onTimeout = onTimeout;
    this.#onRenewed = onRenewed;
  }

  /** Whether another one can be had. */
  get renewable() {
    return typeof this.#source === "function";
  }

  /** The token for the next connection, "" for none. @param {AbortSignal} signal @returns {Promise<string>} */
  async next(signal) {
    const renewed = this.#renewed;
    this.#renewed = null;
    if (renewed !== null) return (this.#given = renewed);
    if (typeof this.#source !== "function") return (this.#source ?? "").trim();
    this.#timer = setTimeout(this.#onTimeout, TOKEN_MS);
    return (this.#given = await this.#ask(this.#source, signal).finally(() => clearTimeout(this.#timer)));
  }

  /** The next connection takes the same token again: another one would be made on the same clock, and as early. */
  keep() {
    if (this.renewable) this.#renewed = this.#given;
  }

  /** The server took this one: fetch the next before it ends. @param {string} token @param {AbortSignal} signal */
  accepted(token, signal) {
    this.#inUse = token;
    this.#usedSince = Date.now();
    const { exp } = claimsOf(token) ?? {};
    const wait = this.renewable ? renewIn(typeof exp === "number" ? exp * 1000 : undefined) : undefined;
    if (wait !== undefined) this.#timer = setTimeout(() => this.renew(signal), wait);
  }

  /**
   * The server's own warning, for tokens that do not say when they end and clocks that are wrong. Of tokens that live
   * no longer than the warning is early, each stream is warned at once: renewed at once, they would make a loop.
   * @param {number} seconds left @param {AbortSignal} signal
   */
  expiring(seconds, signal) {
    const now = Date.now();
    if (now - this.#usedSince >= SHORT_MS) return void this.renew(signal);
    const wait = renewIn(now + seconds * 1000, now);
    clearTimeout(this.#timer);
    if (wait !== undefined) this.#timer = setTimeout(() => this.renew(signal), wait);
  }

  /**
   * The next token is fetched while the old stream still delivers, and the switch is a resume by cursor: no hole.
   * @param {AbortSignal} signal
   */
  async renew(signal) {
    if (typeof this.#source !== "function" || this.#asking) return;
    this.#asking = true;
    try {
      const fresh = await this.#ask(this.#source, signal);
      // The same again is a cache, and the server ends the stream at expiry. Nothing, as before, is a cookie set anew.
      const useful = fresh === "" ? this.#inUse === "" : fresh !== this.#inUse && isVisibleAscii(fresh);
      if (signal.aborted || !useful) return;
      this.#renewed = fresh;
      this.#onRenewed();
    } catch {
      // The old token still works. When it expires the server says so, and the next attempt asks again.
    } finally {
      this.#asking = false;
    }
  }

  /** The attempt is over, and so is its timer. */
  stop() {
    clearTimeout(this.#timer);
  }

  /** @param {() => any} source @param {AbortSignal} signal */
  async #ask(source, signal) {
    return String((await orAborted(source(), signal)) ?? "").trim();
  }
}
