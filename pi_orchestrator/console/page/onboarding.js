// Auto-onboarding: kill switch, rate limit, counters, policy check, and the live onboarding events.

import { lineChart } from "./charts.js";
import { fill, h, keyed, set, setText } from "./dom.js";
import { count, duration, sentence } from "./format.js";
import { advice, age, button, confirm, empty, field, meter, problem, section, state, toast, toastError } from "./ui.js";

export const title = "Onboarding";

const PATH = "/api/v1/onboarding/auto";
const REFRESH_MS = 5000;
const MAX_SAMPLES = 180;
const PAGE_SIZE = 50;
const RESYNC_DELAY_MS = 200;
const samples = [];

/** Show the kill switch, the policy check, the counters and the onboarding events. */
export function mount(root, context) {
  const { stream } = context;
  const [control, results, events] = [switchPanel(context), counterPanel(context), onboardingEvents(context)];
  const errorBox = h("div");
  fill(
    root,
    errorBox,
    h("div", { class: "columns" }, h("div", { class: "stack" }, control.node, policyCheck(context)), results.node),
    events.node,
  );
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const status = await context.api.get(`${PATH}/status`, { background: samples.length > 0 });
      fill(errorBox);
      control.show(status);
      results.show(status);
    } catch (error) {
      fill(errorBox, problem(error, refresh));
    }
  };
  const resync = () => {
    refresh();
    events.refresh();
  };
  const resyncSoon = coalesced(resync, RESYNC_DELAY_MS);
  const timer = setInterval(refresh, REFRESH_MS);
  const cleanups = [
    ...["enabled", "disabled", "audited"].map((kind) => stream.on(`onboarding.${kind}`, resyncSoon)),
    () => clearInterval(timer),
    () => stream.removeEventListener("resync", resync),
    resyncSoon.cancel,
    control.end,
  ];
  stream.addEventListener("resync", resync);
  control.onChange = resync;
  resync();
  return () => cleanups.forEach((cleanup) => cleanup());
}

/** Return a function that calls `work` once, `delayMs` after the first of many calls; `.cancel()` cancels it. */
function coalesced(work, delayMs) {
  let timer = 0;
  const schedule = () => {
    timer ||= setTimeout(() => {
      timer = 0;
      work();
    }, delayMs);
  };
  return Object.assign(schedule, { cancel: () => clearTimeout(timer) });
}

function switchPanel({ api }) {
  const badge = state("unknown");
  const text = h("p", { class: "muted" });
  const tokens = meter("Attempts available now");
  const waitingText = h("p");
  const offButton = button("Stop onboarding now", {
    kind: "danger",
    symbol: "stop",
    onclick: () => offButton.busy(() => disable()),
  });
  const onButton = button("Switch on", { symbol: "play", onclick: () => confirmEnable() });
  const node = section(
    "Auto-onboarding",
    h("div", { class: "row spread wrap" }, badge, h("div", { class: "row wrap" }, offButton, onButton)),
    text,
    tokens,
    waitingText,
  );
  let current = null;
  let receivedAt = 0;
  const self = { node, changed: () => {} };
  const disable = async () => {
    try {
      await api.post(`${PATH}/disable`);
      toast("Auto-onboarding is off", { detail: "Attempts in progress were cancelled." });
      self.onChange();
    } catch (error) {
      toastError(error, "Auto-onboarding");
    }
  };
  const confirmEnable = () =>
    confirm({
      title: "Switch auto-onboarding on?",
      consequences: [
        "Every camera that the policy allows is registered and paired without confirmation.",
        "It stays on after restarts, until it is switched off here or on the command line.",
        "Use it for development only.",
      ],
      label: "Switch on",
      danger: false,
      work: async () => {
        await api.post(`${PATH}/enable`);
        self.onChange();
      },
    });
  const draw = () => {
    if (!current) return;
    const { config } = current;
    const refilled = ((Date.now() - receivedAt) / 60000) * config.max_per_minute;
    const left = Math.min(config.burst_size, current.tokens + refilled);
    const nextTokenS = ((1 - left) * 60) / config.max_per_minute;
    tokens.show(left / config.burst_size, `${Math.floor(left)} of ${config.burst_size}`, left < 1 ? "warn" : "");
    const rate = `Rate limit: ${config.max_per_minute} per minute.`;
    const next = left < 1 ? `, next attempt in ${duration(Math.max(1, nextTokenS))}` : "";
    const unproven = current.waiting_unproven
      ? ` ${current.waiting_unproven} of them are known from messages alone and wait behind the others.`
      : "";
    setText(
      waitingText,
      current.waiting
        ? `${count(current.waiting, "camera")} waiting${next}.${unproven} ${rate}`
        : `No camera is waiting. ${rate}`,
    );
  };
  const timer = setInterval(draw, 1000);
  self.show = (status) => {
    current = status;
    receivedAt = Date.now();
    badge.show(
      status.running ? "running" : status.enabled ? "paused" : "off",
      status.running ? "On" : status.enabled ? "Paused" : "Off",
    );
    const networks = status.config.subnet_allowlist.join(", ");
    if (status.running)
      setText(text, `Cameras with an address in ${networks} are registered and paired to ${status.target_container}.`);
    else if (status.mode !== "dev")
      setText(text, "Disabled by the configuration: auto_onboard.mode is “off”. Set it to “dev” for development.");
    else setText(text, "Cameras are not onboarded automatically.");
    offButton.hidden = !status.enabled;
    onButton.hidden = status.enabled;
    draw();
  };
  self.end = () => clearInterval(timer);
  return self;
}

