// Parts of every view: states, ages, buttons, meters, dialogues, toasts, and placeholders.

import { fill, h, set, setText } from "./dom.js";
import { ago, moment } from "./format.js";
import { icon } from "./icons.js";

const TICK_MS = 1000;
const TOAST_MS = 6000;
const MAX_TOASTS = 4;

/** Tone → names of states. A tone is a colour and is always shown with the state's name. */
const STATES = {
  ok: "ok on online ready verified paired registered success pass active done connected available running healthy",
  busy: "pairing connecting provisioning provisioned verifying discovering closing rebooting retrying starting",
  warn: "warn warning degraded paused needs_power_cycle flapping rejected_by_policy skipped",
  bad: "error failed failure fail critical interrupted not_ready",
  off: "debug inactive offline off closed cancelled disabled unknown used disconnected",
  info: "discovered claimed info idle",
};
const ICONS = { ok: "check", busy: "wait", warn: "alert", bad: "alert", off: "off", info: "info" };
const TONES = new Map(Object.entries(STATES).flatMap(([tone, names]) => names.split(" ").map((name) => [name, tone])));

/** The tone of a state. */
export const toneOf = (name) => TONES.get(name) ?? "info";

/** A state as icon and text; `.show(name, label?, tone?)` changes it. */
export function state(name, label, tone) {
  const text = h("span");
  const node = h("span", { class: "state" });
  let shownTone = "";
  const show = (next, words = String(next).replaceAll("_", " "), newTone = toneOf(next)) => {
    if (shownTone !== newTone) fill(node, icon(ICONS[newTone]), text);
    shownTone = newTone;
    set(node, "data-tone", newTone);
    setText(text, words);
  };
  show(name, label, tone);
  return Object.assign(node, { show });
}

/** The age of a time, updated every second, with the full time as title; `.show(timestamp)` changes it. */
export function age(timestamp, { never = "never" } = {}) {
  const node = h("time", { class: "age", "data-never": never });
  const show = (at) => {
    set(node, "datetime", at || null);
    set(node, "title", at ? moment(at) : null);
    tick(node);
  };
  show(timestamp);
  return Object.assign(node, { show });
}

function tick(node) {
  const at = node.getAttribute("datetime");
  setText(node, at ? ago(at) : node.dataset.never);
}

setInterval(() => document.hidden || document.querySelectorAll("time.age").forEach(tick), TICK_MS);

/** A button; `kind` is "primary", "danger", "quiet" or "". `.busy(work)` disables it until the promise settles. */
export function button(label, { kind = "", symbol = null, onclick, name = null, ...props } = {}) {
  const text = h("span", { class: "label" }, label);
  const node = h(
    "button",
    { type: "button", class: `button ${kind}`, "aria-label": name, onclick, ...props },
    symbol && icon(symbol),
    text,
  );
  return Object.assign(node, { label: (words) => setText(text, words), busy: (work) => busy(node, work) });
}

/** A button with an icon only; screen readers and hover show its name. */
export function iconButton(symbol, name, { onclick, ...props } = {}) {
  const node = h(
    "button",
    { type: "button", class: "button icon-only", "aria-label": name, title: name, onclick, ...props },
    icon(symbol),
  );
  return Object.assign(node, { busy: (work) => busy(node, work) });
}

/** Ignore further clicks on a control while `work()` runs; it keeps the focus. Returns the result of `work`. */
async function busy(node, work) {
  if (node.getAttribute("aria-busy") === "true") return undefined;
  set(node, "aria-busy", "true");
  try {
    return await work();
  } finally {
    set(node, "aria-busy", null);
  }
}

/** Show a message for some seconds; `tone` is "ok", "info", "warn" or "bad". */
export function toast(text, { tone = "ok", detail = "", action = null } = {}) {
  const place = document.getElementById(tone === "bad" ? "alerts" : "messages");
  const note = h(
    "div",
    { class: "toast", "data-tone": tone },
    icon(ICONS[tone]),
    h("div", {}, h("strong", {}, text), detail && h("p", {}, detail)),
  );
  const close = () => note.remove();
  if (action) note.append(button(action.label, { kind: "quiet", onclick: () => (close(), action.onclick()) }));
  note.append(iconButton("close", "Dismiss", { onclick: close }));
  place.append(note);
  while (place.childElementCount > MAX_TOASTS) place.firstElementChild.remove();
  let timer = setTimeout(close, tone === "bad" ? 2 * TOAST_MS : TOAST_MS);
  for (const type of ["pointerenter", "focusin"]) note.addEventListener(type, () => clearTimeout(timer));
  note.addEventListener("pointerleave", () => (timer = setTimeout(close, TOAST_MS)));
}

