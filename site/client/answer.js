// What the server's answer means.

import { retryAfter } from "./retry.js";

/** @typedef {import("../realtime.d.ts").Problem} Problem */
/** @typedef {import("../realtime.d.ts").RealtimeEvent} RealtimeEvent */

/**
 * How one attempt ended, and so what comes next. `floor`: the server asked for this wait; `hold`: drop() did.
 * @typedef {{
 *   kind: "lost" | "silent" | "dropped" | "closing" | "renewed" | "again" | "unauthorized" | "early" | "denied" |
 *     "stop",
 *   reason: string, error?: unknown, problem?: Problem, floor?: number, hold?: number
 * }} End
 */

/**
 * What a subscription hears, one thing at a time, from the server or from the tab that is connected for all. `cursor` is
 * the place once it is handled, "" where that is only known with a later one (the events of a JSON page).
 * @typedef {{kind: "event", cursor: string, event: Heard} | {kind: "gap", cursor: string, reason: string} |
 *   {kind: "ready", cursor: string, recovered: boolean, replayed: number, resumed: boolean} |
 *   {kind: "moved", cursor: string}} Entry
 */

/** An event before its data is parsed: text is cheap to post, and each tab parses a copy of its own.
 * @typedef {{type: string, raw: string, replayed: boolean, id?: string, time?: string, source?: string}} Heard */

/**
 * null where the answer is the wanted one. 400 and 403 will not change by asking again; all else may (a 404 is a
 * function being deployed, a 200 with HTML a hotel's login page).
 * @param {Response} response
 * @param {string} wanted media type
 * @returns {Promise<End | null>}
 */
export async function refusalOf(response, wanted) {
  const { status } = response;
  const contentType = response.headers.get("Content-Type") ?? "";
  if (status === 204) return { kind: "stop", reason: "stopped" };
  if (status === 200 && contentType.startsWith(wanted)) return null;
  const floor = retryAfter(response.headers.get("Retry-After"));
  if (status === 200) {
    const title = `The answer is ${contentType || "of no type"}, not ${wanted}`;
    return { kind: "lost", reason: "refused", floor, problem: { status, title } };
  }
  const problem = await problemOf(response);
  if (status === 404) {
    problem.title = "There is no event stream at this address";
    problem.detail = `${response.url.split("?")[0]} answered 404. Set REALTIME_STREAM_URL at the server, or pass streamUrl.`;
  }
  // With Retry-After the token begins to hold later: the clock that made it is ahead.
  if (status === 401) return { kind: floor > 0 ? "early" : "unauthorized", reason: "refused", floor, problem };
  if (status === 400 || status === 403) return { kind: "denied", reason: "refused", problem };
  return { kind: "lost", reason: "refused", floor, problem };
}

/**
 * What a page is told by `onError`; null where nothing is wrong, or a 401 of which the next token may be the cure.
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
 * What the page is told of an event.
 * @param {Heard} heard @param {string} cursor @param {string} [format]
 * @returns {RealtimeEvent}
 */
export function eventOf(heard, cursor, format) {
  const value = parse(heard.raw);
  if (format !== "cloudevents" || typeof value !== "object" || value === null) return { ...heard, data: value, cursor };
  const { id, time, source, type, data } = /** @type {any} */ (value);
  return { ...heard, type: String(type ?? heard.type), data, cursor, id, time, source };
}

/** @param {string} text @returns {unknown} undefined where it is no JSON */
export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
