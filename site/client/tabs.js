// One connection a browser, not one a tab.
//
// Tabs that would hear the same form a group. A Web Lock elects one of them; it is connected and posts what it hears on a
// BroadcastChannel. Each tab keeps a cursor of its own, and that alone decides what it still needs: a tab that joins says
// where it is, and gets what follows from the leader's recent entries. Where they do not reach back so far (a long replay,
// a tab that slept), it connects by itself until it passes a place where the leader has been too; the same cursor is the
// same place, that is what a cursor means. So nothing is lost or doubled whoever ends when, and however the lock, which
// a crash lets go of too, and the last posts of a closing tab overtake each other.

import { claimsOf } from "./retry.js";
import { Watchdog } from "./watchdog.js";

/** @typedef {import("./answer.js").Entry} Entry */
/** @typedef {import("../realtime.d.ts").State} State */
/** @typedef {import("../realtime.d.ts").StateChange} StateChange */
/** @typedef {{state: State, change: StateChange}} Status the leader's connection */

/**
 * What a tab's subscription does for its group.
 * @typedef {object} Member
 * @property {string} cursor
 * @property {boolean} fromNow  without a cursor, it wants what comes from now on
 * @property {number} heartbeat  milliseconds
 * @property {(entry: Entry) => void} apply
 * @property {() => void} settle
 * @property {(status: Status) => void} mirror
 * @property {(resumed: boolean, recovered: boolean, replayed: number) => void} joined  up to date with a leader that is live
 * @property {(reason: string) => void} again  ask for the place in the group once more
 * @property {() => void} leads  its own connection is the others' now
 * @property {() => void} nudge  somebody looks at a page: do not wait any longer
 */

/** What a leader remembers for tabs that join: a reload, or a change of leaders, needs the last few. */
const RECENT_ENTRIES = 256;
const RECENT_CHARS = 1_000_000;

/** A lock is passed on at once; what its last owner posted may still be on its way. */
const LATE_POSTS_MS = 50;

/** How long a leader may take to answer. Posts, unlike timers, are not throttled in a hidden tab: this one is frozen. */
const ANSWER_MS = 5_000;

export class Tabs {
  /** @type {"alone" | "leader" | "follower"} */ role = "alone";
  #member;
  #id = Math.random().toString(36).slice(2);
  #group = "";
  #leader = ""; // whose posts count
  #inStep = false; // a follower whose cursor is in the leader's line
  /** @type {BroadcastChannel | null} */ #channel = null;
  /** @type {AbortController | null} */ #candidacy = null;
  /** @type {((value?: unknown) => void) | null} */ #release = null;
  /** @type {((place: "leader" | "alone") => void) | null} */ #placed = null;
  /** @type {Entry[]} */ #recent = [];
  #recentChars = 0;
  /** @type {Set<string>} */ #passed = new Set(); // where the leader has been while this tab is connected by itself
  /** @type {Entry[]} */ #outbox = [];
  /** @type {Status | null} */ #status = null; // of this tab's own connection
  /** @type {Map<string, number>} */ #newcomers = new Map(); // without a cursor: they start where this leader is ready
  #ask = 0; // numbers the joins: of two answers, one is too late
  #pinged = false;
  #watchdog = new Watchdog(() => this.#silent());

  /** @param {Member} member */
  constructor(member) {
    this.#member = member;
  }

  /**
   * Returns once this tab may connect: true where it has waited for that, as a follower. `group` "": alone, at once.
   * @param {string} group @param {AbortSignal} signal @returns {Promise<boolean>}
   */
  async enter(group, signal) {
    if (group !== this.#group) {
      this.leave();
      if (group !== "") this.#open(group);
    }
    if (group === "" || this.role === "leader") return false;
    this.role = "follower";
    const place = await new Promise((resolve, reject) => {
      this.#placed = resolve;
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.#join();
    }).finally(() => {
      this.#placed = null;
      this.#inStep = false;
      this.#watchdog.stop();
    });
    this.role = place;
    return this.#leader !== "" && place === "leader";
  }

  /** What this tab's own connection brought: kept for those who join, and for the others if this tab leads. @param {Entry} entry */
  add(entry) {
    this.#remember(entry);
    if (this.role === "leader") this.#outbox.push(entry);
  }

