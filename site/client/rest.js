// Waiting: until the time is over, or until somebody wants it shorter.

import { orAborted } from "./attempt.js";

export class Rest {
  /** @type {(() => void) | null} */ #wake = null;
  #wakeableAt = 0;

  /**
   * Returns once `ms` are over (never, where that is undefined) or `wake()` was called. `hurry()` ends it only after `floor`.
   * @param {number | undefined} ms @param {number} floor milliseconds, Infinity where only `wake()` counts
   */
  async stay(ms, floor) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
    const over = this.#begin(floor, (end) => { if (ms !== undefined) timer = setTimeout(end, ms); });
    await over;
    clearTimeout(timer);
    this.#wake = null;
  }

  /**
   * The same between two plain polls. A hidden page asks nothing: it stays until it is looked at.
   * @param {number} ms @param {AbortSignal} signal
   */
  async pause(ms, signal) {
    /** @type {ReturnType<typeof setTimeout> | undefined} */ let timer;
    const over = this.#begin(ms, (end) => { timer = setTimeout(() => isHidden() || end(), ms); });
    try {
      await orAborted(over, signal);
    } finally {
      clearTimeout(timer);
      this.#wake = null;
    }
  }

  /** Somebody has asked for the next attempt. */
  wake() {
    this.#wake?.();
  }

  /** The network, or somebody who looks, is back. A server in need keeps the time that it asked for. */
  hurry() {
    if (Date.now() >= this.#wakeableAt) this.#wake?.();
  }

  /** @param {number} floor @param {(end: () => void) => void} start @returns {Promise<void>} */
  #begin(floor, start) {
    this.#wakeableAt = Date.now() + floor;
    return new Promise((resolve) => {
      this.#wake = () => resolve();
      start(resolve);
    });
  }
}

export function isHidden() {
  return globalThis.document?.visibilityState === "hidden";
}
