// The machine, its connections, the diagnostics bundle and the configuration.

import { lineChart } from "./charts.js";
import { configuration } from "./config.js";
import { fill, h, keyed, refill } from "./dom.js";
import { bytes, count, dbm, duration } from "./format.js";
import { button, facts, meter, problem, scrolled, section, state, toast, toastError } from "./ui.js";

export const title = "System";

const EVERY_MS = 5000;
const SLOWLY = 6;
const SAMPLES = 120;
const BUNDLE_MS = 120000;
const samples = [];

/** Show the system. Parts that the daemon does not have stay away. */
export function mount(root, context) {
  const parts = [machine(context), connections(context), configuration(context)];
  fill(
    root,
    h("div", { class: "columns" }, parts[0].node, h("div", { class: "stack" }, parts[1].node, bundle(context))),
    parts[2].node,
  );
  let turn = 0;
  const look = () => {
    if (document.hidden || (turn && context.stream.state !== "open")) return;
    parts[0].look();
    if (turn % SLOWLY === 0) parts[1].look();
    turn += 1;
  };
  const again = () => {
    turn = 0;
    look();
    parts[2].look();
  };
  const timer = setInterval(look, EVERY_MS);
  context.stream.addEventListener("resync", again);
  again();
  return () => {
    clearInterval(timer);
    context.stream.removeEventListener("resync", again);
    parts[2].end();
  };
}

const levelOf = (percent, warn, bad) => (percent >= bad ? "bad" : percent >= warn ? "warn" : "");

function machine({ api }) {
  const status = state("unknown");
  const reasons = h("ul", { class: "small" });
  const [cpu, memory, disk, heat] = ["Processors", "Memory", "Disk", "Temperature"].map(meter);
  const chart = lineChart({ label: "Last minutes", unit: " %", max: 100 });
  const rest = h("div");
  const trouble = h("div");
  const node = section(
    "Machine",
    h("div", { class: "row wrap" }, status, reasons),
    cpu,
    memory,
    disk,
    heat,
    chart,
    rest,
    trouble,
  );
  const draw = (info, version) => {
    status.show(info.overall_status);
    keyed(
      reasons,
      info.reasons ?? [],
      (one) => one,
      (one) => ({ node: h("li", {}, one) }),
    );
    cpu.show(
      info.cpu.usage_percent / 100,
      `${info.cpu.usage_percent.toFixed(0)} % of ${count(info.cpu.core_count, "core")}`,
      levelOf(info.cpu.usage_percent, 85, 97),
    );
    memory.show(
      info.memory.used_percent / 100,
      `${info.memory.used_percent.toFixed(0)} % of ${bytes(info.memory.total_mb * 1024 * 1024)}`,
      levelOf(info.memory.used_percent, 80, 93),
    );
    disk.show(
      info.disk.used_percent / 100,
      `${info.disk.used_percent.toFixed(0)} % of ${info.disk.total_gb.toFixed(0)} GiB`,
      levelOf(info.disk.used_percent, 85, 95),
    );
    heat.hidden = !info.temperature_celsius;
    heat.show(
      info.temperature_celsius / 100,
      `${info.temperature_celsius.toFixed(0)} °C`,
      levelOf(info.temperature_celsius, 70, 80),
    );
    const { load_1: one, load_5: five, load_15: fifteen } = info.load_average;
    refill(
      rest,
      facts([
        ["Daemon", `version ${version}`],
        ["Up for", duration(info.uptime / 1e9)],
        ["Load over 1, 5, 15 min", [one, five, fifteen].map((load) => load.toFixed(2)).join(" · ")],
        ["State folder", h("code", {}, info.disk.path)],
      ]),
    );
    if (Date.now() - samples.at(-1)?.at < EVERY_MS / 2) samples.pop();
    samples.push({ at: Date.now(), cpu: info.cpu.usage_percent, memory: info.memory.used_percent });
    if (samples.length > SAMPLES) samples.shift();
    const points = (name) => samples.map((sample) => ({ at: sample.at, value: sample[name] }));
    chart.show([
      { name: "Processors", points: points("cpu") },
      { name: "Memory", tone: "warn", points: points("memory") },
    ]);
  };
  const look = async () => {
    try {
      const [info, { version }] = await Promise.all([
        api.get("/api/v1/system/info", { background: samples.length > 0 }),
        api.get("/version", { background: true }),
      ]);
      draw(info, version);
      fill(trouble);
    } catch (error) {
      node.hidden = error.absent;
      if (!samples.length) fill(trouble, problem(error, look));
    }
  };
  return { node, look };
}

