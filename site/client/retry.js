// Delays between attempts. Pure: the clock and the random numbers are arguments.

/** Maximum of the random part of a delay: the client finds a restarted server within half a minute. */
export const BACKOFF_CAP_MS = 30_000;

/** The same after a 404, which a deployment in progress returns for seconds and a wrong address for good. */
export const NOT_FOUND_CAP_MS = 300_000;

/** First ceiling of the random part; it doubles with each failed attempt. */
export const BACKOFF_BASE_MS = 1_000;

/** Maximum delay. A `Retry-After` date in 2099 is a bug of the server. */
export const MAX_DELAY_MS = 3_600_000;

/** Jitter of a reconnect after `realtime.closing`: all streams of a drained instance end at the same moment. */
export const CLOSING_JITTER_MS = 400;

/**
 * The delay before the next attempt: the server's minimum plus exponential backoff with full jitter.
 * Full jitter (0 to the ceiling, not around it) spreads clients that lost their connections together.
 * @param {number} attempt 0 after a healthy connection, then plus 1 for each failure
 * @param {number} minimum milliseconds that the server asked for, by `retry:` or `Retry-After`
 * @param {() => number} [random]
 * @param {number} [cap]
 * @returns {number} milliseconds
 */
export function backoff(attempt, minimum, random = Math.random, cap = BACKOFF_CAP_MS) {
  const ceiling = Math.min(cap, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));
  return Math.min(MAX_DELAY_MS, Math.max(0, minimum) + random() * ceiling);
}

/**
 * `Retry-After` (RFC 9110, 10.2.3: seconds or an HTTP date) in milliseconds; 0 if it is absent or invalid.
 * @param {string | null} value
 * @param {number} [now]
 * @returns {number}
 */
export function retryAfter(value, now = Date.now()) {
  if (value === null) return 0;
  const text = value.trim();
  const ms = /^[0-9]+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - now;
  return Number.isFinite(ms) ? Math.min(MAX_DELAY_MS, Math.max(0, ms)) : 0;
}
