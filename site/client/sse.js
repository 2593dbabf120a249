// Decoder for server-sent events (WHATWG HTML standard, 9.2.6 "Interpreting an event stream").
// Pure: bytes in, frames out; no network, no clock, no DOM.

/**
 * Maximum length of a frame. Without it, an endless line (a proxy's error page, a hostile server) would exhaust the tab's
 * memory. 8 Mi characters is 32 times the largest event that a server accepts.
 */
export const MAX_FRAME_CHARS = 8 * 1024 * 1024;

/**
 * A frame, terminated by a blank line.
 * @typedef {object} Frame
 * @property {string} type   the `event:` field; "message" without one
 * @property {string | null} data  the joined `data:` lines; null if the frame has only an id
 * @property {string} lastEventId  the cursor after this frame
 */

/** Decodes one response body. Each connection needs a new decoder: an incomplete frame ends with its connection. */
export class Decoder {
  #utf8 = new TextDecoder("utf-8"); // strips one leading BOM and replaces invalid bytes, as the standard requires
  #lineEnd = /[\r\n]/g;
  #partial = "";
  #afterCarriageReturn = false;
  #type = "";
  #data = "";
  #id;
  #hasId = false;

  /** The server's last `retry:` in milliseconds; undefined before the first. @type {number | undefined} */
  retry;

  /**
   * @param {string} [lastEventId] the cursor that this connection resumes from. By the standard a connection starts with
   *   an empty one, and a frame without an id would clear the cursor; browsers keep it, and so does this class.
   */
  constructor(lastEventId = "") {
    this.#id = lastEventId;
  }

  /**
   * Decodes the next chunk. It may end anywhere: inside a character, a field, or between CR and LF.
   * @param {Uint8Array} bytes
   * @returns {Frame[]} the frames that are complete now
   */
  push(bytes) {
    return this.pushText(this.#utf8.decode(bytes, { stream: true }));
  }

  /**
   * @param {string} text
   * @returns {Frame[]}
   */
  pushText(text) {
    /** @type {Frame[]} */
    const frames = [];
    if (text === "") return frames;
    let start = 0;
    if (this.#afterCarriageReturn) {
      // CR already ended the line. Waiting for a possible LF would delay the last frame until the next chunk.
      if (text[0] === "\n") start = 1;
      this.#afterCarriageReturn = false;
    }
    for (;;) {
      this.#lineEnd.lastIndex = start; // search new text only: a long line in small chunks stays O(n)
      const match = this.#lineEnd.exec(text);
      if (match === null) break;
      const line = this.#partial + text.slice(start, match.index);
      this.#partial = "";
      start = match.index + 1;
      if (match[0] === "\r") {
        if (start === text.length) this.#afterCarriageReturn = true;
        else if (text[start] === "\n") start += 1;
      }
      const frame = this.#line(line);
      if (frame !== null) frames.push(frame);
    }
    this.#partial += text.slice(start);
    if (this.#partial.length + this.#data.length > MAX_FRAME_CHARS) {
      throw new RangeError(`A frame of the stream is longer than ${MAX_FRAME_CHARS} characters.`);
    }
    return frames;
  }

  /** @param {string} line @returns {Frame | null} */
  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1);
    if (field === "data") {
      this.#data += value + "\n";
    } else if (field === "event") {
      this.#type = value;
    } else if (field === "id") {
      if (!value.includes("\0")) {
        this.#id = value;
        this.#hasId = true;
      }
    } else if (field === "retry" && /^[0-9]+$/.test(value)) {
      this.retry = Number.parseInt(value, 10);
    }
    return null;
  }

  /** @returns {Frame | null} */
  #dispatch() {
    const type = this.#type || "message";
    const data = this.#data;
    const hasId = this.#hasId;
    this.#type = "";
    this.#data = "";
    this.#hasId = false;
    if (data !== "") return { type, data: data.slice(0, -1), lastEventId: this.#id };
    // Without data there is no event, but an id moves the cursor: a heartbeat after events that this subscriber does not get.
    return hasId ? { type, data: null, lastEventId: this.#id } : null;
  }
}
