// A React hook (18 or newer) over the browser client:
//
//   const { state, gaps } = useRealtime({ token, types: ["task-updated"], onEvent: (event) => update(event.data) });
//
// Without a build step, `react` must be in the page's import map.

import { useCallback, useEffect, useInsertionEffect, useLayoutEffect, useRef, useState } from "react";
import { listOf, startOf } from "./client/request.js";
import { claimsOf } from "./client/retry.js";
import { connect } from "./realtime.js";

/** @typedef {import("./react.d.ts").View} View */

/** Where components that were unmounted were, so that they go on from there; no more than these. @type {Map<string, string>} */
const places = new Map();
const MOST_PLACES = 100;

/** @type {View} */
const START = { state: "connecting", mode: "stream", gaps: 0, failure: null, last: null };

// In the commit itself, and not after it has been painted: the page of the next user must not be sent one more event of the
// last one. On a server nothing is connected, and React 18 would warn of a layout effect there.
const useCommitEffect = typeof document === "undefined" ? useEffect : useLayoutEffect;

/** @param {import("./react.d.ts").UseRealtimeOptions} [options] @returns {import("./react.d.ts").Realtime} */
export function useRealtime(options = {}) {
  const { enabled = true, signal, token, user } = options;
  if (typeof token === "function" && user === undefined) {
    throw new TypeError("useRealtime: token is a function, so name its user in `user` (null: it never changes). The stream is closed when that changes.");
  }
  const types = listOf(options.types).split(",").sort().join(",");
  const whose = whoseOf(options);
  const key = keyOf(options, types);
  const latest = useRef(options); // new functions at each render must not mean new connections
  const place = useRef({ whose: "", cursor: "" });
  const subscription = useRef(/** @type {import("./realtime.d.ts").Subscription | null} */ (null));
  const [held, setHeld] = useState({ whose, view: START });

  useInsertionEffect(() => {
    latest.current = options;
  });
  useCommitEffect(() => {
    if (!enabled) return undefined;
    const { enabled: _enabled, resume = true, trackLast: _trackLast, user: _user, storage, ...rest } = latest.current;
    const shelf = `${whose} ${types}`;
    const before = place.current.whose === whose ? place.current.cursor : resume ? (places.get(shelf) ?? "") : "";
    let isActive = true;
    /** @param {(view: View) => Partial<View>} change */
    const show = (change) => setHeld((held) => {
      const view = held.whose === whose ? held.view : START;
      return { whose, view: { ...view, ...change(view) } };
    });
    /** @type {<Name extends "onEvent" | "onGap" | "onReady" | "onState" | "onError">(name: Name, ...args: any[]) => void} */
    const tell = (name, ...args) => /** @type {any} */ (latest.current[name])?.(...args);
    const opened = connect({
      ...rest,
      types,
      cursor: before || rest.cursor,
      token: typeof rest.token === "function" ? () => tokenOf(latest.current.token) : rest.token,
      storage: storage && {
        getItem: (name) => latest.current.storage?.getItem(name) ?? null,
        setItem: (name, value) => latest.current.storage?.setItem(name, value),
      },
      onEvent(event) {
        if (latest.current.trackLast) show(() => ({ last: event }));
        tell("onEvent", event);
      },
      onGap(gap) {
        show(({ gaps }) => ({ gaps: gaps + 1 }));
        tell("onGap", gap);
      },
      onReady: (ready) => tell("onReady", ready),
      onState(state, change) {
        if (!isActive) return; // closed by the clean-up below, perhaps for good
        show(({ failure }) => ({ state, mode: change.mode, failure: state === "live" ? null : failure }));
        tell("onState", state, change);
      },
      onError(failure) {
        show(() => ({ failure }));
        tell("onError", failure);
      },
    });
    subscription.current = opened;
    return () => {
      isActive = false;
      subscription.current = null;
      opened.close();
      place.current = { whose, cursor: opened.cursor };
      keep(shelf, opened.cursor);
    };
  }, [enabled, key, signal, types, whose]);

  const retry = useCallback(() => subscription.current?.retry(), []);
  const view = held.whose === whose ? held.view : START; // nothing of the last user is shown to the next one
  const isConnected = enabled && !signal?.aborted;
  return { ...(isConnected ? view : { ...view, state: "closed" }), retry };
}

/** Of whom a place is: with another one, a stream starts anew. @param {import("./react.d.ts").UseRealtimeOptions} options */
function whoseOf({ url, streamUrl, user, userId, token, storageKey }) {
  const bearer = typeof token === "string" ? (claimsOf(token)?.sub ?? token) : null;
  return JSON.stringify([String(url ?? ""), String(streamUrl ?? ""), user ?? null, userId ?? null, bearer, storageKey ?? null]);
}

/** What a connection depends on. @param {import("./react.d.ts").UseRealtimeOptions} options @param {string} types */
function keyOf({ url, streamUrl, user, userId, token, from, format, mode, every, credentials, heartbeat, share, storageKey }, types) {
  return JSON.stringify([
    String(url ?? ""), String(streamUrl ?? ""), user, userId, typeof token === "function" ? "function" : token,
    types, startOf(from), format, mode, every, credentials, heartbeat, share, storageKey,
  ]);
}

/** @param {import("./realtime.d.ts").ConnectOptions["token"]} token */
function tokenOf(token) {
  return typeof token === "function" ? token() : token;
}

/** @param {string} shelf @param {string} cursor */
function keep(shelf, cursor) {
  places.delete(shelf);
  if (cursor !== "") places.set(shelf, cursor);
  for (const oldest of places.keys()) {
    if (places.size <= MOST_PLACES) break;
    places.delete(oldest);
  }
}