function connections(context) {
  const { api } = context;
  const list = h("div", { class: "stack" });
  const networks = scrolled("WiFi networks");
  const scan = button("Look for WiFi networks", {
    symbol: "search",
    onclick: () => scan.busy(() => scanWifi(api, networks)),
  });
  const node = section("Connections", list, h("div", {}, scan), networks);
  const asked = [
    [
      "/api/v1/network/mqtt",
      (one) => [
        "MQTT broker",
        one.connected ? "connected" : "disconnected",
        `${one.broker}:${one.port}${one.connected ? ` · answers in ${one.latency_ms.toFixed(0)} ms` : ""}`,
      ],
    ],
    [
      "/api/v1/network/bridge",
      ({ status }) => [
        "Upstream gateway",
        status.connected ? "connected" : status.configured ? "disconnected" : "off",
        status.configured ? status.url : "Not configured: everything stays on this Pi",
      ],
    ],
    [
      "/api/v1/wifi/status",
      ({ status }) => [
        "WiFi of the Pi",
        status.client_status,
        [status.client_ssid, status.client_ip, status.client_signal && dbm(status.client_signal)]
          .filter(Boolean)
          .join(" · "),
      ],
    ],
    [
      "/api/v1/wifi/status",
      ({ status }) => [
        "Access point",
        status.ap_status,
        [status.ap_ssid, status.ap_ip, count(status.connected_devices, "device")].filter(Boolean).join(" · "),
      ],
    ],
  ];
  const look = async () => {
    const answers = new Map();
    const get = (path) => answers.get(path) ?? answers.set(path, api.get(path, { background: true })).get(path);
    const rows = await Promise.all(asked.map(([path, words]) => get(path).then(words, () => null)));
    keyed(list, rows.filter(Boolean), ([name]) => name, connection);
    scan.hidden = !rows[2];
    node.hidden = !rows.some(Boolean);
  };
  return { node, look };
}

function connection([name, ...first]) {
  const word = state("unknown");
  const detail = h("p", { class: "small muted" });
  const update = ([, status, text]) => {
    word.show(status);
    fill(detail, text);
  };
  update([name, ...first]);
  return { node: h("div", {}, h("div", { class: "row spread" }, h("h3", {}, name), word), detail), update };
}

async function scanWifi(api, place) {
  try {
    const { networks } = await api.get("/api/v1/wifi/scan", { timeout: 30000 });
    const head = ["Network", "Signal", "Channel", "Security"].map((word) => h("th", { scope: "col" }, word));
    const rows = networks.map((one) =>
      h(
        "tr",
        {},
        h("td", {}, one.ssid || "(hidden)"),
        h("td", {}, one.signal ? dbm(one.signal) : "unknown"),
        h("td", {}, String(one.channel)),
        h("td", {}, one.security),
      ),
    );
    fill(
      place,
      networks.length
        ? h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows))
        : h("p", { class: "muted" }, "No network was heard."),
    );
  } catch (error) {
    toastError(error, "WiFi scan");
  }
}

function bundle({ api }) {
  const fetchIt = button("Download the bundle", { symbol: "down", onclick: () => fetchIt.busy(download) });
  const download = async () => {
    try {
      const answer = await api.get("/api/v1/system/bundle", { raw: true, timeout: BUNDLE_MS });
      const data = await answer.blob();
      const name =
        /filename="?([\w.-]+)/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "pi-orchestrator.tar.gz";
      const address = URL.createObjectURL(data);
      h("a", { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), 60000);
      toast("The bundle was downloaded", { detail: `${name}, ${bytes(data.size)}` });
    } catch (error) {
      toastError(error, "Bundle");
    }
  };
  const text =
    "State, logs, events and configuration in one archive, for whoever is to find out what is wrong. Passwords and keys are not in it.";
  return section("Diagnostics", h("p", { class: "muted" }, text), h("div", {}, fetchIt));
}
