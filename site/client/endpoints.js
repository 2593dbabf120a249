// The addresses of a subscription. A single process serves everything at one address. In a serverless deployment the stream
// has its own host, because rewrites and API gateways buffer streams; GET /api/config, next to /api/events, returns it.

import { addressOf } from "./request.js";
import { refusalOf } from "./response.js";
import { orAborted } from "./wait.js";

/** @typedef {import("./response.js").End} End */
/** @typedef {{auth: "required" | "none" | "unknown", stream: URL}} Config */

/** Timeout of /api/config and /api/tickets. A cold function responds within seconds. */
const RESPONSE_MS = 10_000;

/** Statuses below 500 that ask the client to try later. */
const TRY_LATER = [408, 425, 429];

/** One request per page load, shared by all subscriptions. @type {Map<string, Promise<Config | End>>} */
const configs = new Map();

export class Endpoints {
  #pages;
  #explicitStream;
  #credentials;
  /** @type {Promise<Config | End> | undefined} */ #config;
  /** @type {URL | null} the address of the last attempt */ #lastStream;

  /**
   * @param {URL} pages  address of the JSON pages, with this subscription's query
   * @param {URL | null} explicitStream  the page's `streamUrl`, with the same query
   * @param {RequestCredentials} credentials
   */
  constructor(pages, explicitStream, credentials) {
    this.#pages = pages;
    this.#explicitStream = explicitStream;
    this.#credentials = credentials;
    this.#lastStream = explicitStream;
  }

  /** @param {import("../realtime.d.ts").ConnectOptions} options @returns {Endpoints} */
  static of(options) {
    const { url, streamUrl, credentials = "same-origin" } = options;
    const explicit = streamUrl ? addressOf(streamUrl, options) : null;
    const pages = url || explicit === null ? addressOf(url || "/api/events", options) : explicit;
    return new Endpoints(pages, explicit, credentials);
  }

  /** The address of the JSON pages. */
  get pages() {
    return this.#pages;
  }

  /** The address from the options. Tabs with the same one can share a connection. */
  get address() {
    return this.#explicitStream ?? this.#pages;
  }

  /** Whether stream and pages have different addresses. */
  get hasSeparateStream() {
    return this.#lastStream !== null && keyOf(this.#lastStream) !== keyOf(this.#pages);
  }

  /**
   * The address of the stream, or how the attempt ended without one.
   * A token travels in a header, also to another host. A cookie does not reach another host: a ticket replaces it. Each
   * connection gets a new ticket, because another user may have signed in meanwhile.
   * @param {string} token @param {AbortSignal} signal @returns {Promise<URL | End>}
   */
  async stream(token, signal) {
    if (this.#explicitStream !== null) return this.#explicitStream;
    this.#config = fetchConfig(this.#pages, this.#credentials);
    const config = await orAborted(this.#config, signal);
    if ("kind" in config) return config;
    const { auth, stream } = config;
    this.#lastStream = stream;
    const isOtherHost = stream.origin !== this.#pages.origin;
    const needsTicket = isOtherHost && auth === "required" && token === "" && this.#credentials !== "omit";
    return needsTicket ? this.#withTicket(stream, signal) : withQuery(stream, this.#pages);
  }

  /** The address failed: the next attempt reads /api/config again. */
  forget() {
    if (this.#config !== undefined) forget(keyOf(this.#pages), this.#config);
  }

  /**
   * The problem of a stream that cannot be reached. A browser does not tell a page more than "failed".
   * @returns {import("../realtime.d.ts").Problem}
   */
  unreachable() {
    const { origin } = this.#lastStream ?? this.#pages;
    const page = globalThis.location?.origin;
    const hint = page === undefined || page === origin ? "" : ` If the server is running, add ${page} to its REALTIME_ALLOWED_ORIGINS.`;
    return { title: "The stream cannot be reached", detail: `Requests to ${origin} failed without a response.${hint}` };
  }

  /** @param {URL} stream @param {AbortSignal} signal @returns {Promise<URL | End>} */
  async #withTicket(stream, signal) {
    const response = await fetch(new URL("tickets", this.#pages), {
      method: "POST", headers: { Accept: "application/json" }, credentials: this.#credentials, cache: "no-store",
      signal: AbortSignal.any?.([signal, AbortSignal.timeout(RESPONSE_MS)]) ?? signal,
    });
    // The server issues no tickets, but `include` allows the cookie to be sent to other hosts.
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
 * The server's configuration, requested once per page load; failures are not cached.
 * @param {URL} pages @param {RequestCredentials} [credentials] @returns {Promise<Config | End>}
 */
export function fetchConfig(pages, credentials = "same-origin") {
  const key = keyOf(pages);
  const cached = configs.get(key);
  if (cached !== undefined) return cached;
  const request = requestConfig(new URL("config", pages), new URL(key), credentials);
  configs.set(key, request);
  request.then((config) => "kind" in config && forget(key, request), () => forget(key, request));
  return request;
}

/** @param {URL} pages @returns {string} */
function keyOf(pages) {
  return pages.origin + pages.pathname;
}

/** Does nothing if another subscription has sent a newer request. @param {string} key @param {Promise<Config | End>} request */
function forget(key, request) {
  if (configs.get(key) === request) configs.delete(key);
}

/**
 * A server without this path (an older one, or a proxy that forwards /api/events only) streams at the address of its pages.
 * An overloaded server does not show that.
 * @param {URL} url @param {URL} pages @param {RequestCredentials} credentials @returns {Promise<Config | End>}
 */
async function requestConfig(url, pages, credentials) {
  const sameAddress = { auth: /** @type {const} */ ("unknown"), stream: pages };
  const signal = AbortSignal.timeout?.(RESPONSE_MS) ?? null;
  const request = { headers: { Accept: "application/json" }, credentials, cache: /** @type {const} */ ("no-store"), signal };
  const response = await fetch(url, request).catch((error) => {
    // Another host's 404 without CORS headers looks like a network error. If it is one, the stream's request fails too.
    if (globalThis.location === undefined || url.origin === location.origin) throw error;
    return null;
  });
  if (response === null) return sameAddress;
  const { status } = response;
  if (status >= 500 || TRY_LATER.includes(status)) return /** @type {End} */ (await refusalOf(response, "application/json"));
  const isJson = status === 200 && /json/.test(response.headers.get("Content-Type") ?? "");
  const body = await (isJson ? response.json() : response.text()); // reading to the end releases the connection
  if (typeof body?.streamUrl !== "string") return sameAddress;
  return { auth: body.auth === "none" ? "none" : "required", stream: new URL(body.streamUrl, url) };
}

/** @param {URL} address @param {URL} source @returns {URL} */
export function withQuery(address, source) {
  const target = new URL(address);
  for (const [name, value] of source.searchParams) target.searchParams.set(name, value);
  return target;
}
