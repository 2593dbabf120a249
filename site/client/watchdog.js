// Notices a connection that is open and dead: a NAT that forgot it, a laptop that slept, a network that changed.
// TCP may take minutes to say so; the server's heartbeat says it by being absent.

/** A timer this late was throttled or slept itself, and what the server sent may still be queued behind it. */
const LATE_MS = 1_000;

export class Watchdog {
  #onSilent;
  #limit = 0;
  #since = 0;
  #due = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  /** When the server was last heard on this attempt, 0 before its first byte. */
  heardAt = 0;

  /** @param {() => void} onSilent */
  constructor(onSilent) {
    this.#onSilent = onSilent;
  }

  /** Starts over: silent for `limit` milliseconds from now is dead. @param {number} limit */
  start(limit) {
    this.stop();
    this.#since = Date.now();
    this.#limit = limit;
    this.heardAt = 0;
    this.#arm(limit);
  }

  /** A sign of life, and how long the next one may take. Runs for each chunk, so a timer that is early stays. @param {number} limit */
  heard(limit) {
    this.heardAt = this.#since = Date.now();
    this.#limit = limit;
    if (this.#since + limit < this.#due && this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#arm(limit);
    }
  }

  /** The network changed under a quiet connection: do not wait the whole time for it. @param {number} limit */
  hurry(limit) {
    if (this.#timer !== undefined && this.heardAt > 0) this.heard(limit);
  }

  stop() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** @param {number} ms */
  #arm(ms) {
    this.#due = Date.now() + ms;
    this.#timer = setTimeout(() => this.#check(), ms);
  }

  #check() {
    const now = Date.now();
    const left = this.#since + this.#limit - now;
    if (left > 0) this.#arm(left);
    else if (now - this.#due > LATE_MS) this.#arm(LATE_MS);
    else this.#onSilent();
  }
}
