// Which addresses a subscription uses. One process serves everything at one address; deployed, the stream has a host of its
// own, because rewrites and API gateways hold streams back. The server names it (GET /api/config, next to /api/events).

import { orAborted } from "./attempt.js";
import { refusalOf } from "./answer.js";
import { addressOf } from "./request.js";

/** @typedef {import("./answer.js").End} End */
/** @typedef {{auth: "required" | "none" | "unknown", stream: URL}} Found */

/** A cold function answers within a few seconds. */
const ANSWER_MS = 10_000;

/** Statuses below 500 that say "later". */
const IN_NEED = [408, 425, 429];

/** Asked for once in the life of the page, whatever the number of subscriptions. @type {Map<string, Promise<Found | End>>} */
const known = new Map();

export class Route {
  #pages;
  #explicit;
  #credentials;
  /** @type {Promise<Found | End> | undefined} */ #used;
  /** @type {URL | null} the last one, for what is said of it */ #last = null;

  /**
   * @param {URL} pages  where JSON pages are, with the query of this subscription
   * @param {URL | null} explicit  where the page says that the stream is, with the same query
   * @param {RequestCredentials} credentials
   */
  constructor(pages, explicit, credentials) {
    this.#pages = pages;
    this.#explicit = explicit;
    this.#credentials = credentials;
    this.#last = explicit;
  }

  /** @param {import("../realtime.d.ts").ConnectOptions} options @returns {Route} */
  static of(options) {
    const { url, streamUrl, credentials = "same-origin" } = options;
    const explicit = streamUrl ? addressOf(streamUrl, options) : null;
    const pages = url || explicit === null ? addressOf(url || "/api/events", options) : explicit;
    return new Route(pages, explicit, credentials);
  }

  /** Where JSON pages are. */
  get pages() {
    return this.#pages;
  }

  /** What the page asked for, by which tabs know that they hear the same. */
  get address() {
    return this.#explicit ?? this.#pages;
  }

  /** Whether the stream has another address than the pages. */
  get isElsewhere() {
    return this.#last !== null && keyOf(this.#last) !== keyOf(this.#pages);
  }

  /**
   * Where to open the stream, or how the attempt ended that could not find out.
   * A token goes into a header, also to another host. A cookie does not reach another host: there a ticket stands for it,
   * made anew for each connection, because the cookie may be another user's by then.
   * @param {string} token @param {AbortSignal} signal @returns {Promise<URL | End>}
   */
  async stream(token, signal) {
    if (this.#explicit !== null) return this.#explicit;
    this.#used = find(this.#pages, this.#credentials);
    const found = await orAborted(this.#used, signal);
    if ("kind" in found) return found;
    const { auth, stream } = found;
    this.#last = stream;
    const isElsewhere = stream.origin !== this.#pages.origin;
    const needsTicket = isElsewhere && auth === "required" && token === "" && this.#credentials !== "omit";
    return needsTicket ? this.#withTicket(stream, signal) : withQuery(stream, this.#pages);
  }

  /** The address failed: the next attempt asks the server again. */
  forget() {
    if (this.#used !== undefined) drop(keyOf(this.#pages), this.#used);
  }

  /**
   * Why nothing comes from the stream's address, as far as a page can know: a browser says no more than "failed".
   * @returns {import("../realtime.d.ts").Problem}
   */
  unreachable() {
    const { origin } = this.#last ?? this.#pages;
    const page = globalThis.location?.origin;
    const reason = page === undefined || page === origin ? "" : ` If it runs, see that ${page} is in its REALTIME_ALLOWED_ORIGINS.`;
    return { title: "The stream cannot be reached", detail: `Attempts at ${origin} failed without an answer.${reason}` };
  }

  /** @param {URL} stream @param {AbortSignal} signal @returns {Promise<URL | End>} */
  async #withTicket(stream, signal) {
    const response = await fetch(new URL("tickets", this.#pages), {
      method: "POST", headers: { Accept: "application/json" }, credentials: this.#credentials, cache: "no-store",
      signal: AbortSignal.any?.([signal, AbortSignal.timeout(ANSWER_MS)]) ?? signal,
    });
    // No tickets here, but the page has said that the cookie may go to other hosts.
    if (response.status === 501 && this.#credentials === "include") return withQuery(stream, this.#pages);
    const refusal = await refusalOf(response, "application/json");
    if (refusal) return response.status === 501 ? { ...refusal, kind: "denied" } : refusal;
    const { ticket, url } = await response.json();
    const target = withQuery(new URL(String(url ?? stream.href), this.#pages), this.#pages);
    target.searchParams.set("ticket", String(ticket));
    return target;
  }
}

/**
 * What the server says, asked once in the life of the page; an answer that is no good is not kept.
 * @param {URL} pages @param {RequestCredentials} [credentials] @returns {Promise<Found | End>}
 */
export function find(pages, credentials = "same-origin") {
  const key = keyOf(pages);
  const before = known.get(key);
  if (before !== undefined) return before;
  const asked = ask(new URL("config", pages), new URL(key), credentials);
  known.set(key, asked);
  asked.then((found) => "kind" in found && drop(key, asked), () => drop(key, asked));
  return asked;
}

/** @param {URL} pages @returns {string} */
function keyOf(pages) {
  return pages.origin + pages.pathname;
}

/** Unless another subscription has asked anew. @param {string} key @param {Promise<Found | End>} asked */
function drop(key, asked) {
  if (known.get(key) === asked) known.delete(key);
}

/**
 * A server that has no such path (an older one, or a proxy that passes on /api/events alone) has its stream where its
 * pages are. One that is in need says nothing about that.
 * @param {URL} config @param {URL} pages @param {RequestCredentials} credentials @returns {Promise<Found | End>}
 */
async function ask(config, pages, credentials) {
  const here = { auth: /** @type {const} */ ("unknown"), stream: pages };
  const signal = AbortSignal.timeout?.(ANSWER_MS) ?? null;
  const request = { headers: { Accept: "application/json" }, credentials, cache: /** @type {const} */ ("no-store"), signal };
  const response = await fetch(config, request).catch((error) => {
    // Another host's 404 without CORS headers looks as if that host were away. If it is, the stream's attempt will show it.
    if (globalThis.location === undefined || config.origin === location.origin) throw error;
    return null;
  });
  if (response === null) return here;
  const { status } = response;
  if (status >= 500 || IN_NEED.includes(status)) return /** @type {End} */ (await refusalOf(response, "application/json"));
  const isJson = status === 200 && /json/.test(response.headers.get("Content-Type") ?? "");
  const answer = await (isJson ? response.json() : response.text()); // read to its end, so that the connection is free
  if (typeof answer?.streamUrl !== "string") return here;
  return { auth: answer.auth === "none" ? "none" : "required", stream: new URL(answer.streamUrl, config) };
}

/** @param {URL} address @param {URL} like @returns {URL} */
export function withQuery(address, like) {
  const target = new URL(address);
  for (const [name, value] of like.searchParams) target.searchParams.set(name, value);
  return target;
}
