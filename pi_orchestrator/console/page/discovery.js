// Devices on the camera network with their evidence, the evidence sources, and scans.

import { evidenceLabel } from "./camera_parts.js";
import { eachFrame, fill, h, keyed, set, setText } from "./dom.js";
import { count, dbm, sentence } from "./format.js";
import { pair } from "./places.js";
import { age, button, empty, meter, problem, scrolled, section, skeleton, state, toastError } from "./ui.js";

export const title = "Discovery";

const PATH = "/api/v1/espcam";
const MIN_INTERVAL_MS = 2000;
const PROGRESS_MS = 250;
const REFRESH_MS = 20000;
const MAX_SHOWN = 200;
const MAX_SCANS = 8;
const chosen = { filter: "cameras", search: "" };

const FILTERS = {
  cameras: ["Cameras", (device) => device.is_camera || device.registered],
  unregistered: ["Not registered", (device) => !device.registered],
  conflicts: ["Conflicts", (device) => device.conflict.length > 0 || device.id_conflict.length > 0],
  all: ["All devices", () => true],
};

/** Show the scan, the evidence sources, every device and past scans. */
export function mount(root, context) {
  const { stream } = context;
  const [scan, sources, devices, past] = [scanPanel(context), sourcePanel(), devicePanel(context), pastScans(context)];
  fill(root, h("div", { class: "columns" }, scan.node, sources.node), devices.node, past.node);
  let [timer, lastRefresh, unmounted] = [0, 0, false];
  const refresh = async () => {
    clearTimeout(timer);
    timer = 0;
    lastRefresh = Date.now();
    try {
      const answer = await context.api.get(`${PATH}/discovered?limit=5000`, { background: devices.loaded });
      if (unmounted) return;
      scan.showEngine(answer);
      sources.show(answer.sources);
      devices.show(answer.devices, answer.unreadable);
    } catch (error) {
      if (!unmounted) devices.fail(error, refresh);
    }
  };
  const refreshSoon = () => (timer ||= setTimeout(refresh, Math.max(0, lastRefresh + MIN_INTERVAL_MS - Date.now())));
  const interval = setInterval(() => document.hidden || refresh(), REFRESH_MS);
  const resync = () => {
    refresh();
    past.refresh();
    scan.followRunning();
  };
  const types = [
    "device.found",
    "device.moved",
    "device.multiple_addresses",
    "device.answers_for_many",
    "device.conflict",
    "device.conflict_resolved",
    "device.id_conflict",
    "device.id_conflict_resolved",
    "device.flapping",
    "camera.status_changed",
    "camera.onboarded",
    "camera.registered",
    "camera.removed",
  ];
  const subscriptions = types.map((type) => stream.on(type, refreshSoon));
  subscriptions.push(stream.on("scan.started", ({ id }) => scan.follow(id)));
  subscriptions.push(stream.on("scan.ended", () => (refreshSoon(), past.refresh())));
  stream.addEventListener("resync", resync);
  resync();
  return () => {
    unmounted = true;
    clearTimeout(timer);
    clearInterval(interval);
    stream.removeEventListener("resync", resync);
    for (const end of [...subscriptions, scan.end, devices.end]) end();
  };
}

function scanPanel({ api }) {
  const engineText = h("p", { class: "muted" });
  const bar = meter("Progress");
  const startButton = button("Scan now", {
    kind: "primary",
    symbol: "radar",
    onclick: () => startButton.busy(start),
  });
  const cancelButton = button("Cancel", {
    kind: "quiet",
    symbol: "close",
    hidden: true,
    onclick: () => cancelButton.busy(cancel),
  });
  const node = section("Scan", engineText, bar, h("div", { class: "row wrap" }, startButton, cancelButton));
  let [runningId, timer] = ["", 0];
  bar.hidden = true;
  const start = async () => {
    try {
      const { scan } = await api.post(`${PATH}/scan`);
      follow(scan.id);
    } catch (error) {
      toastError(error, "Scan");
    }
  };
  const cancel = async () => {
    try {
      show((await api.delete(`${PATH}/scan/${runningId}`)).scan);
    } catch (error) {
      toastError(error, "Scan");
    }
  };
  const show = (scan) => {
    const isRunning = scan.state === "running";
    bar.hidden = false;
    cancelButton.hidden = !isRunning;
    startButton.disabled = isRunning;
    const result = `${count(scan.found, "device")} found, ${scan.new} new, ${scan.moved} moved, ${scan.gone} lost`;
    const text = isRunning
      ? `${scan.progress} %, ${result}`
      : `${scan.state}: ${scan.message ?? result}${scan.duration_ms ? `, in ${scan.duration_ms} ms` : ""}`;
    bar.show(
      scan.progress / 100,
      text,
      { failed: "bad", cancelled: "warn", interrupted: "warn", done: "ok" }[scan.state] ?? "",
    );
    clearTimeout(timer);
    timer = isRunning ? setTimeout(() => poll(scan.id), PROGRESS_MS) : 0;
    if (!isRunning) runningId = "";
  };
  const poll = async (id) => {
    try {
      show((await api.get(`${PATH}/scan/${encodeURIComponent(id)}`, { background: true })).scan);
    } catch {
      [runningId, startButton.disabled, cancelButton.hidden] = ["", false, true]; // the stream reports the next scan
    }
  };
  const follow = (id) => {
    if (runningId === id) return;
    runningId = id;
    poll(id);
  };
  /** Follow a scan that is already running. */
  const followRunning = async () => {
    try {
      const { scans } = await api.get(`${PATH}/scan?limit=1`, { background: true });
      if (scans[0]?.state === "running") follow(scans[0].id);
    } catch {
      // the list of devices shows the error
    }
  };
  const showEngine = (answer) =>
    setText(
      engineText,
      answer.engine ? `Scan engine: ${answer.engine_reason}.` : `Scanning is not possible: ${answer.engine_reason}.`,
    );
  return { node, follow, followRunning, showEngine, end: () => clearTimeout(timer) };
}

