// What every view is made of: states in words, times that tick, dialogues, messages, and what to show where nothing is.

import { fill, h, say, set } from "./dom.js";
import { ago, moment } from "./format.js";
import { icon } from "./icons.js";

const TICK_MS = 1000;
const TOAST_MS = 6000;
const TOASTS = 4;

/** Words of states → [tone, icon]. A tone is a colour, and never without its word. */
const STATES = {
  ok: "ok on online ready verified paired registered success pass active done connected available running healthy",
  busy: "pairing connecting provisioning provisioned verifying discovering closing rebooting retrying starting",
  warn: "warn warning degraded paused needs_power_cycle flapping rejected_by_policy skipped",
  bad: "error failed failure fail critical interrupted not_ready",
  off: "debug inactive offline off closed cancelled disabled unknown used disconnected",
  info: "discovered claimed info idle",
};
const ICONS = { ok: "check", busy: "wait", warn: "alert", bad: "alert", off: "off", info: "info" };
const TONES = new Map(Object.entries(STATES).flatMap(([tone, words]) => words.split(" ").map((word) => [word, tone])));

/** The tone of a state's word. */
export const toneOf = (word) => TONES.get(word) ?? "info";

/** A state as icon and word; `.show(word, label?, tone?)` changes it. */
export function state(word, label, tone) {
  const text = h("span");
  const node = h("span", { class: "state" });
  let drawn = "";
  const show = (next, words = String(next).replaceAll("_", " "), as = toneOf(next)) => {
    if (drawn !== as) fill(node, icon(ICONS[as]), text);
    drawn = as;
    set(node, "data-tone", as);
    say(text, words);
  };
  show(word, label, tone);
  return Object.assign(node, { show });
}

/** A time as its age, which ticks; the full time is its title. `.show(timestamp)` changes it. */
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
  say(node, at ? ago(at) : node.dataset.never);
}

setInterval(() => document.hidden || document.querySelectorAll("time.age").forEach(tick), TICK_MS);

/** A button; `kind` is "primary", "danger", "quiet" or "". With `busy(work)` it is busy until the promise has ended. */
export function button(label, { kind = "", symbol = null, onclick, name = null, ...props } = {}) {
  const text = h("span", { class: "label" }, label);
  const node = h(
    "button",
    { type: "button", class: `button ${kind}`, "aria-label": name, onclick, ...props },
    symbol && icon(symbol),
    text,
  );
  return Object.assign(node, { label: (words) => say(text, words), busy: (work) => busy(node, work) });
}

/** A button that is an icon alone; its name is read out and shown on hover. */
export function iconButton(symbol, name, { onclick, ...props } = {}) {
  const node = h(
    "button",
    { type: "button", class: "button icon-only", "aria-label": name, title: name, onclick, ...props },
    icon(symbol),
  );
  return Object.assign(node, { busy: (work) => busy(node, work) });
}

/** Keep a control from being used twice while `work()` runs; focus stays. Returns what the work does. */
async function busy(node, work) {
  if (node.getAttribute("aria-busy") === "true") return undefined;
  set(node, "aria-busy", "true");
  try {
    return await work();
  } finally {
    set(node, "aria-busy", null);
  }
}

/** Say something to everybody, once: `tone` "ok", "info", "warn" or "bad". */
export function toast(text, { tone = "ok", detail = "", action = null } = {}) {
  const place = document.getElementById(tone === "bad" ? "alerts" : "messages");
  const note = h(
    "div",
    { class: "toast", "data-tone": tone },
    icon(ICONS[tone]),
    h("div", {}, h("strong", {}, text), detail && h("p", {}, detail)),
  );
  const away = () => note.remove();
  if (action) note.append(button(action.label, { kind: "quiet", onclick: () => (away(), action.onclick()) }));
  note.append(iconButton("close", "Dismiss", { onclick: away }));
  place.append(note);
  while (place.childElementCount > TOASTS) place.firstElementChild.remove();
  let timer = setTimeout(away, tone === "bad" ? 2 * TOAST_MS : TOAST_MS);
  for (const stay of ["pointerenter", "focusin"]) note.addEventListener(stay, () => clearTimeout(timer));
  note.addEventListener("pointerleave", () => (timer = setTimeout(away, TOAST_MS)));
}

