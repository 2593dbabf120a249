// Interprets the server's responses.

import { retryAfter } from "./retry.js";

/** @typedef {import("../realtime.d.ts").Problem} Problem */
/** @typedef {import("../realtime.d.ts").RealtimeEvent} RealtimeEvent */

/**
 * How an attempt ended, which decides what follows. `minimum`: the delay that the server asked for; `hold`: that of drop().
 * @typedef {{
 *   kind: "lost" | "silent" | "dropped" | "closing" | "renewed" | "restart" | "unauthorized" | "too-early" | "denied" |
 *     "stop",
 *   reason: string, error?: unknown, problem?: Problem, minimum?: number, hold?: number
 * }} End
 */

/**
 * One entry of a subscription's input, from the server or from the leading tab. `cursor` is the position after it; "" if a
 * later entry has it (the events of a JSON page).
 * @typedef {{kind: "event", cursor: string, event: RawEvent} | {kind: "gap", cursor: string, reason: string} |
 *   {kind: "ready", cursor: string, recovered: boolean, replayed: number, resumed: boolean} |
 *   {kind: "moved", cursor: string}} Entry
 */

/** An event with unparsed data: posting text to other tabs is cheap, and each tab parses its own copy.
 * @typedef {{type: string, raw: string, replayed: boolean, id?: string, time?: string, source?: string}} RawEvent */

/**
 * null for a 200 with the expected media type. 400 and 403 are final; everything else may change: a 404 while a function is
 * deployed, a 200 with the HTML of a captive portal.
 * @param {Response} response
 * @param {string} mediaType
 * @returns {Promise<End | null>}
 */
export async function refusalOf(response, mediaType) {
  const { status } = response;
  const contentType = response.headers.get("Content-Type") ?? "";
  if (status === 204) return { kind: "stop", reason: "stopped" };
  if (status === 200 && contentType.startsWith(mediaType)) return null;
  const minimum = retryAfter(response.headers.get("Retry-After"));
  if (status === 200) {
    const title = `The response has ${contentType ? `the type ${contentType}` : "no type"}, expected ${mediaType}`;
    return { kind: "lost", reason: "refused", minimum, problem: { status, title } };
  }
  const problem = await problemOf(response);
  if (status === 404) {
    problem.title = "There is no event stream at this address";
    problem.detail = `${response.url.split("?")[0]} answered 404. Set REALTIME_STREAM_URL on the server, or pass streamUrl.`;
  }
  // Retry-After with a 401: the token is not valid yet, because the issuer's clock is ahead.
  if (status === 401) return { kind: minimum > 0 ? "too-early" : "unauthorized", reason: "refused", minimum, problem };
  if (status === 400 || status === 403) return { kind: "denied", reason: "refused", problem };
  return { kind: "lost", reason: "refused", minimum, problem };
}

/**
 * The argument of `onError`; null if there is no problem, or a 401 that the next token may cure.
 * @param {import("../realtime.d.ts").State} state @param {Pick<import("../realtime.d.ts").StateChange, "problem" | "error">} change
 * @returns {import("../realtime.d.ts").Failure | null}
 */
export function failureOf(state, { problem, error }) {
  const final = state === "denied";
  if (problem === undefined || !(final || (state === "waiting" && problem.status !== 401))) return null;
  const { title = "", detail = "", status } = problem;
  return { message: [title, detail].filter(Boolean).join(": "), problem, final, ...(status ? { status } : {}), ...(error ? { error } : {}) };
}

/** The RFC 9457 body, or one made from the status. @param {Response} response @returns {Promise<Problem>} */
export async function problemOf(response) {
  const { status, statusText } = response;
  const isJson = /json/.test(response.headers.get("Content-Type") ?? "");
  const body = isJson ? await response.json().catch(() => null) : null;
  return { title: statusText || `HTTP ${status}`, ...(typeof body === "object" ? body : null), status };
}

/**
 * The argument of `onEvent`.
 * @param {RawEvent} event @param {string} cursor @param {string} [format]
 * @returns {RealtimeEvent}
 */
export function eventOf(event, cursor, format) {
  const value = parse(event.raw);
  if (format !== "cloudevents" || typeof value !== "object" || value === null) return { ...event, data: value, cursor };
  const { id, time, source, type, data } = /** @type {any} */ (value);
  return { ...event, type: String(type ?? event.type), data, cursor, id, time, source };
}

/** @param {string} text @returns {unknown} undefined if it is not JSON */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
