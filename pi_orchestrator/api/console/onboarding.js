// Auto-onboarding: its kill switch, what the limiter has left, how it went, and the audit trail as it grows.

import { lineChart } from "./charts.js";
import { fill, h, keyed, say, set } from "./dom.js";
import { count, duration } from "./format.js";
import { advice, age, button, confirm, empty, field, meter, problem, section, state, toast, toastError } from "./ui.js";

export const title = "Onboarding";

const PATH = "/api/v1/onboarding/auto";
const EVERY_MS = 5000;
const SAMPLES = 180;
const PAGE = 50;
const SOON_MS = 200;
const samples = [];

/** Show the toggle, the limiter, the counters and the trail. */
export function mount(root, context) {
  const { stream } = context;
  const [control, results, audit] = [toggle(context), numbers(context), trail(context)];
  const trouble = h("div");
  fill(
    root,
    trouble,
    h("div", { class: "columns" }, h("div", { class: "stack" }, control.node, explain(context)), results.node),
    audit.node,
  );
  const look = async () => {
    if (document.hidden) return;
    try {
      const status = await context.api.get(`${PATH}/status`, { background: samples.length > 0 });
      fill(trouble);
      control.show(status);
      results.show(status);
    } catch (error) {
      fill(trouble, problem(error, look));
    }
  };
  const again = () => {
    look();
    audit.look();
  };
  const soon = once(again, SOON_MS);
  const timer = setInterval(look, EVERY_MS);
  const ends = [
    ...["enabled", "disabled", "audited"].map((kind) => stream.on(`onboarding.${kind}`, soon)),
    () => clearInterval(timer),
    () => stream.removeEventListener("resync", again),
    soon.cancel,
    control.end,
  ];
  stream.addEventListener("resync", again);
  control.changed = again;
  again();
  return () => ends.forEach((end) => end());
}

/** A call of `work` a moment after the first of many asks. */
function once(work, wait) {
  let timer = 0;
  const ask = () => {
    timer ||= setTimeout(() => {
      timer = 0;
      work();
    }, wait);
  };
  return Object.assign(ask, { cancel: () => clearTimeout(timer) });
}

function toggle({ api }) {
  const word = state("unknown");
  const text = h("p", { class: "muted" });
  const tokens = meter("Tokens left");
  const line = h("p");
  const off = button("Stop onboarding now", {
    kind: "danger",
    symbol: "stop",
    onclick: () => off.busy(() => turn("disable", "Auto-onboarding is off", "Whatever was under way was cancelled.")),
  });
  const on = button("Switch on", { symbol: "play", onclick: () => askOn() });
  const node = section(
    "Auto-onboarding",
    h("div", { class: "row spread wrap" }, word, h("div", { class: "row wrap" }, off, on)),
    text,
    tokens,
    line,
  );
  let now = null;
  let seenAt = 0;
  const self = { node, changed: () => {} };
  const turn = async (verb, done, detail) => {
    try {
      await api.post(`${PATH}/${verb}`);
      toast(done, { detail });
      self.changed();
    } catch (error) {
      toastError(error, "Auto-onboarding");
    }
  };
  const askOn = () =>
    confirm({
      title: "Switch auto-onboarding on?",
      consequences: [
        "Every camera that the policy allows is registered and paired without anybody's consent.",
        "It stays on over restarts, until it is switched off here or by command.",
        "It is meant for development.",
      ],
      label: "Switch on",
      danger: false,
      work: async () => {
        await api.post(`${PATH}/enable`);
        self.changed();
      },
    });
  const draw = () => {
    if (!now) return;
    const { config } = now;
    const left = Math.min(config.burst_size, now.tokens + ((Date.now() - seenAt) / 60000) * config.max_per_minute);
    const next = ((1 - left) * 60) / config.max_per_minute;
    tokens.show(left / config.burst_size, `${Math.floor(left)} of ${config.burst_size}`, left < 1 ? "warn" : "");
    const rate = `Refilled at ${config.max_per_minute} a minute.`;
    say(
      line,
      now.waiting
        ? `${count(now.waiting, "camera waits", "cameras wait")} in line${left < 1 ? `, the next is taken in ${duration(Math.max(1, next))}` : ""}. ${rate}`
        : `Nobody waits in line. ${rate}`,
    );
  };
  const timer = setInterval(draw, 1000);
  self.show = (status) => {
    now = status;
    seenAt = Date.now();
    word.show(
      status.running ? "running" : status.enabled ? "paused" : "off",
      status.running ? "On" : status.enabled ? "Held back" : "Off",
    );
    const networks = status.config.subnet_allowlist.join(", ");
    if (status.running)
      say(text, `Cameras with an address in ${networks} are registered and paired to ${status.target_container}.`);
    else if (status.mode !== "dev")
      say(text, "The configuration does not allow it: auto_onboard.mode is “off”. It is meant for development.");
    else say(text, "No camera is onboarded by itself.");
    off.hidden = !status.enabled;
    on.hidden = status.enabled;
    draw();
  };
  self.end = () => clearInterval(timer);
  return self;
}

const COUNTERS = [
  ["success", "Onboarded", "ok"],
  ["failed", "Failed", "bad"],
  ["rejected_by_policy", "Rejected by policy", "warn"],
  ["already_onboarded", "Known already", "info"],
  ["attempts", "Attempts", "busy"],
];