/** Tell what failed and what to do about it; what somebody cancelled is no news. */
export function toastError(error, what = "") {
  if (error.code === "CANCELLED") return;
  toast([what, error.message].filter(Boolean).join(": "), { tone: "bad", detail: advice(error) });
}

/** Details and remedy of an error in one text; of a key that is missing the details tell of headers, for programs. */
export const advice = (error) =>
  [error.status !== 401 && error.details, error.remedy].filter(Boolean).join(". ").replaceAll("..", ".");

/** An error in the place where its data would be; `again` is what a button tries. */
export function problem(error, again) {
  return h(
    "div",
    { class: "empty", "data-tone": "bad", role: "alert" },
    icon("alert"),
    h("h2", {}, error.message),
    error.details && h("p", {}, error.details),
    h("p", {}, error.remedy ?? ""),
    again &&
      button(error.status === 401 ? "Enter a key" : "Try again", {
        symbol: error.status === 401 ? "key" : "refresh",
        onclick: again,
      }),
  );
}

/** Where nothing is: why, and what to do next. `actions` are nodes. */
export function empty(symbol, title, text, ...actions) {
  return h("div", { class: "empty" }, icon(symbol), h("h2", {}, title), h("p", {}, text), actions);
}

/** Grey shapes where data is on its way. */
export function skeleton(count = 6, kind = "card") {
  const shapes = Array.from({ length: count }, () => h("div", { class: `skeleton ${kind}` }));
  return h("div", { class: kind === "card" ? "grid" : "stack", role: "status", "aria-label": "Loading" }, shapes);
}

/** A measure with its name and value in words; `.show(fraction, text, tone?)`, null where nobody knows yet. */
export function meter(label) {
  const value = h("span", { class: "value" });
  const bar = h("progress", { max: 1, "aria-label": label });
  const node = h("div", { class: "meter" }, h("div", { class: "row" }, h("span", {}, label), value), bar);
  const show = (fraction, text, tone = "") => {
    if (fraction === null) bar.removeAttribute("value");
    else set(bar, "value", Math.min(1, Math.max(0, fraction)));
    set(bar, "aria-valuetext", text);
    set(node, "data-tone", tone || null);
    say(value, text);
  };
  return Object.assign(node, { show });
}

/** Names and values in two columns: pairs of [name, node or text]; those without a value are left out. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { class: "facts" },
    known.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** A part of a page under its own heading. */
export function section(title, ...children) {
  return h("section", { class: "panel", "aria-label": title }, h("h2", {}, title), children);
}

/** A place for what may be wider than the window: it scrolls by itself, with keys too. */
export function scrolled(label, ...children) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, children);
}

/** A labelled control; `hint` says what may be written into it. */
export function field(label, control, hint = "") {
  return h("label", { class: "field" }, h("span", {}, label), control, hint && h("small", {}, hint));
}

/**
 * A modal dialogue. `body` is nodes; `submit` is {label, kind, work(form) → result}; a work that throws keeps the
 * dialogue open and shows why. Resolves to the result, or null when it was dismissed.
 */
export function dialog({ title, body, submit = null, dismiss = "Cancel", kind = "" }) {
  const trouble = h("div", { class: "trouble", role: "alert", hidden: true });
  const send = submit && button(submit.label, { kind: submit.kind ?? "primary", type: "submit" });
  const leave = button(dismiss, { kind: "quiet", onclick: () => node.close() });
  const form = h("form", {}, h("h2", {}, title), body, trouble, h("div", { class: "actions" }, leave, send));
  const node = h("dialog", { class: `dialog ${kind}`, "aria-label": title }, form);
  return new Promise((resolve) => {
    let result = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      send?.busy(async () => {
        trouble.hidden = true;
        try {
          result = (await submit.work(form)) ?? true;
          node.close();
        } catch (error) {
          if (!node.open) return toastError(error, title); // dismissed meanwhile
          fill(trouble, h("strong", {}, error.message), h("p", {}, advice(error)));
          trouble.hidden = false;
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

/** Ask before something whose consequences are told; `work` runs in the dialogue. Resolves as `dialog` does. */
export function confirm({ title, consequences, label, danger = true, work = async () => true }) {
  const list = [consequences].flat().map((one) => h("li", {}, one));
  return dialog({
    title,
    body: h("ul", { class: "consequences" }, list),
    submit: { label, kind: danger ? "danger" : "primary", work },
  });
}
