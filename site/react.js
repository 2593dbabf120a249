// A React hook (18 or newer) for the browser client:
//
//   const { state, gaps } = useRealtime({ token, types: ["task-updated"], onEvent: (event) => update(event.data) });
//
// Without a build step, the page's import map must contain `react`.

import { useCallback, useEffect, useInsertionEffect, useLayoutEffect, useRef, useState } from "react";
import { fromParameter, listOf } from "./client/request.js";
import { claimsOf } from "./client/tokens.js";
import { connect } from "./realtime.js";

/** @typedef {import("./react.d.ts").View} View */

/** Cursors of unmounted components, which resume there when they are mounted again. @type {Map<string, string>} */
const cursors = new Map();
const MAX_CURSORS = 100;

/** @type {View} */
const INITIAL_VIEW = { state: "connecting", mode: "stream", gaps: 0, failure: null, last: null };

// A layout effect closes the stream in the commit, not after the paint: the next user's page must not receive another event
// of the last user. On a server there is no connection, and React 18 would warn of a layout effect.
const useCommitEffect = typeof document === "undefined" ? useEffect : useLayoutEffect;

/** @param {import("./react.d.ts").UseRealtimeOptions} [options] @returns {import("./react.d.ts").Realtime} */
export function useRealtime(options = {}) {
  const { enabled = true, signal, token, user } = options;
  if (typeof token === "function" && user === undefined) {
    throw new TypeError("useRealtime: `user` is required when `token` is a function (null if the user never changes). The stream closes when `user` changes.");
  }
  const types = listOf(options.types).split(",").sort().join(",");
  const owner = ownerOf(options);
  const key = keyOf(options, types);
  const latest = useRef(options); // new functions in a render must not reconnect
  const position = useRef({ owner: "", cursor: "" });
  const subscription = useRef(/** @type {import("./realtime.d.ts").Subscription | null} */ (null));
  const [held, setHeld] = useState({ owner, view: INITIAL_VIEW });

  useInsertionEffect(() => {
    latest.current = options;
  });
  useCommitEffect(() => {
    if (!enabled) return undefined;
    const { enabled: _enabled, resume = true, trackLast: _trackLast, user: _user, storage, ...rest } = latest.current;
    const cursorKey = `${owner} ${types}`;
    const cursor = position.current.owner === owner ? position.current.cursor : resume ? (cursors.get(cursorKey) ?? "") : "";
    let isActive = true;
    /** @param {(view: View) => Partial<View>} change */
    const update = (change) => setHeld((held) => {
      const view = held.owner === owner ? held.view : INITIAL_VIEW;
      return { owner, view: { ...view, ...change(view) } };
    });
    /** @type {<Name extends "onEvent" | "onGap" | "onReady" | "onState" | "onError">(name: Name, ...args: any[]) => void} */
    const call = (name, ...args) => /** @type {any} */ (latest.current[name])?.(...args);
    const opened = connect({
      ...rest,
      types,
      cursor: cursor || rest.cursor,
      token: typeof rest.token === "function" ? () => tokenOf(latest.current.token) : rest.token,
      storage: storage && {
        getItem: (name) => latest.current.storage?.getItem(name) ?? null,
        setItem: (name, value) => latest.current.storage?.setItem(name, value),
      },
      onEvent(event) {
        if (latest.current.trackLast) update(() => ({ last: event }));
        call("onEvent", event);
      },
      onGap(gap) {
        update(({ gaps }) => ({ gaps: gaps + 1 }));
        call("onGap", gap);
      },
      onReady: (ready) => call("onReady", ready),
      onState(state, change) {
        if (!isActive) return; // closed by the clean-up below: the component may be unmounted
        update(({ failure }) => ({ state, mode: change.mode, failure: state === "live" ? null : failure }));
        call("onState", state, change);
      },
      onError(failure) {
        update(() => ({ failure }));
        call("onError", failure);
      },
    });
    subscription.current = opened;
    return () => {
      isActive = false;
      subscription.current = null;
      opened.close();
      position.current = { owner, cursor: opened.cursor };
      keepCursor(cursorKey, opened.cursor);
    };
  }, [enabled, key, signal, types, owner]);

  const retry = useCallback(() => subscription.current?.retry(), []);
  const view = held.owner === owner ? held.view : INITIAL_VIEW; // never shows the last user's view to the next one
  const isConnected = enabled && !signal?.aborted;
  return { ...(isConnected ? view : { ...view, state: "closed" }), retry };
}

/** Identifies the user and the address. A stream of another owner does not resume. @param {import("./react.d.ts").UseRealtimeOptions} options */
function ownerOf({ url, streamUrl, user, userId, token, storageKey }) {
  const bearer = typeof token === "string" ? (claimsOf(token)?.sub ?? token) : null;
  return JSON.stringify([String(url ?? ""), String(streamUrl ?? ""), user ?? null, userId ?? null, bearer, storageKey ?? null]);
}

/** The options that reconnect when they change. @param {import("./react.d.ts").UseRealtimeOptions} options @param {string} types */
function keyOf({ url, streamUrl, user, userId, token, from, format, mode, every, credentials, heartbeat, share, storageKey }, types) {
  return JSON.stringify([
    String(url ?? ""), String(streamUrl ?? ""), user, userId, typeof token === "function" ? "function" : token,
    types, fromParameter(from), format, mode, every, credentials, heartbeat, share, storageKey,
  ]);
}

/** @param {import("./realtime.d.ts").ConnectOptions["token"]} token */
function tokenOf(token) {
  return typeof token === "function" ? token() : token;
}

/** @param {string} key @param {string} cursor */
function keepCursor(key, cursor) {
  cursors.delete(key);
  if (cursor !== "") cursors.set(key, cursor);
  for (const oldest of cursors.keys()) {
    if (cursors.size <= MAX_CURSORS) break;
    cursors.delete(oldest);
  }
}
