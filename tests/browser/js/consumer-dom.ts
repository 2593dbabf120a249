// A page passes its own storage, signals and URLs.
import { connect } from "./site/realtime.js";

const aborter = new AbortController();
connect({
  url: new URL("/api/events", location.href),
  streamUrl: new URL("https://streams.example.com/api/events"),
  storage: sessionStorage,
  signal: aborter.signal,
  credentials: "include" satisfies RequestCredentials,
  onGap: () => location.reload(),
});
