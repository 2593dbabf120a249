// When to come back, and when not to. Pure: the clock and the dice are arguments.

/** Ceiling of the growing part of a wait: a server that is back is found within half a minute. */
export const BACKOFF_CAP_MS = 30_000;

/** The same where the server knows no such address (404): it may be being deployed, and may be wrong for good. */
export const NOWHERE_CAP_MS = 300_000;

/** First ceiling; doubles with each attempt that failed. */
export const BACKOFF_BASE_MS = 1_000;

/** No server may send a tab away for longer than this (a `Retry-After` date in 2099 is a bug, not a wish). */
export const LONGEST_WAIT_MS = 3_600_000;

/** Spread of a reconnect after `realtime.closing`: all streams of a drained instance end in the same moment. */
export const CLOSING_JITTER_MS = 400;

/**
 * Wait before the next attempt: what the server asked for, plus exponential backoff with full jitter.
 * Full jitter (0 to the ceiling, not around it) keeps a crowd that was cut together from coming back together.
 * @param {number} attempt 0 after a healthy connection, then one more for each failure
 * @param {number} floor milliseconds the server asked for, by `retry:` or `Retry-After`
 * @param {() => number} [random]
 * @param {number} [cap]
 * @returns {number}
 */
export function backoff(attempt, floor, random = Math.random, cap = BACKOFF_CAP_MS) {
  const ceiling = Math.min(cap, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));
  return Math.min(LONGEST_WAIT_MS, Math.max(0, floor) + random() * ceiling);
}

/**
 * `Retry-After` in milliseconds: seconds or an HTTP date; 0 where absent or unreadable.
 * @param {string | null} value
 * @param {number} [now]
 * @returns {number}
 */
export function retryAfter(value, now = Date.now()) {
  if (value === null) return 0;
  const text = value.trim();
  const ms = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return Number.isFinite(ms) ? Math.min(LONGEST_WAIT_MS, Math.max(0, ms)) : 0;
}

/**
 * What a JWT says of itself, undefined where it is none. Read for the renewal timer, and to tell whose it is: nothing
 * is verified here, that is the server's part.
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

/** A token that ends sooner than this is not used for another poll. */
const LEAST_LEFT_MS = 5_000;

/** Whether a JWT has ended, or does before its answer is here. @param {string} token @param {number} [now] @returns {boolean} */
export function isOver(token, now = Date.now()) {
  const { exp } = claimsOf(token) ?? {};
  return typeof exp === "number" && exp * 1000 - now < LEAST_LEFT_MS;
}

/**
 * How long to keep a token before a new one is fetched, undefined where no renewal should be tried.
 * A fifth of the rest of its life, at most a minute, is left over for fetching. A clock that is wrong must not turn
 * into a request loop: an expiry already past is left to the server to notice, and nothing renews within 5 s.
 * @param {number | undefined} expiry
 * @param {number} [now]
 * @returns {number | undefined}
 */
export function renewIn(expiry, now = Date.now()) {
  if (expiry === undefined || !(expiry > now)) return undefined;
  const rest = expiry - now;
  const keep = Math.max(5_000, rest - Math.min(60_000, rest / 5));
  return keep < rest ? Math.min(keep, 2_000_000_000) : undefined; // setTimeout overflows at 2^31 ms and fires at once
}
