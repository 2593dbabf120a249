// Needs nothing but ES2022: it compiles without the DOM library too, for Node and for workers.

/**
 * A subscriber to Tidewire's `GET /api/events`. One connection, resumed from its cursor for as long as it is open.
 *
 * `Events` types the data by event type: `connect<{"task-updated": Task}>({onEvent: (event) => …})`. It is a promise of
 * yours about what is published; nothing is checked while running.
 */
export function connect<Events extends object = AnyEvents>(options?: ConnectOptions<Events>): Subscription;

/** Any event type, with data that is not known. */
export type AnyEvents = Record<string, unknown>;

export interface ConnectOptions<Events extends object = AnyEvents> {
  /**
   * Address of the events. Default `/api/events` of the page's origin. JSON pages are read there; the stream is where the
   * server says (`/api/config` beside it), which is the same address where one process serves everything.
   */
  url?: string | Address | undefined;
  /** Address of the stream where the server shall not be asked for it. Default of `url`, where that is not given. */
  streamUrl?: string | Address | undefined;
  /**
   * Subscriber token, or a function asked for one before each connection (and again before the token expires). For another
   * user, close the subscription and connect anew: what is under way is still the old user's.
   */
  token?: string | null | (() => string | null | undefined | Promise<string | null | undefined>) | undefined;
  /** Names the user where the server runs with authentication off. Elsewhere the token's `sub` decides. */
  userId?: string | undefined;
  /** Event types to hear. Absent or empty: all that the token allows. */
  types?: Iterable<string> | string | undefined;
  /** Where to start without a cursor. Default `now`. */
  from?: "now" | "earliest" | Date | (string & {}) | undefined;
  /** `data`: events as published. `cloudevents`: also `id`, `time` and `source`. Default `data`. */
  format?: "data" | "cloudevents" | undefined;
  /**
   * `stream`, the default: live, by JSON pages where no stream gets through. `poll`: one JSON page every `every` milliseconds,
   * for what may be late: it holds no connection. A hidden page asks nothing, and at once when it is looked at.
   */
  mode?: "stream" | "poll" | undefined;
  /** Milliseconds between two polls, give or take a tenth; 1,000 to a day. Default 30,000. */
  every?: number | undefined;
  /** Resume after this cursor; wins over `from` and over `storage`. */
  cursor?: string | undefined;
  /** Keeps the cursor across page loads, e.g. `sessionStorage`. */
  storage?: CursorStorage | undefined;
  /** Key in `storage`. Default: made from url, user and types. */
  storageKey?: string | undefined;
  /** As for `fetch`; `include` sends the token cookie to another origin. Default `same-origin`. */
  credentials?: "include" | "omit" | "same-origin" | undefined;
  /** The server's heartbeat interval in milliseconds; silent for two of them, a connection is dead. Default 15,000. */
  heartbeat?: number | undefined;
  /**
   * Whether tabs that would hear the same (address, types, user) share one connection. true, the default: where the client
   * knows whose stream it is, by the token, by `userId`, or because `credentials` is `omit`. A text: the page says whose it
   * is, e.g. the user's id beside a cookie that no script can read; tokens of two users never share. false: a connection of
   * its own. Needs https or localhost.
   */
  share?: boolean | string | undefined;
  /** Closes the subscription. */
  signal?: CloseSignal | undefined;
  onEvent?: ((event: RealtimeEvent<Events>) => void) | undefined;
  /** Events after the cursor are lost: reload what they would have changed. */
  onGap?: ((gap: Gap) => void) | undefined;
  onReady?: ((ready: Ready) => void) | undefined;
  onState?: ((state: State, change: StateChange) => void) | undefined;
  /** A refusal, an address where nothing is, a token function that failed: in a sentence. Not: a connection that was lost. */
  onError?: ((failure: Failure) => void) | undefined;
}

/** A URL. */
export interface Address {
  toString(): string;
  readonly href: string;
}

/** The part of the DOM's `Storage` that is used. */
export interface CursorStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** The part of `AbortSignal` that is used. */
export interface CloseSignal {
  readonly aborted: boolean;
  addEventListener(type: "abort", listener: () => void, options?: any): void;
}

export interface Subscription {
  /** Ends it for good. No callback runs afterwards, except `onState` with "closed". */
  close(): void;
  /** Cuts the connection as if the network had failed; it resumes after the usual wait, or after `holdMs` if longer. */
  drop(holdMs?: number): void;
  /** Ends a wait, the leader's too, or tries again after "denied"; polls at once in `mode: "poll"`. */
  retry(): void;
  /** The place after everything handled so far; "" before the first. Opaque. */
  readonly cursor: string;
  readonly state: State;
  /** `poll` also while a proxy on the way keeps streams from arriving. */
  readonly mode: "stream" | "poll";
  readonly role: Role;
}

/** leader: connected for the other tabs too. follower: hears what the leader does. alone: connected for itself. */
export type Role = "alone" | "leader" | "follower";

/** connecting → replaying → live; after a loss waiting → connecting; denied and closed rest. */
export type State = "connecting" | "replaying" | "live" | "waiting" | "denied" | "closed";

/** An event of one of these types; `if (event.type === "task-updated")` narrows its `data`. */
export type RealtimeEvent<Events extends object = AnyEvents> = { [Type in keyof Events & string]: EventOf<Type, Events[Type]> }[keyof Events & string];

export interface EventOf<Type extends string, Data> {
  type: Type;
  /** Parsed JSON. Numbers are JavaScript's: read `raw` where all digits count. undefined where the data is not JSON. */
  data: Data;
  /** The frame's text: the published data, or the whole CloudEvent. */
  raw: string;
  cursor: string;
  /** true before `ready`: it happened earlier and was read from the log. */
  replayed: boolean;
  /** With `format: "cloudevents"`, and on JSON pages. */
  id?: string | undefined;
  /** RFC 3339, with `format: "cloudevents"`, and on JSON pages. */
  time?: string | undefined;
  source?: string | undefined;
}

export interface Gap {
  reason: "trimmed" | "epoch" | "no-log" | "invalid" | (string & {});
  cursor: string;
}

export interface Ready {
  /** false exactly where a gap was told. */
  recovered: boolean;
  /** Events sent to this subscriber before `ready`. */
  replayed: number;
  /** This connection carried a cursor, or this tab one into the group. */
  resumed: boolean;
  cursor: string;
}

export interface StateChange {
  previous: State;
  /**
   * Why: `start`, `lost`, `silent`, `dropped`, `renewed`, `refused`, `token-failed`, `token-timeout`, `stopped`, `closed`, `shared` and `leading` (among
   * tabs: another tab's connection serves this one too, or this tab's the others), or the server's closing reason.
   */
  reason: string;
  /** Failures in a row. */
  attempt: number;
  mode: "stream" | "poll";
  role: Role;
  /** waiting: milliseconds until the next attempt. */
  delay?: number | undefined;
  /** The server's problem+json, or one made from the status. */
  problem?: Problem | undefined;
  error?: unknown;
}

/** What keeps the subscription from working. */
export interface Failure {
  /** A sentence or two for whoever runs the page. */
  message: string;
  /** The answer's HTTP status, where there was an answer. */
  status?: number | undefined;
  problem: Problem;
  error?: unknown;
  /** Nothing more is tried until `retry()`. */
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
