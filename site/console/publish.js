// The Publish form. The server's errors contain JSON pointers, so each is shown at its field.

import { byId, copyChip, el, note } from "./dom.js";

const FIELDS = ["type", "data", "userIds", "id"];

let sentId = "";

/** @param {(text: string) => void} announce */
export function start(announce) {
  const form = byId("publish");
  form.addEventListener("submit", (/** @type {SubmitEvent} */ submit) => {
    submit.preventDefault();
    send(byId("id").value.trim(), announce);
  });
  byId("again").addEventListener("click", () => send(sentId, announce));
  byId("data").addEventListener("keydown", (/** @type {KeyboardEvent} */ key) => {
    if (key.key !== "Enter" || !(key.ctrlKey || key.metaKey)) return;
    key.preventDefault();
    form.requestSubmit();
  });
  for (const name of FIELDS) byId(name).addEventListener("input", () => fieldError(name, ""));
}

/** @param {string} id @param {(text: string) => void} announce */
async function send(id, announce) {
  clearErrors();
  const data = byId("data").value.trim();
  try {
    JSON.parse(data);
  } catch (error) {
    // The text goes into the body unchanged (1.0 stays 1.0). Without this check, invalid JSON could close the object and
    // add members to it.
    return refuse({ errors: [{ pointer: "/data", detail: data === "" ? "Data must be JSON, for example null." : reason(error) }] }, announce);
  }
  const members = [`"type":${JSON.stringify(byId("type").value.trim())}`, `"data":${data}`];
  const users = byId("userIds").value.split(",").map((/** @type {string} */ user) => user.trim()).filter(Boolean);
  if (users.length > 0) members.push(`"userIds":${JSON.stringify(users)}`);
  if (id !== "") members.push(`"id":${JSON.stringify(id)}`);
  const key = byId("key").value.trim();
  const submit = byId("publish").querySelector(".primary");
  submit.disabled = true;
  try {
    const response = await fetch(new URL("/api/publish", location.href), {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(key === "" ? {} : { Authorization: `Bearer ${key}` }) },
      body: `{${members.join(",")}}`,
    });
    const body = await response.json().catch(() => ({}));
    if (response.ok && body.events?.[0]) return receipt(body.events[0], body, announce);
    if (response.status === 401 || response.status === 403) byId("key-field").hidden = false;
    refuse({ title: `HTTP ${response.status}`, ...body }, announce);
  } catch (error) {
    refuse({ title: "The server cannot be reached", detail: reason(error) }, announce);
  } finally {
    submit.disabled = false;
  }
}

/** @param {any} event @param {any} body @param {(text: string) => void} announce */
function receipt(event, body, announce) {
  sentId = String(event.id);
  const durable = (event.durable ?? body.durable) !== false;
  const title = event.duplicate ? "Duplicate" : "Accepted";
  const text = event.duplicate
    ? "The log already contains this id. Nothing was appended; the cursor is the first event's."
    : durable ? "Stored in the log." : "Kept in memory until the log is available again.";
  const line = (/** @type {string} */ name, /** @type {string} */ value) => el("div", "", el("dt", "", name), el("dd", "", copyChip(value, name)));
  byId("receipt").replaceChildren(el("div", `receipt ${event.duplicate ? "duplicate" : ""}`,
    el("p", "", el("b", "", title), ` ${text}`),
    el("dl", "", line("id", sentId), event.cursor ? line("cursor", String(event.cursor)) : null)));
  byId("again").hidden = false;
  announce(`${title}. ${text}`);
}

/** @param {import("../realtime.d.ts").Problem} problem @param {(text: string) => void} announce */
function refuse(problem, announce) {
  byId("receipt").replaceChildren();
  /** @type {string[]} */ const rest = [];
  let first = "";
  for (const { pointer = "", detail = "" } of Array.isArray(problem.errors) ? problem.errors : []) {
    const name = fieldOf(String(pointer));
    if (name === "") rest.push(`${pointer} ${detail}`.trim());
    else {
      fieldError(name, detail);
      first ||= name;
    }
  }
  if (first === "" || rest.length > 0) {
    const text = [problem.title, problem.detail, ...rest].filter(Boolean).join(". ");
    note(byId("publish-error"), text);
  }
  if (first !== "") {
    byId(first).focus();
    announce("The event was refused. The field shows the error.");
  }
}

/** "/userIds/0", "/0/type" (a batch of one) or "#/id": the name of the form's field; "" if there is none. @param {string} pointer */
function fieldOf(pointer) {
  return pointer.replace(/^#/, "").split("/").slice(1, 3).find((part) => FIELDS.includes(part)) ?? "";
}

/** @param {string} name @param {string} text */
function fieldError(name, text) {
  note(byId(`${name}-error`), text);
  if (text === "") byId(name).removeAttribute("aria-invalid");
  else byId(name).setAttribute("aria-invalid", "true");
}

function clearErrors() {
  for (const name of FIELDS) fieldError(name, "");
  note(byId("publish-error"));
}

/** @param {unknown} error */
function reason(error) {
  return error instanceof Error ? error.message : String(error);
}
