// Server-sent events, decoded by the rules of the WHATWG HTML standard (9.2.6, "Interpreting an event stream").
// Pure: bytes in, frames out; no network, no clock, no DOM.

/**
 * A frame without a line end never ends: a proxy's error page or a hostile server would grow the buffer until the tab
 * dies. 8 Mi characters is 32 times the largest event a server accepts.
 */
export const MAX_FRAME_CHARS = 8 * 1024 * 1024;

/**
 * What one blank line closed.
 * @typedef {object} Frame
 * @property {string} type   the `event:` field, "message" where there was none
 * @property {string | null} data  the joined `data:` lines; null for a frame that only moves the cursor
 * @property {string} lastEventId  the cursor once this frame is handled
 */

/** Decodes one response body. A new connection needs a new decoder: half a frame never survives its connection. */
export class Decoder {
  #utf8 = new TextDecoder("utf-8"); // strips one leading BOM and replaces invalid bytes, as the standard asks
  #lineEnd = /[\r\n]/g;
  #partial = "";
  #afterCarriageReturn = false;
  #type = "";
  #data = "";
  #id;
  #idSeen = false;

  /** The server's `retry:` in milliseconds, undefined until one came. @type {number | undefined} */
  retry;

  /**
   * @param {string} [lastEventId] the cursor this connection resumes from. The standard starts each connection with an
   *   empty one, so that one frame without an id would forget the place; browsers keep it, and so does this.
   */
  constructor(lastEventId = "") {
    this.#id = lastEventId;
  }

  /**
   * Takes the next bytes, cut anywhere: inside a character, a field, or between CR and LF.
   * @param {Uint8Array} bytes
   * @returns {Frame[]} the frames these bytes completed
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
      // The line was ended by its CR already: waiting to see whether an LF follows would hold the last frame back.
      if (text[0] === "\n") start = 1;
      this.#afterCarriageReturn = false;
    }
    for (;;) {
      this.#lineEnd.lastIndex = start; // only new text is searched, so a long line in small chunks stays linear
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
    if (this.#partial.length + this.#data.length > MAX_FRAME_CHARS) throw new RangeError("The stream's frame is too large.");
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
        this.#idSeen = true;
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
    const moved = this.#idSeen;
    this.#type = "";
    this.#data = "";
    this.#idSeen = false;
    if (data !== "") return { type, data: data.slice(0, -1), lastEventId: this.#id };
    // No data: nobody is told, but an id counts. Heartbeats are such frames, past events this subscriber may not see.
    return moved ? { type, data: null, lastEventId: this.#id } : null;
  }
}
