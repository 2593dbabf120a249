// One connection per browser instead of one per tab.
//
// Tabs that would receive the same events form a group. A Web Lock elects the leader. It holds the connection and posts
// what it receives on a BroadcastChannel; the followers apply it. Each tab has its own cursor, which alone decides what
// the tab still needs: a tab joins with its cursor and gets the entries after it from the leader's recent ones. If these do
// not reach back far enough (a long replay, a tab that slept), the tab connects by itself until its cursor equals one that
// the leader has passed; equal cursors are equal positions. So no event is lost or duplicated, whichever tab ends when,
// and in whatever order the lock (a crash releases it too) and the last posts of a closing tab arrive.

import { claimsOf } from "./tokens.js";
import { Watchdog } from "./watchdog.js";

/** @typedef {import("./response.js").Entry} Entry */
/** @typedef {import("../realtime.d.ts").State} State */
/** @typedef {import("../realtime.d.ts").StateChange} StateChange */
/** @typedef {{state: State, change: StateChange}} Status state of the leader's connection */

/**
 * A tab's subscription, as its group sees it.
 * @typedef {object} Member
 * @property {string} cursor
 * @property {boolean} fromNow  without a cursor, it starts at the current position
 * @property {number} heartbeat  milliseconds
 * @property {(entry: Entry) => void} deliver
 * @property {() => void} saveCursor
 * @property {(status: Status) => void} mirror  take over the leader's state
 * @property {(resumed: boolean, recovered: boolean, replayed: number) => void} joined  in sync with a live leader
 * @property {(reason: string) => void} restart  end the attempt, and join the group again
 * @property {() => void} becameLeader  its open connection now serves the group
 * @property {() => void} skipWait  a user looks at a page of the group: end the wait before the next attempt
 */

/** Entries kept for tabs that join: a reload or a change of leaders needs the last few. */
const RECENT_ENTRIES = 256;
const RECENT_CHARS = 1_000_000;

/** The lock changes its owner at once; the last posts of the previous owner may still be on their way. */
const LATE_POSTS_MS = 50;

/** Timeout of a leader's answer. Browsers throttle timers in hidden tabs, not posts: a silent leader is frozen. */
const ANSWER_MS = 5_000;

export class Tabs {
  /** @type {"alone" | "leader" | "follower"} */ role = "alone";
  #member;
  #id = Math.random().toString(36).slice(2);
  #group = "";
  #leader = ""; // id of the tab whose posts are applied
  #inSync = false; // a follower that applies each of the leader's entries
  /** @type {BroadcastChannel | null} */ #channel = null;
  /** @type {AbortController | null} */ #lockRequest = null;
  /** @type {((value?: unknown) => void) | null} */ #releaseLock = null;
  /** @type {((role: "leader" | "alone") => void) | null} */ #resolveRole = null;
  /** @type {Entry[]} */ #recent = [];
  #recentChars = 0;
  /** @type {Set<string>} */ #leaderCursors = new Set(); // passed by the leader while this tab has its own connection
  /** @type {Entry[]} */ #outbox = [];
  /** @type {Status | null} */ #status = null; // of this tab's own connection
  /** @type {Map<string, number>} */ #waitingTabs = new Map(); // without a cursor: they start when this leader is live
  #joinId = 0; // a join supersedes the one before it, and late answers to that
  #pinged = false;
  #watchdog = new Watchdog(() => this.#leaderTimedOut());

  /** @param {Member} member */
  constructor(member) {
    this.#member = member;
  }

  /**
   * Resolves when this tab may connect: to true if it was a follower until then. Group "": at once, without sharing.
   * @param {string} group @param {AbortSignal} signal @returns {Promise<boolean>}
   */
  async join(group, signal) {
    if (group !== this.#group) {
      this.leave();
      if (group !== "") this.#open(group);
    }
    if (group === "" || this.role === "leader") return false;
    this.role = "follower";
    const role = await new Promise((resolve, reject) => {
      this.#resolveRole = resolve;
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.#postJoin();
    }).finally(() => {
      this.#resolveRole = null;
      this.#inSync = false;
      this.#watchdog.stop();
    });
    this.role = role;
    return this.#leader !== "" && role === "leader";
  }

  /** Keeps an entry of this tab's own connection for tabs that join, and for the followers if it leads. @param {Entry} entry */
  record(entry) {
    this.#remember(entry);
    if (this.role === "leader") this.#outbox.push(entry);
  }

