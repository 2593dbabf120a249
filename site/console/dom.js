// DOM helpers. They insert text nodes only: nothing from the network is parsed as HTML.

/** @param {string} id @returns {any} */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`no #${id} on the page`);
  return element;
}

/**
 * @param {string} tag @param {string} [className] @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function el(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  for (const child of children) if (child !== null) element.append(child);
  return element;
}

/** @param {HTMLElement} element @param {string} [text] "" hides the element */
export function note(element, text = "") {
  element.textContent = text;
  element.hidden = text === "";
}

/** Shortens an opaque text to its two ends. @param {string} text @param {number} [keep] */
export function short(text, keep = 16) {
  return text.length <= keep + 1 ? text : `${text.slice(0, keep / 2)}…${text.slice(-keep / 2)}`;
}

/** A button that shows the shortened text and copies all of it. @param {string} text @param {string} what @returns {HTMLElement} */
export function copyChip(text, what) {
  const button = /** @type {HTMLButtonElement} */ (el("button", "chip", short(text)));
  button.type = "button";
  button.title = `Copy ${what}: ${text.slice(0, 300)}`;
  button.setAttribute("aria-label", `Copy ${what} ${short(text)}`);
  button.dataset.copy = text;
  return button;
}

/** One listener for all chips, also those of later rows. @param {(text: string) => void} announce */
export function listenForCopies(announce) {
  document.addEventListener("click", async (click) => {
    const chip = click.target instanceof Element ? /** @type {HTMLElement | null} */ (click.target.closest("[data-copy]")) : null;
    if (chip === null) return;
    try {
      await navigator.clipboard.writeText(chip.dataset.copy ?? "");
      flash(chip, "copied");
      announce("Copied.");
    } catch {
      flash(chip, "copying is blocked here"); // http on a host other than localhost
    }
  });
}

/** @param {HTMLElement} element @param {string} text */
function flash(element, text) {
  if (element.dataset.flash !== undefined) return;
  const before = element.textContent;
  element.dataset.flash = "";
  element.textContent = text;
  setTimeout(() => {
    element.textContent = before;
    delete element.dataset.flash;
  }, 900);
}

const CLOCK = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 3, hourCycle: "h23",
});
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** The time of day, with the date if it is not today. @param {Date} date */
export function clock(date) {
  const today = date.toDateString() === new Date().toDateString();
  return today ? CLOCK.format(date) : `${DAY.format(date)} ${CLOCK.format(date)}`;
}

/** @param {number} ms */
export function span(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString()} ${count === 1 ? one : many}`;
}
