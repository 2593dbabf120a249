// Needs only ES2022: it also compiles without the DOM library, for Node and for workers.

/**
 * Subscribes to Tidewire's `GET /api/events`, and resumes at the cursor after each lost connection.
 *
 * `Events` gives the data type of each event type: `connect<{"task-updated": Task}>({onEvent: (event) => …})`. The types
 * are not checked at run time. Throws TypeError or RangeError on invalid options.
 */
export function connect<Events extends object = AnyEvents>(options?: ConnectOptions<Events>): Subscription;

/** Any event type, with unknown data. */
export type AnyEvents = Record<string, unknown>;

export interface ConnectOptions<Events extends object = AnyEvents> {
  /**
   * Address of the events. Default: `/api/events` on the page's origin. JSON pages are read from it. The stream's address
   * comes from the server (`/api/config` next to it); a server that is a single process returns the same one.
   */
  url?: string | Address | undefined;
  /** Address of the stream; `/api/config` is not requested then. Also the default of `url`. */
  streamUrl?: string | Address | undefined;
  /**
   * Subscriber token, or a function that returns one. It is called before each connection, and again before the token
   * expires. If the user changes, close the subscription and call `connect` again: the open stream is the old user's.
   */
  token?: string | null | (() => string | null | undefined | Promise<string | null | undefined>) | undefined;
  /** The user id, for a server without authentication. With authentication, the token's `sub` is the user. */
  userId?: string | undefined;
  /** Event types to receive. Absent or empty: all types that the token allows. */
  types?: Iterable<string> | string | undefined;
  /** Start position without a cursor. Default `now`. */
  from?: "now" | "earliest" | Date | (string & {}) | undefined;
  /** `data`: the published data. `cloudevents`: also `id`, `time` and `source`. Default `data`. */
  format?: "data" | "cloudevents" | undefined;
  /**
   * `stream` (default): live; JSON pages while streams do not get through. `poll`: a JSON page every `every` milliseconds,
   * without an open connection. A hidden page does not poll; it does so when it is visible again.
   */
  mode?: "stream" | "poll" | undefined;
  /** Milliseconds between two polls, plus or minus 10 %: 1,000 to 86,400,000. Default 30,000. */
  every?: number | undefined;
  /** Start after this cursor. Overrides `from` and the cursor in `storage`. */
  cursor?: string | undefined;
  /** Stores the cursor across page loads, e.g. `sessionStorage`. */
  storage?: CursorStorage | undefined;
  /** Key in `storage`. Default: made from url, user and types. */
  storageKey?: string | undefined;
  /** As in `fetch`; `include` sends the token cookie to another origin. Default `same-origin`. */
  credentials?: "include" | "omit" | "same-origin" | undefined;
  /** The server's heartbeat interval in milliseconds. A connection without data for two of them is dead. Default 15,000. */
  heartbeat?: number | undefined;
  /**
   * Whether tabs with the same address, types and user share one connection. true (default): if the client knows the user,
   * from the token, from `userId`, or because `credentials` is `omit`. A string: the page names the user, e.g. by the user
   * id next to an HttpOnly cookie; tokens of two users never share. false: never. Requires https or localhost.
   */
  share?: boolean | string | undefined;
  /** Closes the subscription when it is aborted. */
  signal?: CloseSignal | undefined;
  onEvent?: ((event: RealtimeEvent<Events>) => void) | undefined;
  /** Events after the cursor are lost: reload the data that they would have changed. */
  onGap?: ((gap: Gap) => void) | undefined;
  /** The replay is complete; events after this are live. */
  onReady?: ((ready: Ready) => void) | undefined;
  onState?: ((state: State, change: StateChange) => void) | undefined;
  /** A refused request, a wrong address, or a token function that failed. A lost connection is not an error. */
  onError?: ((failure: Failure) => void) | undefined;
}

/** A URL. */
export interface Address {
  toString(): string;
  readonly href: string;
}

/** The part of the DOM's `Storage` that the client uses. */
export interface CursorStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** The part of `AbortSignal` that the client uses. */
export interface CloseSignal {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void, options?: any): void;
}

export interface Subscription {
  /** Ends the subscription. No callback runs after this, except `onState` with "closed". */
  close(): void;
  /** Ends the connection like a network failure. It resumes after the usual delay, or after `holdMs` if that is longer. */
  drop(holdMs?: number): void;
  /** Ends a wait (also the leader's), tries again after "denied", and polls at once with `mode: "poll"`. */
  retry(): void;
  /** The position after the last handled entry; "" before the first. Opaque. */
  readonly cursor: string;
  readonly state: State;
  /** Also `poll` while a proxy keeps streams from getting through. */
  readonly mode: "stream" | "poll";
  readonly role: Role;
}

/** leader: its connection serves the other tabs too. follower: receives events from the leader. alone: its own connection. */
export type Role = "alone" | "leader" | "follower";

/** connecting → replaying → live; after a loss waiting → connecting; denied until `retry()`; closed is final. */
export type State = "connecting" | "replaying" | "live" | "waiting" | "denied" | "closed";

/** An event of one of these types; `if (event.type === "task-updated")` narrows its `data`. */
export type RealtimeEvent<Events extends object = AnyEvents> = { [Type in keyof Events & string]: EventOf<Type, Events[Type]> }[keyof Events & string];

export interface EventOf<Type extends string, Data> {
  type: Type;
  /** Parsed JSON, undefined if the data is not JSON. Its numbers are JavaScript's; `raw` has all digits. */
  data: Data;
  /** The frame's text: the published data, or the whole CloudEvent. */
  raw: string;
  cursor: string;
  /** true before `ready`: the event was read from the log. */
  replayed: boolean;
  /** With `format: "cloudevents"`, and in JSON pages. */
  id?: string | undefined;
  /** RFC 3339. With `format: "cloudevents"`, and in JSON pages. */
  time?: string | undefined;
  source?: string | undefined;
}

export interface Gap {
  reason: "trimmed" | "epoch" | "no-log" | "invalid" | (string & {});
  cursor: string;
}

export interface Ready {
  /** false if a gap was reported. */
  recovered: boolean;
  /** Number of events received before `ready`. */
  replayed: number;
  /** The connection, or this tab when it joined its group, started at a cursor. */
  resumed: boolean;
  cursor: string;
}

export interface StateChange {
  previous: State;
  /**
   * `start`, `accepted`, `ready`, `lost`, `silent`, `dropped`, `renewed`, `refused`, `token-failed`, `token-timeout`,
   * `stream-again` (after polls, a stream is tried again), `stopped` (204), `closed`, `shared` (this tab follows another
   * one), `leading` (this tab now serves the others), or the server's closing reason.
   */
  reason: string;
  /** Number of consecutive failures. */
  attempt: number;
  mode: "stream" | "poll";
  role: Role;
  /** waiting: milliseconds until the next attempt. */
  delay?: number | undefined;
  /** The server's problem+json, or one made from the status. */
  problem?: Problem | undefined;
  error?: unknown;
}

/** The reason why the subscription does not work. */
export interface Failure {
  /** One or two sentences for the page's operator. */
  message: string;
  /** HTTP status of the response, if there was one. */
  status?: number | undefined;
  problem: Problem;
  error?: unknown;
  /** true: there is no further attempt until `retry()`. */
  final: boolean;
}

/** RFC 9457. */
export interface Problem {
  type?: string | undefined;
  title?: string | undefined;
  status?: number | undefined;
  detail?: string | undefined;
  errors?: { pointer?: string | undefined; detail?: string | undefined }[] | undefined;
}
