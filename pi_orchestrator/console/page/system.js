// The machine, its connections, the diagnostics bundle, and the configuration.

import { lineChart } from "./charts.js";
import { configuration } from "./config.js";
import { fill, h, keyed, replaceIfChanged } from "./dom.js";
import { bytes, count, dbm, duration } from "./format.js";
import { button, facts, meter, problem, scrolled, section, state, toast, toastError } from "./ui.js";

export const title = "System";

const REFRESH_MS = 5000;
const CONNECTIONS_EVERY = 6; // refreshes of the machine per refresh of the connections
const MAX_SAMPLES = 120;
const BUNDLE_MS = 120000;
const samples = [];

/** Show the system. Panels of features that the daemon does not have are hidden. */
export function mount(root, context) {
  const [system, network, settings] = [machine(context), connections(context), configuration(context)];
  fill(
    root,
    h("div", { class: "columns" }, system.node, h("div", { class: "stack" }, network.node, bundle(context))),
    settings.node,
  );
  let turn = 0;
  const refresh = () => {
    if (document.hidden || (turn && context.stream.state !== "open")) return;
    system.refresh();
    if (turn % CONNECTIONS_EVERY === 0) network.refresh();
    turn += 1;
  };
  const resync = () => {
    turn = 0;
    refresh();
    settings.refresh();
  };
  const timer = setInterval(refresh, REFRESH_MS);
  context.stream.addEventListener("resync", resync);
  resync();
  return () => {
    clearInterval(timer);
    context.stream.removeEventListener("resync", resync);
    settings.end();
  };
}

const levelOf = (percent, warn, bad) => (percent >= bad ? "bad" : percent >= warn ? "warn" : "");

function machine({ api }) {
  const status = state("unknown");
  const reasons = h("ul", { class: "small" });
  const [cpu, memory, disk, temperature] = ["Processors", "Memory", "Disk", "Temperature"].map(meter);
  const chart = lineChart({ label: "Load of the last minutes", unit: " %", max: 100 });
  const details = h("div");
  const errorBox = h("div");
  const node = section(
    "Machine",
    h("div", { class: "row wrap" }, status, reasons),
    cpu,
    memory,
    disk,
    temperature,
    chart,
    details,
    errorBox,
  );
  const draw = (info, version) => {
    status.show(info.overall_status);
    keyed(
      reasons,
      info.reasons ?? [],
      (reason) => reason,
      (reason) => ({ node: h("li", {}, reason) }),
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
    temperature.hidden = !info.temperature_celsius;
    temperature.show(
      info.temperature_celsius / 100,
      `${info.temperature_celsius.toFixed(0)} °C`,
      levelOf(info.temperature_celsius, 70, 80),
    );
    const { load_1: load1, load_5: load5, load_15: load15 } = info.load_average;
    replaceIfChanged(
      details,
      facts([
        ["Daemon", `version ${version}`],
        ["Uptime", duration(info.uptime / 1e9)],
        ["Load average (1, 5, 15 min)", [load1, load5, load15].map((load) => load.toFixed(2)).join(" · ")],
        ["State folder", h("code", {}, info.disk.path)],
      ]),
    );
    if (Date.now() - samples.at(-1)?.at < REFRESH_MS / 2) samples.pop();
    samples.push({ at: Date.now(), cpu: info.cpu.usage_percent, memory: info.memory.used_percent });
    if (samples.length > MAX_SAMPLES) samples.shift();
    const points = (name) => samples.map((sample) => ({ at: sample.at, value: sample[name] }));
    chart.show([
      { name: "Processors", points: points("cpu") },
      { name: "Memory", tone: "warn", points: points("memory") },
    ]);
  };
  const refresh = async () => {
    try {
      const [info, { version }] = await Promise.all([
        api.get("/api/v1/system/info", { background: samples.length > 0 }),
        api.get("/version", { background: true }),
      ]);
      draw(info, version);
      fill(errorBox);
    } catch (error) {
      node.hidden = error.isMissing;
      if (!samples.length) fill(errorBox, problem(error, refresh));
    }
  };
  return { node, refresh };
}

function connections(context) {
  const { api } = context;
  const list = h("div", { class: "stack" });
  const networks = scrolled("WiFi networks");
  const scanButton = button("Scan for WiFi networks", {
    symbol: "search",
    onclick: () => scanButton.busy(() => scanWifi(api, networks)),
  });
  const node = section("Connections", list, h("div", {}, scanButton), networks);
  const requests = [
    [
      "/api/v1/network/mqtt",
      (broker) => [
        "MQTT broker",
        broker.connected ? "connected" : "disconnected",
        `${broker.broker}:${broker.port}${broker.connected ? ` · latency ${broker.latency_ms.toFixed(0)} ms` : ""}`,
      ],
    ],
    [
      "/api/v1/network/bridge",
      ({ status }) => [
        "Upstream gateway",
        status.connected ? "connected" : status.configured ? "disconnected" : "off",
        status.configured ? status.url : "Not configured. All data stays on this Pi.",
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
  const refresh = async () => {
    const answers = new Map();
    const get = (path) => answers.get(path) ?? answers.set(path, api.get(path, { background: true })).get(path);
    const rows = await Promise.all(requests.map(([path, toRow]) => get(path).then(toRow, () => null)));
    keyed(list, rows.filter(Boolean), ([name]) => name, connection);
    scanButton.hidden = !rows[2];
    node.hidden = !rows.some(Boolean);
  };
  return { node, refresh };
}

function connection([name, ...initial]) {
  const badge = state("unknown");
  const detail = h("p", { class: "small muted" });
  const update = ([, status, text]) => {
    badge.show(status);
    fill(detail, text);
  };
  update([name, ...initial]);
  return { node: h("div", {}, h("div", { class: "row spread" }, h("h3", {}, name), badge), detail), update };
}

async function scanWifi(api, place) {
  try {
    const { networks } = await api.get("/api/v1/wifi/scan", { timeout: 30000 });
    const head = ["Network", "Signal", "Channel", "Security"].map((title) => h("th", { scope: "col" }, title));
    const rows = networks.map((network) =>
      h(
        "tr",
        {},
        h("td", {}, network.ssid || "(hidden)"),
        h("td", {}, network.signal ? dbm(network.signal) : "unknown"),
        h("td", {}, String(network.channel)),
        h("td", {}, network.security),
      ),
    );
    fill(
      place,
      networks.length
        ? h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows))
        : h("p", { class: "muted" }, "No networks found."),
    );
  } catch (error) {
    toastError(error, "WiFi scan");
  }
}

function bundle({ api }) {
  const downloadButton = button("Download bundle", { symbol: "down", onclick: () => downloadButton.busy(download) });
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
    "State, logs, events and configuration in a single archive, for troubleshooting. It contains no passwords or keys.";
  return section("Diagnostics", h("p", { class: "muted" }, text), h("div", {}, downloadButton));
}