/** Show an error with its remedy, prefixed by `subject`; cancelled calls are ignored. */
export function toastError(error, subject = "") {
  if (error.code === "CANCELLED") return;
  toast([subject, error.message].filter(Boolean).join(": "), { tone: "bad", detail: advice(error) });
}

/** Details and remedy of an error in one text; without the details of a 401, which are about headers, for programs. */
export const advice = (error) =>
  [error.status !== 401 && error.details, error.remedy].filter(Boolean).join(". ").replaceAll("..", ".");

/** A placeholder for data that could not be loaded, with the error; `retry` is the button's action. */
export function problem(error, retry) {
  return h(
    "div",
    { class: "empty", "data-tone": "bad", role: "alert" },
    icon("alert"),
    h("h2", {}, error.message),
    error.details && h("p", {}, error.details),
    h("p", {}, error.remedy ?? ""),
    retry &&
      button(error.status === 401 ? "Enter a key" : "Try again", {
        symbol: error.status === 401 ? "key" : "refresh",
        onclick: retry,
      }),
  );
}

/** A placeholder for an empty list: reason and next step; `actions` are nodes. */
export function empty(symbol, title, text, ...actions) {
  return h("div", { class: "empty" }, icon(symbol), h("h2", {}, title), h("p", {}, text), actions);
}

/** Grey shapes while data is loading. */
export function skeleton(count = 6, kind = "card") {
  const shapes = Array.from({ length: count }, () => h("div", { class: `skeleton ${kind}` }));
  return h("div", { class: kind === "card" ? "grid" : "stack", role: "status", "aria-label": "Loading" }, shapes);
}

/** A bar with label and value; `.show(fraction, text, tone?)`, fraction null if unknown. */
export function meter(label) {
  const value = h("span", { class: "value" });
  const bar = h("progress", { max: 1, "aria-label": label });
  const node = h("div", { class: "meter" }, h("div", { class: "row" }, h("span", {}, label), value), bar);
  const show = (fraction, text, tone = "") => {
    if (fraction === null) bar.removeAttribute("value");
    else set(bar, "value", Math.min(1, Math.max(0, fraction)));
    set(bar, "aria-valuetext", text);
    set(node, "data-tone", tone || null);
    setText(value, text);
  };
  return Object.assign(node, { show });
}

/** Names and values in two columns from pairs of [name, node or text]; pairs without a value are omitted. */
export function facts(pairs) {
  const present = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { class: "facts" },
    present.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A panel with a heading. */
export function section(title, ...children) {
  return h("section", { class: "panel", "aria-label": title }, h("h2", {}, title), children);
}

/** A container for content that may be wider than the window; it scrolls, also with the keyboard. */
export function scrolled(label, ...children) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, children);
}

/** A control with a label; `hint` describes valid input. */
export function field(label, control, hint = "") {
  return h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", {}, hint));
}

/**
 * A modal dialogue. `body` is nodes; `submit` is {label, kind, work(form) → result}. If `work` throws, the dialogue
 * stays open and shows the error. Resolves to the result, or to null when dismissed.
 */
export function dialog({ title, body, submit = null, dismiss = "Cancel", kind = "" }) {
  const errorBox = h("div", { class: "form-error", role: "alert", hidden: true });
  const submitButton = submit && button(submit.label, { kind: submit.kind ?? "primary", type: "submit" });
  const dismissButton = button(dismiss, { kind: "quiet", onclick: () => node.close() });
  const actions = h("div", { class: "actions" }, dismissButton, submitButton);
  const form = h("form", {}, h("h2", {}, title), body, errorBox, actions);
  const node = h("dialog", { class: `dialog ${kind}`, "aria-label": title }, form);
  return new Promise((resolve) => {
    let result = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      submitButton?.busy(async () => {
        errorBox.hidden = true;
        try {
          result = (await submit.work(form)) ?? true;
          node.close();
        } catch (error) {
          if (!node.open) return toastError(error, title); // dismissed before the error
          fill(errorBox, h("strong", {}, error.message), h("p", {}, advice(error)));
          errorBox.hidden = false;
        }
      });
    });
    node.addEventListener("close", () => {
      node.remove();
      resolve(result);
    });
    document.body.append(node);
    node.showModal();
  });
}

/** Confirm an action after listing its consequences; `work` runs in the dialogue. Resolves as `dialog` does. */
export function confirm({ title, consequences, label, danger = true, work = async () => true }) {
  const list = [consequences].flat().map((text) => h("li", {}, text));
  return dialog({
    title,
    body: h("ul", { class: "consequences" }, list),
    submit: { label, kind: danger ? "danger" : "primary", work },
  });
}
