// Pretty-prints JSON token by token, without JSON.parse: 1.0, 1e5 and 30-digit integers keep their digits, and duplicate
// keys stay visible. Pure.

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|-?\d[\d.eE+-]*|true|false|null/gy;
const SPACE = /[ \t\r\n]*/y;

/** @typedef {{kind: "key" | "string" | "number" | "word" | "mark" | "space", text: string}} Token */

/** @param {string} raw @returns {string[]} in order */
function lexemes(raw) {
  const found = [];
  for (let at = 0; ; ) {
    SPACE.lastIndex = at;
    SPACE.exec(raw);
    TOKEN.lastIndex = SPACE.lastIndex;
    const match = TOKEN.exec(raw);
    if (match === null) return found;
    found.push(match[0]);
    at = TOKEN.lastIndex;
  }
}

/** Maximum length of data that stays on one line. */
const LINE_CHARS = 72;

/**
 * Tokens with two spaces per level. `{}` and `[]` stay together, and short data stays on one line.
 * @param {string} raw valid JSON
 * @returns {Token[]}
 */
export function pretty(raw) {
  const all = lexemes(raw);
  /** @type {Token[]} */ const tokens = [];
  let depth = 0;
  const compact = all.reduce((sum, text) => sum + text.length, all.length) <= LINE_CHARS;
  const line = () => tokens.push({ kind: "space", text: compact ? " " : `\n${"  ".repeat(depth)}` });
  all.forEach((text, index) => {
    const next = all[index + 1];
    if (text === "{" || text === "[") {
      tokens.push({ kind: "mark", text });
      if (next === "}" || next === "]") return;
      depth += 1;
      line();
    } else if (text === "}" || text === "]") {
      const previous = all[index - 1];
      if (previous !== "{" && previous !== "[") {
        depth -= 1;
        line();
      }
      tokens.push({ kind: "mark", text });
    } else if (text === ",") {
      tokens.push({ kind: "mark", text });
      line();
    } else if (text === ":") {
      tokens.push({ kind: "mark", text: ": " });
    } else if (text[0] === '"') {
      tokens.push({ kind: next === ":" ? "key" : "string", text });
    } else {
      tokens.push({ kind: /[a-z]/.test(text[0]) ? "word" : "number", text });
    }
  });
  return tokens;
}

/**
 * The raw text of a member of a JSON object; undefined if it is missing.
 * @param {string} raw @param {string} name
 * @returns {string | undefined}
 */
export function member(raw, name) {
  const key = JSON.stringify(name);
  const all = lexemes(raw);
  let depth = 0;
  for (let index = 0; index < all.length; index += 1) {
    const text = all[index];
    if (depth === 1 && text === key && all[index + 1] === ":") {
      let end = index + 2;
      for (let inner = 0; end < all.length; end += 1) {
        if (inner === 0 && (all[end] === "," || all[end] === "}")) break;
        if (all[end] === "{" || all[end] === "[") inner += 1;
        if (all[end] === "}" || all[end] === "]") inner -= 1;
      }
      return all.slice(index + 2, end).join("");
    }
    if (text === "{" || text === "[") depth += 1;
    if (text === "}" || text === "]") depth -= 1;
  }
  return undefined;
}
