// The daemon's log, live. It follows the newest line until the operator scrolls up.

import { eachFrame, fill, h, keyed } from "./dom.js";
import { clock, count, moment, sentence } from "./format.js";
import { button, empty, problem, skeleton, state } from "./ui.js";

export const title = "Logs";

const LEVELS = ["debug", "info", "warn", "error"];
const MAX_SHOWN = 600;
const MAX_STORED = 3000;
const END_MARGIN_PX = 40;
const chosen = { level: "info", component: "", search: "" };

/** Show the log. */
export function mount(root, { api, stream }) {
  const lines = new Map();
  let [following, unseen, loadError, lastTop] = [true, 0, null, 0];
  const rows = h("ol", { class: "lines" });
  const view = h(
    "div",
    { class: "log", role: "log", "aria-live": "off", "aria-label": "Log", tabindex: "0", onscroll: () => scrolled() },
    skeleton(8, "row"),
  );
  const newestButton = button("", {
    kind: "primary",
    symbol: "down",
    class: "button primary newest",
    onclick: () => follow(true),
  });
  const bar = filters(() => follow(true));

  const draw = eachFrame(() => {
    bar.components([...new Set([...lines.values()].map((line) => line.component))].sort());
    newestButton.hidden = following;
    newestButton.label(unseen ? `${count(unseen, "new line")} below` : "Go to newest");
    if (!following) return;
    const shown = [...lines.values()]
      .filter(matches)
      .sort((a, b) => a.id - b.id)
      .slice(-MAX_SHOWN);
    keyed(
      rows,
      shown,
      (line) => line.id,
      (line) => ({ node: row(line) }),
    );
    const next = shown.length
      ? rows
      : loadError
        ? problem(loadError, () => load())
        : empty("log", "No lines", lines.size ? "No line matches the filter above." : "Nothing has been logged yet.");
    if (view.firstChild !== next) fill(view, next);
    scrollToEnd();
  });
  const scrollToEnd = () => {
    view.scrollTop = view.scrollHeight;
    lastTop = view.scrollTop;
  };
  const follow = (on) => {
    following = on;
    if (on) unseen = 0;
    draw();
  };
  const scrolled = () => {
    const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < END_MARGIN_PX;
    const isUpward = view.scrollTop < lastTop;
    lastTop = view.scrollTop;
    // Rows are measured when they come into view, so the height can grow without any scrolling by the operator.
    if (following && !atEnd && !isUpward) scrollToEnd();
    else if (atEnd !== following) follow(atEnd);
  };
  const add = (line) => {
    if (lines.has(line.id)) return;
    lines.set(line.id, line);
    if (!following && matches(line)) unseen += 1;
    if (lines.size > MAX_STORED) lines.delete(lines.keys().next().value);
  };
  const load = async ({ background = false } = {}) => {
    try {
      const { logs } = await api.get(`/api/v1/system/logs?limit=${MAX_SHOWN}`, { background });
      logs.reverse().forEach(add);
      loadError = null;
    } catch (error) {
      loadError = error;
    }
    draw();
  };

  const resync = () => load({ background: true });

  fill(root, bar, h("div", { class: "log-frame" }, view, newestButton));
  const release = stream.addType("log");
  const unsubscribe = stream.on("log", (line) => {
    add(line);
    draw();
  });
  stream.addEventListener("resync", resync);
  load();
  return () => {
    unsubscribe();
    release();
    stream.removeEventListener("resync", resync);
    draw.cancel();
  };
}

function matches({ level, component, message, fields }) {
  if (LEVELS.indexOf(level) < LEVELS.indexOf(chosen.level)) return false;
  if (chosen.component && component !== chosen.component) return false;
  const query = chosen.search.trim().toLowerCase();
  return !query || `${component} ${message} ${fieldText(fields)}`.toLowerCase().includes(query);
}

function filters(changed) {
  const choose = (choice) => {
    Object.assign(chosen, choice);
    changed();
  };
  const level = h(
    "select",
    { "aria-label": "Minimum level", onchange: () => choose({ level: level.value }) },
    LEVELS.map((name) => h("option", { value: name, selected: name === chosen.level }, `${sentence(name)} and above`)),
  );
  const component = h("select", { "aria-label": "Component", onchange: () => choose({ component: component.value }) });
  const search = h("input", {
    type: "search",
    "aria-label": "Search the log",
    placeholder: "Search the log",
    value: chosen.search,
    oninput: () => choose({ search: search.value }),
  });
  const components = (names) => {
    const all = [...new Set(["", ...names, chosen.component])];
    if (all.length === component.options.length) return;
    fill(
      component,
      all.map((name) => h("option", { value: name, selected: name === chosen.component }, name || "All components")),
    );
  };
  return Object.assign(h("div", { class: "toolbar" }, level, component, search), { components });
}

function row({ timestamp, level, component, message, fields }) {
  const text = h("span", { class: "text" }, message);
  const rest = fieldText(fields);
  if (rest) text.append(" ", h("span", { class: "muted" }, rest));
  return h(
    "li",
    { "data-level": level },
    h("time", { datetime: timestamp, title: moment(timestamp) }, clock(timestamp)),
    state(level),
    h("span", { class: "component" }, component),
    text,
  );
}

const fieldText = (fields) =>
  Object.entries(fields ?? {})
    .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" ");
