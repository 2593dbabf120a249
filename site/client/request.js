// What a subscriber asks for.

/** @typedef {import("../realtime.d.ts").ConnectOptions} ConnectOptions */

/** More often than this, a stream costs less. */
const SHORTEST_EVERY_MS = 1_000;

/** Longer than a day, and the log has forgotten. */
const LONGEST_EVERY_MS = 86_400_000;

/**
 * An address with everything that stays the same. Throws at once on an address or a time that cannot be: inside the loop
 * it would look like a network error and be retried for ever.
 * @param {string | {toString(): string}} url @param {ConnectOptions} options
 * @returns {URL}
 */
export function addressOf(url, { userId, types, format = "data" }) {
  const address = new URL(String(url), globalThis.document?.baseURI ?? globalThis.location?.href);
  const wanted = listOf(types);
  if (wanted !== "") address.searchParams.set("types", wanted);
  if (userId) address.searchParams.set("userId", userId);
  if (format !== "data") address.searchParams.set("format", format);
  return address;
}

/** @param {ConnectOptions["from"]} from @returns {string} */
export function startOf(from = "now") {
  return from instanceof Date ? from.toISOString() : from;
}

/** Milliseconds between plain polls, 0 where it streams. Throws on what is none. @param {ConnectOptions} options @returns {number} */
export function everyOf({ mode = "stream", every = 30_000 }) {
  if (mode !== "poll" && mode !== "stream") throw new TypeError(`mode must be "stream" or "poll", not ${JSON.stringify(mode)}`);
  if (mode === "stream") return 0;
  if (!(every >= SHORTEST_EVERY_MS && every <= LONGEST_EVERY_MS)) {
    throw new RangeError(`every must be ${SHORTEST_EVERY_MS} to ${LONGEST_EVERY_MS} milliseconds: the time between two polls`);
  }
  return every;
}

/** @param {ConnectOptions["types"]} types @returns {string} */
export function listOf(types) {
  return typeof types === "string" ? types : [...(types ?? [])].join(",");
}

/**
 * @param {{address: URL, cursor: string, from: string, token: string, accept: string, wait?: number,
 *   credentials: RequestCredentials, signal: AbortSignal}} request
 * @returns {Promise<Response>}
 */
export function ask({ address, cursor, from, token, accept, wait, credentials, signal }) {
  const target = new URL(address);
  /** @type {Record<string, string>} */ const headers = { Accept: accept };
  if (token !== "") headers.Authorization = `Bearer ${token}`;
  if (wait !== undefined) target.searchParams.set("wait", String(wait));
  if (cursor === "") target.searchParams.set("from", from);
  // A ticket stands for a request without headers of ours, which needs no preflight: each would be billed on a function's
  // own address, and none is kept, because a ticket makes every address a new one.
  else if (isVisibleAscii(cursor) && !target.searchParams.has("ticket")) headers["Last-Event-ID"] = cursor;
  // A cursor that no header can carry (tampered storage) makes fetch throw for ever. The server shall see it and tell a gap.
  else target.searchParams.set("last_event_id", cursor);
  return fetch(target, { headers, signal, credentials, cache: "no-store" });
}

/** @param {string} text */
export function isVisibleAscii(text) {
  return /^[\x21-\x7e]+$/.test(text);
}