const COUNTERS = [
  ["success", "Onboarded", "ok"],
  ["failed", "Failed", "bad"],
  ["rejected_by_policy", "Rejected by policy", "warn"],
  ["already_onboarded", "Already onboarded", "info"],
  ["attempts", "Attempts", "busy"],
];

function counterPanel({ api }) {
  const figures = COUNTERS.map(([name, label]) => ({ name, value: h("dd", { class: "figure" }, "–"), label }));
  const list = h(
    "dl",
    { class: "figures" },
    figures.map(({ label, value }) => h("div", {}, h("dt", {}, label), value)),
  );
  const last = h("p", { class: "small muted" });
  const [success, failure] = [age(""), age("")];
  fill(last, "Last success ", success, ", last failure ", failure, ".");
  const chart = lineChart({ label: "Counters since this page was opened", max: 4 });
  const resetButton = button("Reset counters", {
    kind: "quiet",
    symbol: "refresh",
    onclick: () => resetButton.busy(reset),
  });
  const node = section("Results", list, last, chart, h("div", {}, resetButton));
  const reset = async () => {
    try {
      await api.post(`${PATH}/metrics/reset`);
      samples.length = 0;
      show(await api.get(`${PATH}/status`));
    } catch (error) {
      toastError(error, "Counters");
    }
  };
  const show = ({ metrics, waiting }) => {
    for (const { name, value } of figures) setText(value, metrics[name]);
    success.show(metrics.last_success_at);
    failure.show(metrics.last_failure_at);
    samples.push({ at: Date.now(), ...metrics, waiting });
    if (samples.length > MAX_SAMPLES) samples.shift();
    const points = (name) => samples.map((sample) => ({ at: sample.at, value: sample[name] }));
    chart.show([
      { name: "Onboarded", tone: "ok", points: points("success") },
      { name: "Waiting", tone: "info", points: points("waiting") },
      { name: "Failed", tone: "bad", points: points("failed") },
      { name: "Rejected", tone: "warn", points: points("rejected_by_policy") },
    ]);
  };
  return { node, show };
}

const FILTERS = [
  ["all", "All stages"],
  ["paired", "Paired"],
  ["failed", "Failed"],
  ["rejected_by_policy", "Rejected by policy"],
];

