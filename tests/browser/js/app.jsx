// A page of a React application, for tests: it shows what the hook says, and keeps what its callbacks were called with.
import { Profiler, StrictMode, useLayoutEffect } from "react";
import { createRoot } from "react-dom/client";
import { useRealtime } from "tidewire/react";

const heard = { seen: [], gaps: [], states: [], failures: [], renders: 0 };
Object.assign(window, heard);
const count = () => { window.renders += 1; };
const inline = (token) => async () => token;

function Follower({ name, tokenBy, ...options }) {
  const { state, mode, gaps, failure, last, retry } = useRealtime({
    ...options,
    ...(tokenBy ? { token: inline(tokenBy) } : {}), // a new function at each render, as applications write it
    onEvent: (event) => window.seen.push([name, event.data]),
    onGap: (gap) => window.gaps.push(gap.reason),
    onState: (state) => window.states.push(state),
    onError: (failure) => window.failures.push(failure.message),
  });
  useLayoutEffect(() => window.committed?.(name), [name]); // the page of this user is the one that is shown
  const text = JSON.stringify({ state, mode, gaps, failure: failure?.message ?? null, last: last?.data ?? null });
  return <button id="view" onClick={retry}>{text}</button>;
}

const root = createRoot(document.body.appendChild(document.createElement("main")));

window.show = (props, { strict = true } = {}) => {
  const page = <Profiler id="page" onRender={count}>{props && <Follower {...props} />}</Profiler>;
  root.render(strict ? <StrictMode>{page}</StrictMode> : page);
};
window.view = () => JSON.parse(document.getElementById("view")?.textContent ?? "null");

// What cannot be sent here as JSON.
window.aborter = new AbortController();
window.showWithSignal = () => window.show({ name: "page", share: false, signal: window.aborter.signal });
window.showWithSet = () => window.show({ name: "page", share: false, types: new Set(["one", "two"]) });
