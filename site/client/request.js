// Builds and sends a subscribe request.

/** @typedef {import("../realtime.d.ts").ConnectOptions} ConnectOptions */

/** Below this interval a stream costs less than polls. */
const MIN_POLL_INTERVAL_MS = 1_000;

/** A day: after that, a log with the default retention no longer holds the events. */
const MAX_POLL_INTERVAL_MS = 86_400_000;

/**
 * The address with the parameters that all requests share. Throws TypeError on an invalid address: the retry loop could
 * not distinguish it from a network error, and would retry it forever.
 * @param {string | {toString(): string}} url @param {ConnectOptions} options
 * @returns {URL}
 */
export function addressOf(url, { userId, types, format = "data" }) {
  const address = new URL(String(url), globalThis.document?.baseURI ?? globalThis.location?.href);
  const list = listOf(types);
  if (list !== "") address.searchParams.set("types", list);
  if (userId) address.searchParams.set("userId", userId);
  if (format !== "data") address.searchParams.set("format", format);
  return address;
}

/** The `from` parameter. Throws RangeError on an invalid date. @param {ConnectOptions["from"]} from @returns {string} */
export function fromParameter(from = "now") {
  return from instanceof Date ? from.toISOString() : from;
}

/**
 * Milliseconds between two polls, 0 in stream mode. Throws TypeError or RangeError on invalid options.
 * @param {ConnectOptions} options @returns {number}
 */
export function pollIntervalOf({ mode = "stream", every = 30_000 }) {
  if (mode !== "poll" && mode !== "stream") throw new TypeError(`mode must be "stream" or "poll", not ${JSON.stringify(mode)}`);
  if (mode === "stream") return 0;
  if (!(every >= MIN_POLL_INTERVAL_MS && every <= MAX_POLL_INTERVAL_MS)) {
    throw new RangeError(`every, the time between two polls, must be ${MIN_POLL_INTERVAL_MS} to ${MAX_POLL_INTERVAL_MS} milliseconds`);
  }
  return every;
}

/** @param {ConnectOptions["types"]} types @returns {string} */
export function listOf(types) {
  return typeof types === "string" ? types : [...(types ?? [])].join(",");
}

/**
 * @param {{address: URL, cursor: string, from: string, token: string, accept: string, wait?: number,
 *   credentials: RequestCredentials, signal: AbortSignal}} parameters
 * @returns {Promise<Response>}
 */
export function sendRequest({ address, cursor, from, token, accept, wait, credentials, signal }) {
  const target = new URL(address);
  /** @type {Record<string, string>} */ const headers = { Accept: accept };
  if (token !== "") headers.Authorization = `Bearer ${token}`;
  if (wait !== undefined) target.searchParams.set("wait", String(wait));
  if (cursor === "") target.searchParams.set("from", from);
  // A request with a ticket needs no header of ours, and so no preflight. A preflight of a function URL is a billed
  // invocation, and browsers cannot cache it: each ticket makes another URL.
  else if (isVisibleAscii(cursor) && !target.searchParams.has("ticket")) headers["Last-Event-ID"] = cursor;
  // With an invalid header value (manipulated storage), fetch would throw on each attempt. As a parameter the cursor
  // reaches the server, which reports a gap.
  else target.searchParams.set("last_event_id", cursor);
  return fetch(target, { headers, signal, credentials, cache: "no-store" });
}

/** @param {string} text */
export function isVisibleAscii(text) {
  return /^[\x21-\x7e]+$/.test(text);
}