const SOURCES = {
  scanner: "Scanner",
  stations: "Access point stations",
  leases: "DHCP leases",
  mdns: "mDNS",
  probe: "HTTP probe",
  mqtt: "MQTT",
};

function sourcePanel() {
  const list = h("ul", { class: "facts" });
  const node = section("Evidence sources", list);
  const show = (sources) =>
    keyed(
      list,
      sources,
      (source) => source.source,
      (initial) => {
        const badge = state("unknown");
        const reasonText = h("span", { class: "small muted" });
        const update = ({ state: name, reason }) => {
          badge.show(name);
          setText(reasonText, reason ?? "");
        };
        update(initial);
        return {
          node: h(
            "li",
            {},
            h("div", { class: "row spread" }, h("span", {}, SOURCES[initial.source] ?? initial.source), badge),
            reasonText,
          ),
          update,
        };
      },
    );
  return { node, show };
}

function devicePanel(context) {
  const list = h("ul", { class: "devices", "aria-label": "Devices" });
  const content = h("div", {}, skeleton(4, "line"));
  const note = h("p", { class: "small muted" });
  const unreadable = h("ul", { class: "facts", "aria-label": "Status messages that cannot be read" });
  const tabs = Object.entries(FILTERS).map(([name, [label]]) => {
    const number = h("b");
    return {
      name,
      number,
      node: h("button", { type: "button", onclick: () => choose({ filter: name }) }, label, number),
    };
  });
  const search = h("input", {
    type: "search",
    "aria-label": "Search devices",
    placeholder: "MAC, address, name, vendor",
    value: chosen.search,
    oninput: () => choose({ search: search.value }),
  });
  const bar = h(
    "div",
    { class: "toolbar" },
    h(
      "div",
      { class: "tabs", role: "group", "aria-label": "Filter" },
      tabs.map((tab) => tab.node),
    ),
    search,
  );
  const node = section("Devices", unreadable, bar, content, note);
  const self = { node, loaded: false };
  let all = [];
  const choose = (choice) => {
    Object.assign(chosen, choice);
    draw();
  };
  const draw = eachFrame(() => {
    for (const { name, node: tab, number } of tabs) {
      set(tab, "aria-pressed", String(chosen.filter === name));
      setText(number, all.filter(FILTERS[name][1]).length);
    }
    if (!self.loaded) return;
    const found = all.filter(FILTERS[chosen.filter][1]).filter(matches);
    const shown = found.slice(0, MAX_SHOWN);
    keyed(
      list,
      shown,
      (device) => device.mac_address,
      (device) => deviceRow(context, device),
    );
    setText(note, found.length > MAX_SHOWN ? `Showing ${MAX_SHOWN} of ${found.length}. Search to see others.` : "");
    const next = shown.length
      ? list
      : empty(
          "radar",
          all.length ? "No device matches" : "No devices found",
          all.length ? "Change the search or the filter above." : "Switch on a camera, or select “Scan now”.",
        );
    if (content.firstChild !== next) fill(content, next);
  });
  self.show = (found, topics) => {
    all = found;
    unreadable.hidden = !topics.length;
    keyed(unreadable, topics, (topic) => topic.topic, unreadableRow);
    self.loaded = true;
    draw();
  };
  self.fail = (error, retry) => self.loaded || fill(content, problem(error, retry));
  self.end = draw.cancel;
  draw();
  return self;
}

