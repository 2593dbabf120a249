/** A subscriber to Tidemark's `GET /api/events`. One connection, resumed from its cursor for as long as it is open. */
export function connect(options?: ConnectOptions): Subscription;

export interface ConnectOptions {
  /** Address of the event stream. Default `/api/events` of the page's origin. */
  url?: string | URL;
  /** Subscriber token, or a function asked for one before each connection (and again before the token expires). */
  token?: string | null | (() => string | null | undefined | Promise<string | null | undefined>);
  /** Names the user where the server runs with authentication off. Elsewhere the token's `sub` decides. */
  userId?: string;
  /** Event types to hear. Absent or empty: all that the token allows. */
  types?: Iterable<string> | string;
  /** Where to start without a cursor. Default `now`. */
  from?: "now" | "earliest" | Date | (string & {});
  /** `data`: events as published. `cloudevents`: also `id`, `time` and `source`. Default `data`. */
  format?: "data" | "cloudevents";
  /** Resume after this cursor; wins over `from` and over `storage`. */
  cursor?: string;
  /** Keeps the cursor across page loads, e.g. `sessionStorage`. */
  storage?: Pick<Storage, "getItem" | "setItem" | "removeItem">;
  /** Key in `storage`. Default: made from url, user and types. */
  storageKey?: string;
  /** As for `fetch`; `include` sends the token cookie to another origin. Default `same-origin`. */
  credentials?: RequestCredentials;
  /** The server's heartbeat interval in milliseconds; silent for two of them, a connection is dead. Default 15,000. */
  heartbeat?: number;
  /**
   * Whether tabs that would hear the same (address, types, user) share one connection. true, the default: where the client
   * knows whose stream it is, by the token, by `userId`, or because `credentials` is `omit`. A text: the page says whose it
   * is, e.g. the user's id beside a cookie that no script can read. false: a connection of its own. Needs https or localhost.
   */
  share?: boolean | string;
  /** Closes the subscription. */
  signal?: AbortSignal;
  onEvent?: (event: RealtimeEvent) => void;
  /** Events after the cursor are lost: reload what they would have changed. */
  onGap?: (gap: Gap) => void;
  onReady?: (ready: Ready) => void;
  onState?: (state: State, change: StateChange) => void;
}

export interface Subscription {
  /** Ends it for good. No callback runs afterwards, except `onState` with "closed". */
  close(): void;
  /** Cuts the connection as if the network had failed; it resumes after the usual wait, or after `holdMs` if longer. */
  drop(holdMs?: number): void;
  /** Ends a wait, the leader's too, or tries again after "denied". */
  retry(): void;
  /** The place after everything handled so far; "" before the first. Opaque. */
  readonly cursor: string;
  readonly state: State;
  /** `poll` while a proxy on the way keeps streams from arriving. */
  readonly mode: "stream" | "poll";
  readonly role: Role;
}

/** leader: connected for the other tabs too. follower: hears what the leader does. alone: connected for itself. */
export type Role = "alone" | "leader" | "follower";

/** connecting → replaying → live; after a loss waiting → connecting; denied and closed rest. */
export type State = "connecting" | "replaying" | "live" | "waiting" | "denied" | "closed";

export interface RealtimeEvent {
  type: string;
  /** Parsed JSON. Numbers are JavaScript's: read `raw` where all digits count. undefined where the data is not JSON. */
  data: unknown;
  /** The frame's text: the published data, or the whole CloudEvent. */
  raw: string;
  cursor: string;
  /** true before `ready`: it happened earlier and was read from the log. */
  replayed: boolean;
  /** With `format: "cloudevents"`. */
  id?: string;
  /** RFC 3339, with `format: "cloudevents"`. */
  time?: string;
  source?: string;
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
   * Why: `start`, `lost`, `silent`, `dropped`, `renewed`, `refused`, `stopped`, `closed`, `shared` and `leading` (among
   * tabs: another tab's connection serves this one too, or this tab's the others), or the server's closing reason.
   */
  reason: string;
  /** Failures in a row. */
  attempt: number;
  mode: "stream" | "poll";
  role: Role;
  /** waiting: milliseconds until the next attempt. */
  delay?: number;
  /** The server's problem+json, or one made from the status. */
  problem?: Problem;
  error?: unknown;
}

/** RFC 9457. */
export interface Problem {
  type?: string;
  title?: string;
  status?: number;
  detail?: string;
  errors?: { pointer?: string; detail?: string }[];
}