function onboardingEvents({ api }) {
  const rows = h("ol", { class: "onboarding-events", "aria-label": "Onboarding events, newest first" });
  const content = h("div");
  const stage = h(
    "select",
    { "aria-label": "Stage", onchange: () => ((limit = PAGE_SIZE), refresh()) },
    FILTERS.map(([value, label]) => h("option", { value }, label)),
  );
  const olderButton = button("Show older", {
    hidden: true,
    onclick: () => ((limit += PAGE_SIZE), olderButton.busy(refresh)),
  });
  const node = section("Onboarding events", h("div", { class: "toolbar" }, stage), content, h("div", {}, olderButton));
  let limit = PAGE_SIZE;
  let lastRequest = 0;
  const refresh = async () => {
    const request = (lastRequest += 1);
    try {
      const events = [];
      for (let offset = 0; offset < limit; offset += PAGE_SIZE) {
        const page = await api.get(
          `${PATH}/events?limit=${PAGE_SIZE}&offset=${offset}${stage.value === "all" ? "" : `&stage=${stage.value}`}`,
          { background: true },
        );
        events.push(...page.events);
        olderButton.hidden = !page.pagination.has_more;
        if (!page.pagination.has_more) break;
      }
      if (request !== lastRequest) return; // a newer request has been sent
      keyed(rows, events, (event) => event.id, eventRow);
      const next = events.length
        ? rows
        : empty("clock", "No onboarding events yet", "Every onboarding step of each camera is listed here.");
      if (content.firstChild !== next) fill(content, next);
    } catch (error) {
      if (request === lastRequest) fill(content, problem(error, refresh));
    }
  };
  return { node, refresh };
}

function eventRow(row) {
  const stage = state(row.stage, undefined, row.stage === "discovered" ? "info" : undefined);
  const camera = h("a", { href: `#/cameras/${encodeURIComponent(row.mac_address)}`, class: "mono" }, row.mac_address);
  const facts = [
    row.ip_address,
    row.container_id && `container ${row.container_id}`,
    row.duration_ms !== undefined && `${row.duration_ms} ms`,
  ].filter(Boolean);
  const error =
    row.error_code &&
    h(
      "p",
      { class: "note", "data-tone": row.stage === "failed" ? "bad" : "warn" },
      h("code", {}, row.error_code),
      " ",
      row.error_message,
    );
  return {
    node: h("li", {}, age(row.timestamp), stage, camera, h("span", { class: "small muted" }, facts.join(" · ")), error),
  };
}

function policyCheck({ api }) {
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
  const result = h("div", { role: "status" });
  const checkButton = button("Check", { type: "submit", symbol: "search" });
  const onsubmit = (event) => {
    event.preventDefault();
    checkButton.busy(async () => {
      try {
        const query = new URLSearchParams({ mac: mac.value.trim(), ...(ip.value.trim() && { ip: ip.value.trim() }) });
        fill(result, policyResult(await api.get(`${PATH}/policy/explain?${query}`)));
      } catch (error) {
        fill(result, h("div", { class: "form-error" }, h("strong", {}, error.message), h("p", {}, advice(error))));
      }
    });
  };
  const form = h(
    "form",
    { class: "policy-form", onsubmit },
    field("MAC", mac),
    field("Address (optional)", ip),
    checkButton,
  );
  return section(
    "Policy check",
    h("p", { class: "muted" }, "Shows whether a camera would be onboarded now, rule by rule. Nothing is changed."),
    form,
    result,
  );
}

function policyResult({ allowed, rules, waiting, unreadable, notes }) {
  const rows = rules.map((rule) => {
    const badge = state(rule.result, rule.rule.replaceAll("_", " "));
    return h("li", {}, badge, h("p", {}, rule.why, rule.code && [" ", h("code", {}, rule.code)]));
  });
  const head = state(allowed ? "pass" : "fail", allowed ? "Would be onboarded" : "Would be rejected");
  set(head, "class", "state big-state");
  const place =
    waiting &&
    h(
      "p",
      {},
      `It is number ${waiting.position} in the waiting line; its attempt starts in about ${duration(waiting.seconds_to_token)}`,
      waiting.proven ? "." : ". It is known from messages alone, so it waits behind the others.",
    );
  const warnings = [
    ...notes.map((text) => `${sentence(text)}.`),
    ...unreadable.map((text) => `Status messages cannot be read: ${text}.`),
  ].map((text) => h("p", { class: "note", "data-tone": "warn" }, text));
  return [head, place, h("ul", { class: "checks" }, rows), warnings];
}
