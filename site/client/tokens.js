// A subscription's tokens: fetched before a connection, and renewed before they expire.

import { isVisibleAscii } from "./request.js";
import { orAborted } from "./wait.js";

/** A token whose stream warns of its expiry sooner than this had a short life from the start. */
const SHORT_MS = 5_000;

/** Timeout of the application's token function, which calls a server too. */
const TOKEN_FUNCTION_MS = 30_000;

/** A token with less time left than this is not used for another poll. */
const MIN_LEFT_MS = 5_000;

export class Tokens {
  #source;
  #onTimeout;
  #onRenewed;
  #last = "";
  #inUse = "";
  #inUseSince = 0;
  #renewing = false;
  /** @type {string | null} the token of the next connection */ #next = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  /**
   * @param {import("../realtime.d.ts").ConnectOptions["token"]} source
   * @param {() => void} onTimeout the token function did not return in time
   * @param {() => void} onRenewed a new token is available: reconnect
   */
  constructor(source, onTimeout, onRenewed) {
    this.#source = source;
    this.#onTimeout = onTimeout;
    this.#onRenewed = onRenewed;
  }

  /** Whether a new token can be requested. */
  get renewable() {
    return typeof this.#source === "function";
  }

  /** The token for the next connection; "" if there is none. @param {AbortSignal} signal @returns {Promise<string>} */
  async next(signal) {
    const renewed = this.#next;
    this.#next = null;
    if (renewed !== null) return (this.#last = renewed);
    if (typeof this.#source !== "function") return (this.#source ?? "").trim();
    this.#timer = setTimeout(this.#onTimeout, TOKEN_FUNCTION_MS);
    return (this.#last = await this.#request(this.#source, signal).finally(() => clearTimeout(this.#timer)));
  }

  /** Uses the same token again: it is not valid yet, and a new one, issued by the same clock, would not be either. */
  reuse() {
    if (this.renewable) this.#next = this.#last;
  }

  /** The server accepted this token: schedule its renewal. @param {string} token @param {AbortSignal} signal */
  accepted(token, signal) {
    this.#inUse = token;
    this.#inUseSince = Date.now();
    const { exp } = claimsOf(token) ?? {};
    const wait = this.renewable ? renewIn(typeof exp === "number" ? exp * 1000 : undefined) : undefined;
    if (wait !== undefined) this.#timer = setTimeout(() => this.renew(signal), wait);
  }

  /**
   * The server's warning covers opaque tokens and wrong clocks. If tokens live no longer than the warning's lead time,
   * the server warns each stream at once: an immediate renewal would be a loop.
   * @param {number} seconds left @param {AbortSignal} signal
   */
  expiring(seconds, signal) {
    const now = Date.now();
    if (now - this.#inUseSince >= SHORT_MS) return void this.renew(signal);
    const wait = renewIn(now + seconds * 1000, now);
    clearTimeout(this.#timer);
    if (wait !== undefined) this.#timer = setTimeout(() => this.renew(signal), wait);
  }

  /**
   * Requests the next token while the old stream still delivers. The switch is a resume by cursor, so it loses nothing.
   * @param {AbortSignal} signal
   */
  async renew(signal) {
    if (typeof this.#source !== "function" || this.#renewing) return;
    this.#renewing = true;
    try {
      const token = await this.#request(this.#source, signal);
      // The same token came from a cache: the server ends the stream at expiry. "" twice is a cookie that was replaced.
      const isUsable = token === "" ? this.#inUse === "" : token !== this.#inUse && isVisibleAscii(token);
      if (signal.aborted || !isUsable) return;
      this.#next = token;
      this.#onRenewed();
    } catch {
      // The old token is still valid. When it expires, the server ends the stream and the next attempt requests a token.
    } finally {
      this.#renewing = false;
    }
  }

  /** The attempt ended: clear its timer. */
  stop() {
    clearTimeout(this.#timer);
  }

  /** @param {() => any} source @param {AbortSignal} signal */
  async #request(source, signal) {
    return String((await orAborted(source(), signal)) ?? "").trim();
  }
}

/**
 * The claims of a JWT, undefined for any other token. Unverified (the server verifies): they set the renewal timer and
 * identify the user.
 * @param {string} token
 * @returns {Record<string, unknown> | undefined}
 */
export function claimsOf(token) {
  const parts = token.split(".");
  if (parts.length !== 3) return undefined;
  try {
    const bytes = Uint8Array.from(atob(parts[1].replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === "object" && claims !== null && !Array.isArray(claims) ? claims : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a JWT has expired, or will within 5 s. @param {string} token @param {number} [now] @returns {boolean} */
export function isExpiring(token, now = Date.now()) {
  const { exp } = claimsOf(token) ?? {};
  return typeof exp === "number" && exp * 1000 - now < MIN_LEFT_MS;
}

/**
 * Milliseconds until the token should be renewed; undefined if it should not be.
 * A fifth of its remaining life, at most a minute, is left for the request. A wrong clock must not cause a request loop:
 * an expiry in the past is left to the server, and no renewal starts within 5 s.
 * @param {number | undefined} expiry milliseconds since the epoch
 * @param {number} [now]
 * @returns {number | undefined}
 */
export function renewIn(expiry, now = Date.now()) {
  if (expiry === undefined || !(expiry > now)) return undefined;
  const left = expiry - now;
  const wait = Math.max(5_000, left - Math.min(60_000, left / 5));
  return wait < left ? Math.min(wait, 2_000_000_000) : undefined; // setTimeout overflows at 2^31 ms and fires at once
}
