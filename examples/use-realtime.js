// A React hook (18 or newer) over Tidemark's client: `const { state, last, gaps } = useRealtime({ types: ["task-updated"] })`.
// Reload what you show when `gaps` grows: that is where something was missed.
import { useEffect, useRef, useState } from "react";
import { connect } from "./realtime.js";

export function useRealtime({ url, token, types = [], onEvent }) {
  const [view, setView] = useState({ state: "connecting", last: null, gaps: 0 });
  const latest = useRef({});
  latest.current = { token, onEvent }; // new functions at each render must not mean new connections
  const names = [...types].sort().join(",");
  useEffect(() => {
    const subscription = connect({
      url,
      types: names,
      token: () => (typeof latest.current.token === "function" ? latest.current.token() : latest.current.token),
      onEvent(event) {
        latest.current.onEvent?.(event);
        setView((view) => ({ ...view, last: event }));
      },
      onGap: () => setView((view) => ({ ...view, gaps: view.gaps + 1 })),
      onState: (state) => setView((view) => ({ ...view, state })),
    });
    return () => subscription.close();
  }, [url, names]);
  return view;
}
