// Detects a dead connection: the NAT dropped its entry, the laptop slept, the network changed. TCP can need minutes to
// report that; a missing heartbeat shows it within seconds.

/** A timer that fires this late was throttled, or the machine slept: received bytes may still be queued behind it. */
const LATE_MS = 1_000;

export class Watchdog {
  #onTimeout;
  #limit = 0;
  #since = 0;
  #due = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;

  /** Time of the last byte received in this attempt; 0 before the first. */
  receivedAt = 0;

  /** @param {() => void} onTimeout */
  constructor(onTimeout) {
    this.#onTimeout = onTimeout;
  }

  /** Starts an attempt: `onTimeout` is called after `limit` milliseconds without a byte. @param {number} limit */
  start(limit) {
    this.stop();
    this.#since = Date.now();
    this.#limit = limit;
    this.receivedAt = 0;
    this.#arm(limit);
  }

  /**
   * Bytes were received; the next ones may take `limit` milliseconds. Runs for each chunk, so a timer that fires too
   * early is not restarted here: `#check` extends it.
   * @param {number} limit
   */
  received(limit) {
    this.receivedAt = this.#since = Date.now();
    this.#limit = limit;
    if (this.#since + limit < this.#due && this.#timer !== undefined) {
      clearTimeout(this.#timer);
      this.#arm(limit);
    }
  }

  /** The network changed: an open connection must show a byte within `limit` milliseconds. @param {number} limit */
  shorten(limit) {
    if (this.#timer !== undefined && this.receivedAt > 0) this.received(limit);
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
    else this.#onTimeout();
  }
}
