// What a page has: its storage, its signals and its addresses are taken as they are.
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
