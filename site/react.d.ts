import type { AnyEvents, ConnectOptions, Failure, RealtimeEvent, State } from "./realtime.js";

/**
 * Subscribes while the component is mounted. When the user changes, the stream is closed in the same commit. Callbacks may
 * be new functions in each render. A component that is mounted again, or whose `types` change, resumes at its cursor.
 */
export function useRealtime<Events extends object = AnyEvents>(options?: UseRealtimeOptions<Events>): Realtime<Events>;

/** The options of `connect`, and the hook's own. A token function requires `user`: it does not show whose tokens it returns. */
export type UseRealtimeOptions<Events extends object = AnyEvents> = Omit<ConnectOptions<Events>, "token" | "types"> & HookOptions & (
  | { token?: string | null | undefined; user?: string | null | undefined }
  | { token: () => string | null | undefined | Promise<string | null | undefined>; user: string | null }
);

export interface HookOptions {
  /** As in `connect`, but not a one-time iterator: each render reads it. Absent or empty: all types that the token allows. */
  types?: readonly string[] | ReadonlySet<string> | string | undefined;
  /** false: not connected, e.g. before the user has signed in. Default true. */
  enabled?: boolean | undefined;
  /** false: a component that is mounted again starts at `from`. Default true. */
  resume?: boolean | undefined;
  /** true: each event sets `last` and renders the component. Default false. */
  trackLast?: boolean | undefined;
}

export interface View<Events extends object = AnyEvents> {
  state: State;
  mode: "stream" | "poll";
  /** Number of gaps. When it grows, events were lost: reload your data. */
  gaps: number;
  /** Why the subscription does not work; null when it is live. */
  failure: Failure | null;
  /** The last event, with `trackLast`. */
  last: RealtimeEvent<Events> | null;
}

export interface Realtime<Events extends object = AnyEvents> extends View<Events> {
  /** The subscription's `retry()`: ends a wait, or tries again after "denied". */
  retry: () => void;
}