  /** Posts what was added, and ends a connection of its own that has met the leader's line. */
  settle() {
    if (this.role === "leader" && this.#outbox.length > 0) {
      const ready = this.#outbox.some((entry) => entry.kind === "ready");
      this.#post({ kind: "entries", entries: this.#outbox.splice(0) });
      if (ready) for (const [tab, ask] of this.#newcomers) this.#welcome(tab, ask, []);
      if (ready) this.#newcomers.clear();
    } else if (this.role === "alone" && this.#group !== "" && this.#status?.state === "live") {
      if (this.#passed.has(this.#member.cursor)) this.#member.again("shared");
    }
  }

  /** This tab's own connection has changed. @param {State} state @param {StateChange} change */
  changed(state, { error, ...change }) {
    this.#status = { state, change }; // an error may be nothing that can be posted
    if (this.role !== "leader") return;
    this.settle();
    this.#post({ kind: "status", status: this.#status });
  }

  /** Somebody looks at this tab, or wants to reconnect: is the leader there, and need it wait? */
  nudge() {
    if (this.role !== "follower") return;
    this.#post({ kind: "ping" });
    this.#watchdog.start(ANSWER_MS);
    this.#pinged = true;
  }

  /** Lets another tab lead. */
  leave() {
    if (this.#group === "") return;
    if (this.role === "leader") this.settle();
    this.#group = this.#leader = "";
    this.role = "alone";
    this.#watchdog.stop();
    this.#candidacy?.abort();
    this.#release?.();
    this.#release = null;
    this.#channel?.close();
    this.#channel = null;
    this.#recent = [];
    this.#recentChars = 0;
    this.#passed.clear();
    this.#outbox = [];
    this.#newcomers.clear();
  }

  // ---- the lock -------------------------------------------------------------------------------------------------

  /** @param {string} group */
  #open(group) {
    this.#group = group;
    this.#channel = new BroadcastChannel(group);
    this.#channel.onmessage = ({ data }) => this.#heard(data);
    this.#stand(false);
  }

  /** Stands for leader: after those before it, or, where the one there is does not answer, at once. @param {boolean} steal */
  #stand(steal) {
    this.#candidacy?.abort();
    const candidacy = (this.#candidacy = new AbortController());
    const { signal } = candidacy;
    navigator.locks.request(this.#group, steal ? { steal } : { signal }, () => this.#elected(signal)).catch(() => {
      if (!signal.aborted) this.#deposed();
    });
  }

  /** Holds the lock until this tab gives it up. @param {AbortSignal} signal */
  async #elected(signal) {
    const held = new Promise((resolve) => { this.#release = resolve; });
    if (this.#inStep) await new Promise((resolve) => setTimeout(resolve, LATE_POSTS_MS));
    if (signal.aborted) return;
    const { cursor } = this.#member;
    if (this.#recent.length === 0 && cursor !== "") this.#remember({ kind: "moved", cursor });
    const isConnected = this.role === "alone"; // then the others join its line where it is
    this.role = "leader";
    if (isConnected) this.#member.leads();
    else this.#status = null; // what it has mirrored was another's
    this.#placed?.("leader");
    this.#passed.clear();
    this.#post({ kind: "lead" });
    if (this.#status !== null) this.#post({ kind: "status", status: this.#status });
    await held;
  }

  /** Another tab took the lock: this one was frozen, and what it hears is no longer the others' line. */
  #deposed() {
    this.#release = null;
    this.#outbox = [];
    this.#newcomers.clear();
    this.role = "follower";
    this.#stand(false);
    this.#member.again("shared");
  }

  // ---- the channel ------------------------------------------------------------------------------------------------

  /** @param {Record<string, unknown>} message */
  #post(message) {
    this.#channel?.postMessage({ from: this.#id, ...message });
  }

  #join() {
    const { cursor, fromNow } = this.#member;
    this.#inStep = false;
    this.#ask += 1;
    this.#post({ kind: "join", ask: this.#ask, cursor: cursor !== "" || fromNow ? cursor : null });
    this.#pinged = true;
    this.#hurry();
  }

  /** @param {any} message */
  #heard(message) {
    const { kind, from } = message;
    if (this.role === "leader") {
      this.settle();
      if (kind === "join") this.#answer(from, message);
      if (kind === "ping") {
        this.#post({ kind: "here" });
        this.#member.nudge();
      }
      return;
    }
    const isMine = kind === "welcome" && message.to === this.#id && message.ask === this.#ask;
    const isNew = from !== this.#leader && (kind === "lead" || kind === "here");
    if (isNew || isMine) this.#leader = from;
    if (from !== this.#leader || kind === "join" || kind === "ping") return; // what a leader of yesterday still says
    if (this.role === "alone") this.#note(message);
    if (this.#placed === null) return;
    this.#pinged = false;
    this.#watchdog.heard(2 * this.#member.heartbeat + ANSWER_MS);
    if (isNew || kind === "lead") this.#join();
    else if (isMine) this.#welcomed(message);
    else if (kind === "status" && (this.#inStep || message.status.state !== "live")) this.#member.mirror(message.status);
    else if (kind === "entries" && this.#inStep) this.#follow(message.entries);
  }

  /** Where the leader has been, for a tab that is connected by itself. @param {any} message */
  #note({ kind, entries = [], cursor }) {
    if (kind === "lead") {
      this.#passed.clear();
      this.#post({ kind: "join", ask: 0, cursor: null }); // only to hear where it is
    }
    if (kind === "welcome") this.#passed.add(cursor);
    for (const entry of entries ?? []) this.#passed.add(entry.cursor);
    for (const oldest of this.#passed) {
      if (this.#passed.size <= RECENT_ENTRIES) break;
      this.#passed.delete(oldest);
    }
    this.#passed.delete("");
    this.settle();
  }

  // ---- joining: the leader's side ---------------------------------------------------------------------------------

  /** @param {string} tab @param {{ask: number, cursor: string | null}} join "": it starts here; null: it reads on its own */
  #answer(tab, { ask, cursor }) {
    if (cursor === "" && this.#status?.state !== "live") {
      this.#newcomers.set(tab, ask);
      this.#post({ kind: "here" });
      return;
    }
    const isHere = cursor === "" || cursor === this.#member.cursor;
    const at = this.#recent.findLastIndex((entry) => entry.cursor === cursor);
    this.#welcome(tab, ask, isHere ? [] : cursor === null || at < 0 ? null : this.#recent.slice(at + 1));
  }

  /** @param {string} to @param {number} ask @param {Entry[] | null} entries what follows its cursor, null: not known here */
  #welcome(to, ask, entries) {
    this.#post({ kind: "welcome", to, ask, entries, cursor: this.#member.cursor, status: this.#status });
  }

  /** @param {Entry} entry */
  #remember(entry) {
    const kept = entry.kind === "ready" ? { kind: /** @type {const} */ ("moved"), cursor: entry.cursor } : entry;
    this.#recent.push(kept);
    this.#recentChars += sizeOf(kept);
    while (this.#recent.length > RECENT_ENTRIES || this.#recentChars > RECENT_CHARS) {
      const oldest = this.#recent.shift();
      if (oldest) this.#recentChars -= sizeOf(oldest);
    }
  }

  // ---- joining: the follower's side -------------------------------------------------------------------------------

  /** @param {{entries: Entry[] | null, cursor: string, status: Status | null}} welcome */
  #welcomed({ entries, cursor, status }) {
    const resumed = this.#member.cursor !== "";
    if (entries === null) {
      this.#passed = new Set([cursor]);
      this.#placed?.("alone");
      return;
    }
    this.#inStep = true;
    if (!resumed) this.#follow([{ kind: "moved", cursor }]);
    this.#follow(entries);
    if (status === null || !this.#inStep) return;
    this.#member.mirror(status);
    const recovered = !entries.some((entry) => entry.kind === "gap");
    const replayed = entries.filter((entry) => entry.kind === "event").length;
    if (status.state === "live") this.#member.joined(resumed, recovered, replayed);
  }

  /** @param {Entry[]} entries */
  #follow(entries) {
    let whole = true;
    for (const entry of entries) {
      // drop() in a callback ends it, but not within a page: only its end has a cursor.
      if (!this.#inStep && whole) break;
      this.#member.apply(entry);
      this.#remember(entry);
      whole = entry.cursor !== "";
    }
    this.#member.settle();
  }

  /** An answer is due. */
  #hurry() {
    this.#watchdog.start(ANSWER_MS * (1 + Math.random() / 2)); // not all followers steal the lock in the same moment
  }

  #silent() {
    if (this.#placed === null) return;
    if (this.#pinged) this.#stand(true);
    else this.#post({ kind: "ping" });
    this.#pinged = !this.#pinged;
    this.#hurry();
  }
}

/** @param {Entry} entry */
function sizeOf(entry) {
  return entry.kind === "event" ? entry.event.raw.length : 0;
}

/**
 * The name of the group that hears the same, "" where there is none to share with: another user's stream must never be
 * followed, so a tab that does not know whose its own would be (a cookie that no script can read) stays alone.
 * @param {import("../realtime.d.ts").ConnectOptions} options @param {URL} address @param {string} token
 * @returns {Promise<string>}
 */
export async function groupOf({ share = true, userId, credentials, mode }, address, token) {
  if (mode === "poll") return ""; // it holds no connection, and a hidden leader asks nothing
  // Both are for pages over https, and localhost; Node has a BroadcastChannel too, and no tabs.
  if (share === false || !globalThis.isSecureContext || !globalThis.navigator?.locks || !globalThis.BroadcastChannel) return "";
  /** @type {unknown} */ let who = null;
  if (typeof share === "string") who = { share, ...userOf(token) };
  else if (token !== "") who = identityOf(token);
  else if (userId) who = { userId };
  else if (credentials === "omit") who = {};
  if (who === null) return "";
  const sorted = new URL(address);
  const types = sorted.searchParams.get("types");
  if (types !== null) sorted.searchParams.set("types", [...new Set(types.split(","))].sort().join(","));
  // Hashed, because every script of the origin can list the locks, and a token is nobody else's business.
  const text = new TextEncoder().encode(JSON.stringify([sorted.href, who]));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return `realtime:${Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Whatever the page says: two users never share. @param {string} token */
function userOf(token) {
  const { sub, types } = claimsOf(token) ?? {};
  return { sub, types };
}

/** What stays the same when a token is renewed: the user, the types allowed, whatever else it grants. @param {string} token */
function identityOf(token) {
  const claims = claimsOf(token);
  if (claims === undefined) return { token };
  const { exp: _exp, iat: _iat, nbf: _nbf, jti: _jti, ...who } = claims;
  return Object.fromEntries(Object.entries(who).sort(([a], [b]) => (a < b ? -1 : 1)));
}
