import type { AnyEvents, ConnectOptions, Failure, RealtimeEvent, State } from "./realtime.js";

/**
 * Subscribes for as long as the component is mounted, and closes the stream in the very commit in which its user changes.
 * Callbacks may be new at each render. A component that is mounted again, and one whose `types` change, goes on where it was.
 */
export function useRealtime<Events extends object = AnyEvents>(options?: UseRealtimeOptions<Events>): Realtime<Events>;

/** Those of `connect`, and the hook's own. A token function needs `user`: from its code nobody can tell whose it is. */
export type UseRealtimeOptions<Events extends object = AnyEvents> = Omit<ConnectOptions<Events>, "token" | "types"> & HookOptions & (
  | { token?: string | null | undefined; user?: string | null | undefined }
  | { token: () => string | null | undefined | Promise<string | null | undefined>; user: string | null }
);

export interface HookOptions {
  /** As for `connect`, in what can be read at each render. Absent or empty: all that the token allows. */
  types?: readonly string[] | ReadonlySet<string> | string | undefined;
  /** false: not connected, e.g. before the user has signed in. Default true. */
  enabled?: boolean | undefined;
  /** false: a component that is mounted again starts at `from`. Default true. */
  resume?: boolean | undefined;
  /** true: `last` is set, and the component renders, with each event. Default false. */
  trackLast?: boolean | undefined;
}

export interface View<Events extends object = AnyEvents> {
  state: State;
  mode: "stream" | "poll";
  /** How often something was missed: reload what you show when it grows. */
  gaps: number;
  /** Why it does not work; null once it is live. */
  failure: Failure | null;
  /** The last event, with `trackLast`. */
  last: RealtimeEvent<Events> | null;
}

export interface Realtime<Events extends object = AnyEvents> extends View<Events> {
  /** As the subscription's: ends a wait, or tries again after "denied". */
  retry: () => void;
}
