// The daemon's log, live. It follows until somebody scrolls up to read; what comes meanwhile waits.

import { eachFrame, fill, h, keyed } from "./dom.js";
import { clock, count, moment, sentence } from "./format.js";
import { button, empty, problem, skeleton, state } from "./ui.js";

export const title = "Logs";

const LEVELS = ["debug", "info", "warn", "error"];
const SHOWN = 600;
const KEPT = 3000;
const NEAR_PX = 40;
const chosen = { level: "info", component: "", search: "" };

/** Show the log. */
export function mount(root, { api, stream }) {
  const lines = new Map();
  let [following, unseen, failed, top] = [true, 0, null, 0];
  const rows = h("ol", { class: "lines" });
  const view = h(
    "div",
    { class: "log", role: "log", "aria-live": "off", "aria-label": "Log", tabindex: "0", onscroll: () => scrolled() },
    skeleton(8, "row"),
  );
  const back = button("", {
    kind: "primary",
    symbol: "down",
    class: "button primary newest",
    onclick: () => follow(true),
  });
  const bar = filters(() => follow(true));

  const draw = eachFrame(() => {
    bar.components([...new Set([...lines.values()].map((line) => line.component))].sort());
    back.hidden = following;
    back.label(unseen ? `${count(unseen, "new line")} below` : "Go to the newest");
    if (!following) return;
    const wanted = [...lines.values()]
      .filter(matches)
      .sort((a, b) => a.id - b.id)
      .slice(-SHOWN);
    keyed(
      rows,
      wanted,
      (line) => line.id,
      (line) => ({ node: row(line) }),
    );
    const instead = wanted.length
      ? rows
      : failed
        ? problem(failed, () => load())
        : empty("log", "No lines", lines.size ? "None matches the filter above." : "Nothing was logged yet.");
    if (view.firstChild !== instead) fill(view, instead);
    pin();
  });
  const pin = () => {
    view.scrollTop = view.scrollHeight;
    top = view.scrollTop;
  };
  const follow = (on) => {
    following = on;
    if (on) unseen = 0;
    draw();
  };
  const scrolled = () => {
    const atEnd = view.scrollHeight - view.scrollTop - view.clientHeight < NEAR_PX;
    const up = view.scrollTop < top;
    top = view.scrollTop;
    // A row is measured when it comes into sight: what grows under a reader is no reader who goes up.
    if (following && !atEnd && !up) pin();
    else if (atEnd !== following) follow(atEnd);
  };
  const take = (line) => {
    if (lines.has(line.id)) return;
    lines.set(line.id, line);
    if (!following && matches(line)) unseen += 1;
    if (lines.size > KEPT) lines.delete(lines.keys().next().value);
  };
  const load = async ({ background = false } = {}) => {
    try {
      const { logs } = await api.get(`/api/v1/system/logs?limit=${SHOWN}`, { background });
      logs.reverse().forEach(take);
      failed = null;
    } catch (error) {
      failed = error;
    }
    draw();
  };

  const resync = () => load({ background: true });

  fill(root, bar, h("div", { class: "log-frame" }, view, back));
  const release = stream.want("log");
  const end = stream.on("log", (line) => {
    take(line);
    draw();
  });
  stream.addEventListener("resync", resync);
  load();
  return () => {
    end();
    release();
    stream.removeEventListener("resync", resync);
    draw.cancel();
  };
}

function matches({ level, component, message, fields }) {
  if (LEVELS.indexOf(level) < LEVELS.indexOf(chosen.level)) return false;
  if (chosen.component && component !== chosen.component) return false;
  const wanted = chosen.search.trim().toLowerCase();
  return !wanted || `${component} ${message} ${inWords(fields)}`.toLowerCase().includes(wanted);
}

function filters(changed) {
  const choose = (choice) => {
    Object.assign(chosen, choice);
    changed();
  };
  const level = h(
    "select",
    { "aria-label": "Least level", onchange: () => choose({ level: level.value }) },
    LEVELS.map((one) => h("option", { value: one, selected: one === chosen.level }, `${sentence(one)} and above`)),
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
      all.map((one) => h("option", { value: one, selected: one === chosen.component }, one || "All components")),
    );
  };
  return Object.assign(h("div", { class: "toolbar" }, level, component, search), { components });
}

function row({ timestamp, level, component, message, fields }) {
  const text = h("span", { class: "text" }, message);
  const rest = inWords(fields);
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

const inWords = (fields) =>
  Object.entries(fields ?? {})
    .map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join(" ");
