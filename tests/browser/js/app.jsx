// A React application for tests. It shows what the hook returns, and records the arguments of its callbacks.
import { Profiler, StrictMode, useLayoutEffect } from "react";
import { createRoot } from "react-dom/client";
import { useRealtime } from "tidewire/react";

const records = { seen: [], gaps: [], states: [], failures: [], renders: 0 };
Object.assign(window, records);
const count = () => { window.renders += 1; };
const inline = (token) => async () => token;

function Follower({ name, tokenBy, ...options }) {
  const { state, mode, gaps, failure, last, retry } = useRealtime({
    ...options,
    ...(tokenBy ? { token: inline(tokenBy) } : {}), // a new function in each render, as in most applications
    onEvent: (event) => window.seen.push([name, event.data]),
    onGap: (gap) => window.gaps.push(gap.reason),
    onState: (state) => window.states.push(state),
    onError: (failure) => window.failures.push(failure.message),
  });
  useLayoutEffect(() => window.committed?.(name), [name]); // this user's page is committed
  const text = JSON.stringify({ state, mode, gaps, failure: failure?.message ?? null, last: last?.data ?? null });
  return <button id="view" onClick={retry}>{text}</button>;
}

const root = createRoot(document.body.appendChild(document.createElement("main")));

window.show = (props, { strict = true } = {}) => {
  const page = <Profiler id="page" onRender={count}>{props && <Follower {...props} />}</Profiler>;
  root.render(strict ? <StrictMode>{page}</StrictMode> : page);
};
window.view = () => JSON.parse(document.getElementById("view")?.textContent ?? "null");

// Props that the test cannot send as JSON.
window.aborter = new AbortController();
window.showWithSignal = () => window.show({ name: "page", share: false, signal: window.aborter.signal });
window.showWithSet = () => window.show({ name: "page", share: false, types: new Set(["one", "two"]) });
