// Waits that can end early: by an abort, by `retry()`, or when the network or the page comes back.

/**
 * The promise's value, or a rejection with the signal's reason as soon as that is aborted.
 * @template T @param {T | Promise<T>} value @param {AbortSignal} signal @returns {Promise<T>}
 */
export function orAborted(value, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) reject(signal.reason);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    Promise.resolve(value).then(resolve, reject);
  });
}

/** @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
export function sleep(ms, signal) {
  return orAborted(new Promise((resolve) => setTimeout(resolve, ms)), signal);
}

export function isHidden() {
  return globalThis.document?.visibilityState === "hidden";
}

/** A subscription's wait before its next attempt or poll. At most one runs at a time. */
export class Wait {
  /** @type {(() => void) | null} */ #end = null;
  #skippableAt = 0;

  /**
   * Resolves after `ms` (undefined: never by itself) or on `skip()`. `skipIfAllowed()` ends it only after `minimum`.
   * @param {number | undefined} ms @param {number} minimum milliseconds; Infinity: only `skip()` ends it early
   */
  async beforeAttempt(ms, minimum) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
    const ended = this.#begin(minimum, (end) => { if (ms !== undefined) timer = setTimeout(end, ms); });
    await ended;
    clearTimeout(timer);
    this.#end = null;
  }

  /**
   * The same between two polls. A hidden page does not poll: its wait lasts until the page is visible again.
   * @param {number} ms @param {AbortSignal} signal
   */
  async betweenPolls(ms, signal) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
    const ended = this.#begin(ms, (end) => { timer = setTimeout(() => isHidden() || end(), ms); });
    try {
      await orAborted(ended, signal);
    } finally {
      clearTimeout(timer);
      this.#end = null;
    }
  }

  /** Ends the wait now. */
  skip() {
    this.#end?.();
  }

  /** Ends the wait if its minimum, the time that an overloaded server asked for, has passed. */
  skipIfAllowed() {
    if (Date.now() >= this.#skippableAt) this.#end?.();
  }

  /** @param {number} minimum @param {(end: () => void) => void} start @returns {Promise<void>} */
  #begin(minimum, start) {
    this.#skippableAt = Date.now() + minimum;
    return new Promise((resolve) => {
      this.#end = () => resolve();
      start(resolve);
    });
  }
}