/** A topic whose last status message could not be read: its camera may be missing in the list. */
function unreadableRow(initial) {
  const [text, seen] = [h("span"), age(initial.last_seen)];
  const update = (topic) => {
    setText(text, `${topic.mac_address ?? "An unknown device"} ${topic.text}. Correct its firmware. `);
    seen.show(topic.last_seen);
  };
  update(initial);
  return { node: h("li", {}, h("p", { class: "note", "data-tone": "warn" }, text, seen)), update };
}

function matches(device) {
  const query = chosen.search.trim().toLowerCase();
  return (
    !query ||
    [device.mac_address, device.ip_address, device.hostname, device.vendor, device.device_id ?? ""].some((text) =>
      text.toLowerCase().includes(query),
    )
  );
}

function deviceRow(context, initial) {
  let current = initial;
  const name = h("h3", { class: "grow" });
  const [status, why, address] = [state("unknown"), h("p", { class: "small muted" }), h("p", { class: "mono small" })];
  const warning = h("p", { class: "note", "data-tone": "bad" });
  const evidence = h("div");
  const details = h(
    "details",
    { ontoggle: () => details.open && showEvidence() },
    h("summary", {}, "Evidence"),
    evidence,
  );
  const pairButton = button("Pair", {
    symbol: "join",
    onclick: () => pair(context, { mac: current.mac_address, name: current.device_id ?? current.mac_address }),
  });
  const openLink = h("a", { class: "button", href: `#/cameras/${encodeURIComponent(initial.mac_address)}` }, "Open");
  const node = h(
    "li",
    {},
    h("div", { class: "row spread wrap" }, name, status),
    address,
    why,
    warning,
    h("div", { class: "row spread wrap" }, details, h("div", { class: "row" }, pairButton, openLink)),
  );
  const showEvidence = () => keyed(evidence, current.evidence, (entry) => entry.source, evidenceRow);
  const update = (device) => {
    current = device;
    setText(name, device.device_id || device.hostname || device.vendor || "Unknown device");
    status.show(device.status);
    const otherIps = device.ip_addresses.filter((ip) => ip !== device.ip_address);
    setText(
      address,
      [
        device.mac_address,
        device.ip_address || "no address",
        ...otherIps,
        device.vendor,
        device.signal_strength ? dbm(device.signal_strength) : "",
      ]
        .filter(Boolean)
        .join(" · "),
    );
    setText(why, sentence(device.why));
    const near = device.near.length ? `Possibly the same ESP32 as ${device.near.join(", ")}.` : "";
    setText(
      warning,
      [
        device.conflict.length
          ? `Address conflict with ${device.conflict.join(", ")}. Check whether two devices have the same static address.`
          : "",
        ...device.notes.map((note) => `${sentence(note)}.`),
        near,
      ]
        .filter(Boolean)
        .join(" "),
    );
    set(warning, "data-tone", device.conflict.length || device.id_conflict.length ? "bad" : "info");
    pairButton.hidden = device.registered || !device.is_camera;
    openLink.hidden = !device.registered && !device.is_camera;
    if (details.open) showEvidence();
  };
  update(initial);
  return { node, update };
}

function evidenceRow(initial) {
  const [seen, facts] = [age(initial.last_seen), h("span", { class: "small muted" })];
  const update = (entry) => {
    seen.show(entry.last_seen);
    setText(
      facts,
      [
        entry.ip_address,
        entry.host_name,
        entry.signal_strength && dbm(entry.signal_strength),
        entry.detail,
        entry.proves_life ? "" : "hint only, no proof",
      ]
        .filter(Boolean)
        .join(" · "),
    );
  };
  update(initial);
  const source = h("strong", { class: "small" }, sentence(evidenceLabel(initial.source)));
  return { node: h("div", { class: "row wrap" }, source, seen, facts), update };
}

function pastScans({ api }) {
  const rows = h("tbody");
  const head = ["Started", "Requested by", "State", "Found", "New", "Moved", "Lost", "Duration"].map((text) =>
    h("th", { scope: "col" }, text),
  );
  const table = scrolled("Past scans", h("table", {}, h("thead", {}, h("tr", {}, head)), rows));
  const node = section("Past scans", table);
  const refresh = async () => {
    try {
      const { scans } = await api.get(`${PATH}/scan?limit=${MAX_SCANS}`, { background: true });
      keyed(
        rows,
        scans,
        (scan) => `${scan.id} ${scan.state}`,
        (scan) => ({
          node: h(
            "tr",
            {},
            [
              age(scan.started_at),
              scan.requested_by,
              state(scan.state),
              scan.found,
              scan.new,
              scan.moved,
              scan.gone,
              scan.duration_ms === undefined ? "" : `${scan.duration_ms} ms`,
            ].map((cell) => h("td", {}, cell)),
          ),
        }),
      );
      node.hidden = !scans.length;
    } catch {
      node.hidden = true; // the list of devices shows the error
    }
  };
  return { node, refresh };
}