  /** Posts the recorded entries. A tab with its own connection ends that once it has met the leader's position. */
  flush() {
    if (this.role === "leader" && this.#outbox.length > 0) {
      const isReady = this.#outbox.some((entry) => entry.kind === "ready");
      this.#post({ kind: "entries", entries: this.#outbox.splice(0) });
      if (isReady) for (const [tab, joinId] of this.#waitingTabs) this.#welcome(tab, joinId, []);
      if (isReady) this.#waitingTabs.clear();
    } else if (this.role === "alone" && this.#group !== "" && this.#status?.state === "live") {
      if (this.#leaderCursors.has(this.#member.cursor)) this.#member.restart("shared");
    }
  }

  /** The state of this tab's own connection has changed. @param {State} state @param {StateChange} change */
  stateChanged(state, { error, ...change }) {
    this.#status = { state, change }; // without the error, which may not be cloneable
    if (this.role !== "leader") return;
    this.flush();
    this.#post({ kind: "status", status: this.#status });
  }

  /** A user looks at this tab or wants to reconnect: check that the leader is alive, and have it end its wait. */
  pingLeader() {
    if (this.role !== "follower") return;
    this.#post({ kind: "ping" });
    this.#watchdog.start(ANSWER_MS);
    this.#pinged = true;
  }

  /** Leaves the group; another tab can lead. */
  leave() {
    if (this.#group === "") return;
    if (this.role === "leader") this.flush();
    this.#group = this.#leader = "";
    this.role = "alone";
    this.#watchdog.stop();
    this.#lockRequest?.abort();
    this.#releaseLock?.();
    this.#releaseLock = null;
    this.#channel?.close();
    this.#channel = null;
    this.#recent = [];
    this.#recentChars = 0;
    this.#leaderCursors.clear();
    this.#outbox = [];
    this.#waitingTabs.clear();
  }

  // ---- the lock -------------------------------------------------------------------------------------------------

  /** @param {string} group */
  #open(group) {
    this.#group = group;
    this.#channel = new BroadcastChannel(group);
    this.#channel.onmessage = ({ data }) => this.#onMessage(data);
    this.#requestLock(false);
  }

  /** Queues for the lock, or takes it at once from a leader that does not answer. @param {boolean} steal */
  #requestLock(steal) {
    this.#lockRequest?.abort();
    const request = (this.#lockRequest = new AbortController());
    const { signal } = request;
    navigator.locks.request(this.#group, steal ? { steal } : { signal }, () => this.#lead(signal)).catch(() => {
      if (!signal.aborted) this.#lockStolen();
    });
  }

  /** Holds the lock until this tab releases it. @param {AbortSignal} signal */
  async #lead(signal) {
    const released = new Promise((resolve) => { this.#releaseLock = resolve; });
    if (this.#inSync) await new Promise((resolve) => setTimeout(resolve, LATE_POSTS_MS));
    if (signal.aborted) return;
    const { cursor } = this.#member;
    if (this.#recent.length === 0 && cursor !== "") this.#remember({ kind: "moved", cursor });
    const isConnected = this.role === "alone"; // the others continue from its position
    this.role = "leader";
    if (isConnected) this.#member.becameLeader();
    else this.#status = null; // what it mirrored was the previous leader's
    this.#resolveRole?.("leader");
    this.#leaderCursors.clear();
    this.#post({ kind: "lead" });
    if (this.#status !== null) this.#post({ kind: "status", status: this.#status });
    await released;
  }

  /** Another tab stole the lock because this one was frozen. Its connection no longer serves the group. */
  #lockStolen() {
    this.#releaseLock = null;
    this.#outbox = [];
    this.#waitingTabs.clear();
    this.role = "follower";
    this.#requestLock(false);
    this.#member.restart("shared");
  }

  // ---- the channel ------------------------------------------------------------------------------------------------

  /** @param {Record<string, unknown>} message */
  #post(message) {
    this.#channel?.postMessage({ from: this.#id, ...message });
  }

  #postJoin() {
    const { cursor, fromNow } = this.#member;
    this.#inSync = false;
    this.#joinId += 1;
    this.#post({ kind: "join", joinId: this.#joinId, cursor: cursor !== "" || fromNow ? cursor : null });
    this.#pinged = true;
    this.#expectAnswer();
  }

  /** @param {any} message */
  #onMessage(message) {
    const { kind, from } = message;
    if (this.role === "leader") {
      this.flush();
      if (kind === "join") this.#answerJoin(from, message);
      if (kind === "ping") {
        this.#post({ kind: "here" });
        this.#member.skipWait();
      }
      return;
    }
    const isForThisTab = kind === "welcome" && message.to === this.#id && message.joinId === this.#joinId;
    const isNewLeader = from !== this.#leader && (kind === "lead" || kind === "here");
    if (isNewLeader || isForThisTab) this.#leader = from;
    if (from !== this.#leader || kind === "join" || kind === "ping") return; // e.g. late posts of a previous leader
    if (this.role === "alone") this.#noteLeaderCursors(message);
    if (this.#resolveRole === null) return;
    this.#pinged = false;
    this.#watchdog.received(2 * this.#member.heartbeat + ANSWER_MS);
    if (isNewLeader || kind === "lead") this.#postJoin();
    else if (isForThisTab) this.#welcomed(message);
    else if (kind === "status" && (this.#inSync || message.status.state !== "live")) this.#member.mirror(message.status);
    else if (kind === "entries" && this.#inSync) this.#apply(message.entries);
  }

  /** Notes the leader's positions while this tab has its own connection. @param {any} message */
  #noteLeaderCursors({ kind, entries = [], cursor }) {
    if (kind === "lead") {
      this.#leaderCursors.clear();
      this.#post({ kind: "join", joinId: 0, cursor: null }); // the answer contains the leader's position
    }
    if (kind === "welcome") this.#leaderCursors.add(cursor);
    for (const entry of entries ?? []) this.#leaderCursors.add(entry.cursor);
    for (const oldest of this.#leaderCursors) {
      if (this.#leaderCursors.size <= RECENT_ENTRIES) break;
      this.#leaderCursors.delete(oldest);
    }
    this.#leaderCursors.delete("");
    this.flush();
  }

  // ---- joining: the leader's side ---------------------------------------------------------------------------------

  /**
   * Cursor "": the tab starts at the leader's position; null: it starts in the past, and reads that by itself.
   * @param {string} tab @param {{joinId: number, cursor: string | null}} join
   */
  #answerJoin(tab, { joinId, cursor }) {
    if (cursor === "" && this.#status?.state !== "live") {
      this.#waitingTabs.set(tab, joinId);
      this.#post({ kind: "here" });
      return;
    }
    const isUpToDate = cursor === "" || cursor === this.#member.cursor;
    const at = this.#recent.findLastIndex((entry) => entry.cursor === cursor);
    this.#welcome(tab, joinId, isUpToDate ? [] : cursor === null || at < 0 ? null : this.#recent.slice(at + 1));
  }

  /** @param {string} to @param {number} joinId @param {Entry[] | null} entries after the tab's cursor; null: no longer kept */
  #welcome(to, joinId, entries) {
    this.#post({ kind: "welcome", to, joinId, entries, cursor: this.#member.cursor, status: this.#status });
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
      this.#leaderCursors = new Set([cursor]);
      this.#resolveRole?.("alone");
      return;
    }
    this.#inSync = true;
    if (!resumed) this.#apply([{ kind: "moved", cursor }]);
    this.#apply(entries);
    if (status === null || !this.#inSync) return;
    this.#member.mirror(status);
    const recovered = !entries.some((entry) => entry.kind === "gap");
    const replayed = entries.filter((entry) => entry.kind === "event").length;
    if (status.state === "live") this.#member.joined(resumed, recovered, replayed);
  }

  /** @param {Entry[]} entries */
  #apply(entries) {
    let atPageEnd = true;
    for (const entry of entries) {
      // drop() in a callback ends this, but not inside a JSON page: only the end of a page has a cursor.
      if (!this.#inSync && atPageEnd) break;
      this.#member.deliver(entry);
      this.#remember(entry);
      atPageEnd = entry.cursor !== "";
    }
    this.#member.saveCursor();
  }

  /** Jitter, so that not all followers steal the lock at the same moment. */
  #expectAnswer() {
    this.#watchdog.start(ANSWER_MS * (1 + Math.random() / 2));
  }

  /** Sends a ping; after a join or a ping without an answer, steals the lock. */
  #leaderTimedOut() {
    if (this.#resolveRole === null) return;
    if (this.#pinged) this.#requestLock(true);
    else this.#post({ kind: "ping" });
    this.#pinged = !this.#pinged;
    this.#expectAnswer();
  }
}

/** @param {Entry} entry */
function sizeOf(entry) {
  return entry.kind === "event" ? entry.event.raw.length : 0;
}

/**
 * The name of the group of tabs that receive the same events; "" if the tab must not share. A tab must never follow another
 * user's stream, so a tab that does not know its own user (an HttpOnly cookie) does not share.
 * @param {import("../realtime.d.ts").ConnectOptions} options @param {URL} address @param {string} token
 * @returns {Promise<string>}
 */
export async function groupOf({ share = true, userId, credentials, mode }, address, token) {
  if (mode === "poll") return ""; // it holds no connection, and a hidden leader would not poll
  // Web Locks need a secure context: https, or localhost. Node has a BroadcastChannel too, but no tabs.
  if (share === false || !globalThis.isSecureContext || !globalThis.navigator?.locks || !globalThis.BroadcastChannel) return "";
  /** @type {unknown} */ let identity = null;
  if (typeof share === "string") identity = { share, ...userOf(token) };
  else if (token !== "") identity = identityOf(token);
  else if (userId) identity = { userId };
  else if (credentials === "omit") identity = {};
  if (identity === null) return "";
  const sorted = new URL(address);
  const types = sorted.searchParams.get("types");
  if (types !== null) sorted.searchParams.set("types", [...new Set(types.split(","))].sort().join(","));
  // Hashed: every script of the origin can list the locks, and the identity may contain a token.
  const text = new TextEncoder().encode(JSON.stringify([sorted.href, identity]));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", text));
  return `realtime:${Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

/** Part of each identity: two users never share, whatever `share` says. @param {string} token */
function userOf(token) {
  const { sub, types } = claimsOf(token) ?? {};
  return { sub, types };
}

/** The claims that a renewal does not change: the user, the allowed types, and any other grant. @param {string} token */
function identityOf(token) {
  const claims = claimsOf(token);
  if (claims === undefined) return { token };
  const { exp: _exp, iat: _iat, nbf: _nbf, jti: _jti, ...identity } = claims;
  return Object.fromEntries(Object.entries(identity).sort(([a], [b]) => (a < b ? -1 : 1)));
}