function numbers({ api }) {
  const figures = COUNTERS.map(([name, label]) => ({ name, value: h("dd", { class: "figure" }, "–"), label }));
  const list = h(
    "dl",
    { class: "figures" },
    figures.map(({ label, value }) => h("div", {}, h("dt", {}, label), value)),
  );
  const last = h("p", { class: "small muted" });
  const [success, failure] = [age(""), age("")];
  fill(last, "Last success ", success, ", last failure ", failure, ".");
  const chart = lineChart({ label: "Since this page was opened", max: 4 });
  const reset = button("Set to zero", { kind: "quiet", symbol: "refresh", onclick: () => reset.busy(zero) });
  const node = section("How it went", list, last, chart, h("div", {}, reset));
  const zero = async () => {
    try {
      await api.post(`${PATH}/metrics/reset`);
      samples.length = 0;
      show(await api.get(`${PATH}/status`));
    } catch (error) {
      toastError(error, "Counters");
    }
  };
  const show = ({ metrics, waiting }) => {
    for (const { name, value } of figures) say(value, metrics[name]);
    success.show(metrics.last_success_at);
    failure.show(metrics.last_failure_at);
    samples.push({ at: Date.now(), ...metrics, waiting });
    if (samples.length > SAMPLES) samples.shift();
    const points = (name) => samples.map((sample) => ({ at: sample.at, value: sample[name] }));
    chart.show([
      { name: "Onboarded", tone: "ok", points: points("success") },
      { name: "In line", tone: "info", points: points("waiting") },
      { name: "Failed", tone: "bad", points: points("failed") },
      { name: "Rejected", tone: "warn", points: points("rejected_by_policy") },
    ]);
  };
  return { node, show };
}

const FILTERS = [
  ["all", "Everything"],
  ["paired", "Paired"],
  ["failed", "Failed"],
  ["rejected_by_policy", "Rejected by policy"],
];

function trail({ api }) {
  const rows = h("ol", { class: "trail", "aria-label": "Audit trail, newest first" });
  const place = h("div");
  const stage = h(
    "select",
    { "aria-label": "Stage", onchange: () => ((shown = PAGE), look()) },
    FILTERS.map(([value, label]) => h("option", { value }, label)),
  );
  const more = button("Show older", { hidden: true, onclick: () => ((shown += PAGE), more.busy(look)) });
  const node = section("Audit trail", h("div", { class: "toolbar" }, stage), place, h("div", {}, more));
  let shown = PAGE;
  let turn = 0;
  const look = async () => {
    const mine = (turn += 1);
    try {
      const pages = [];
      for (let offset = 0; offset < shown; offset += PAGE) {
        const page = await api.get(
          `${PATH}/events?limit=${PAGE}&offset=${offset}${stage.value === "all" ? "" : `&stage=${stage.value}`}`,
          { background: true },
        );
        pages.push(...page.events);
        more.hidden = !page.pagination.has_more;
        if (!page.pagination.has_more) break;
      }
      if (mine !== turn) return; // somebody has asked for something else meanwhile
      keyed(rows, pages, (one) => one.id, entry);
      const instead = pages.length
        ? rows
        : empty("clock", "Nothing has happened yet", "What is done with each camera, and why, is written here.");
      if (place.firstChild !== instead) fill(place, instead);
    } catch (error) {
      if (mine === turn) fill(place, problem(error, look));
    }
  };
  return { node, look };
}

function entry(row) {
  const word = state(row.stage, undefined, row.stage === "discovered" ? "info" : undefined);
  const camera = h("a", { href: `#/cameras/${encodeURIComponent(row.mac_address)}`, class: "mono" }, row.mac_address);
  const facts = [
    row.ip_address,
    row.container_id && `container ${row.container_id}`,
    row.duration_ms !== undefined && `${row.duration_ms} ms`,
  ].filter(Boolean);
  const why =
    row.error_code &&
    h(
      "p",
      { class: "note", "data-tone": row.stage === "failed" ? "bad" : "warn" },
      h("code", {}, row.error_code),
      " ",
      row.error_message,
    );
  return {
    node: h("li", {}, age(row.timestamp), word, camera, h("span", { class: "small muted" }, facts.join(" · ")), why),
  };
}

function explain({ api }) {
  const mac = h("input", {
    name: "mac",
    required: true,
    class: "mono",
    placeholder: "24:6F:28:00:00:00",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 24,
  });
  const ip = h("input", {
    name: "ip",
    class: "mono",
    placeholder: "192.168.10.21",
    autocomplete: "off",
    spellcheck: "false",
    maxlength: 64,
  });
  const answer = h("div", { role: "status" });
  const ask = button("Explain", { type: "submit", symbol: "search" });
  const onsubmit = (event) => {
    event.preventDefault();
    ask.busy(async () => {
      try {
        const query = new URLSearchParams({ mac: mac.value.trim(), ...(ip.value.trim() && { ip: ip.value.trim() }) });
        fill(answer, verdict(await api.get(`${PATH}/policy/explain?${query}`)));
      } catch (error) {
        fill(answer, h("div", { class: "trouble" }, h("strong", {}, error.message), h("p", {}, advice(error))));
      }
    });
  };
  const form = h("form", { class: "asking", onsubmit }, field("MAC", mac), field("Address, if known", ip), ask);
  return section(
    "Would this camera be let in?",
    h("p", { class: "muted" }, "Each rule's verdict, as of now. Nothing is done."),
    form,
    answer,
  );
}

function verdict({ allowed, rules }) {
  const rows = rules.map((rule) => {
    const word = state(rule.result, rule.rule.replaceAll("_", " "));
    return h("li", {}, word, h("p", {}, rule.why, rule.code && [" ", h("code", {}, rule.code)]));
  });
  const head = state(allowed ? "pass" : "fail", allowed ? "It would be let in" : "It would be turned away");
  set(head, "class", "state big-state");
  return [head, h("ul", { class: "checks" }, rows)];
}
