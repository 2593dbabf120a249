// Unit tests of the browser client's pure functions: `node --test tests/browser/`

import assert from "node:assert/strict";
import { test } from "node:test";

import { member, pretty } from "../../site/console/json.js";
import { backoff, BACKOFF_CAP_MS, retryAfter } from "../../site/client/retry.js";
import { Decoder, MAX_FRAME_CHARS } from "../../site/client/sse.js";
import { renewIn } from "../../site/client/tokens.js";

const bytes = (text) => new TextEncoder().encode(text);
const frames = (text, cursor) => new Decoder(cursor).push(bytes(text));

test("chunk boundaries do not change the frames", () => {
  const stream = bytes("\uFEFFretry: 12\r\nid: a\r\n\r\nevent: x\rdata: 1\rdata:é€😀\r\r: c\nid: b\0\ndata\n\nid: c\n\nevent: half\ndata: lost");
  const whole = new Decoder("z").push(stream);
  assert.deepEqual(whole, [
    { type: "message", data: null, lastEventId: "a" },
    { type: "x", data: "1\né€😀", lastEventId: "a" },
    { type: "message", data: "", lastEventId: "a" },
    { type: "message", data: null, lastEventId: "c" },
  ]);
  for (let i = 0; i <= stream.length; i += 1) {
    for (let j = i; j <= stream.length; j += 1) {
      const decoder = new Decoder("z");
      const parts = [stream.subarray(0, i), stream.subarray(i, j), stream.subarray(j)];
      assert.deepEqual(parts.flatMap((part) => decoder.push(part)), whole);
      assert.equal(decoder.retry, 12);
    }
  }
});

test("a frame that ends in CR is decoded at once", () => {
  assert.equal(frames("data: 1\r\r").length, 1);
});

test("the id of an incomplete frame does not move the cursor", () => {
  const decoder = new Decoder("before");
  decoder.push(bytes("id: after\ndata: 1\n"));
  assert.deepEqual(decoder.push(bytes("")), []);
});

test("a heartbeat moves the cursor, a comment does not", () => {
  assert.deepEqual(frames("id: 5\n\n: still here\n\n"), [{ type: "message", data: null, lastEventId: "5" }]);
});

test("a frame without an id keeps the initial cursor", () => {
  assert.equal(frames("data: 1\n\n", "before")[0].lastEventId, "before");
});

test("a retry that is not a number is ignored", () => {
  const decoder = new Decoder();
  decoder.push(bytes("retry: 1e9\nretry: -1\nretry:\n\n"));
  assert.equal(decoder.retry, undefined);
});

test("an endless line throws", () => {
  const decoder = new Decoder();
  assert.throws(() => decoder.pushText("data: ".padEnd(MAX_FRAME_CHARS + 1, "x")), RangeError);
});

test("a delay has a minimum and a maximum", () => {
  assert.equal(backoff(0, 1_730, () => 0), 1_730);
  assert.equal(backoff(60, 0, () => 1), BACKOFF_CAP_MS);
});

test("Retry-After is seconds or a date, anything else is 0", () => {
  assert.equal(retryAfter("7"), 7_000);
  assert.equal(retryAfter("Thu, 01 Jan 1970 00:00:09 GMT", 4_000), 5_000);
  assert.equal(retryAfter("soon"), 0);
  assert.equal(retryAfter("Fri, 01 Jan 2199 00:00:00 GMT"), 3_600_000);
});

test("an expired token is not renewed", () => {
  assert.equal(renewIn(1_000, 2_000), undefined);
  assert.equal(renewIn(3_000, 2_000), undefined);
  assert.equal(renewIn(3_602_000, 2_000), 3_540_000);
});

test("data keeps its digits", () => {
  const raw = '{"data":{"n":1.0,"big":123456789012345678901234567890,"data":[]},"datax":1}';
  assert.equal(member(raw, "data"), '{"n":1.0,"big":123456789012345678901234567890,"data":[]}');
  assert.equal(pretty('{"n":1.0,"e":1e5}').map(({ text }) => text).join(""), '{ "n": 1.0, "e": 1e5 }');
});
