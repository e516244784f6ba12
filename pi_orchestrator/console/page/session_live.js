// An open provisioning session: remaining time, network, cameras, and the final result.

import { eachFrame, fill, h, keyed, set, setText } from "./dom.js";
import { count, duration, now as daemonNow } from "./format.js";
import { remedyFor } from "./remedies.js";
import { addToAllowlist } from "./session_forms.js";
import { age, button, confirm, empty, meter, section, state, toast, toastError, toneOf } from "./ui.js";

const PATH = "/api/v1/provisioning/batch";
const IN_PROGRESS = new Set(["provisioning", "provisioned", "verifying"]);
const ORDER = ["verifying", "provisioned", "provisioning", "failed", "discovered", "verified"];
const REMEDIES = {
  WRONG_NETWORK:
    "The camera returned to the old network. Check the password. If it is wrong, close this session and start a new session.",
  MAC_MISMATCH: "Another device answered at the camera's address. Check the device under Discovery.",
  SUBNET_NOT_ALLOWED:
    "The camera's address is not in an allowed subnet. Check ap.subnet and provisioning.target_subnets.",
  NO_ADDRESS: "Wait until the camera has an address, then retry.",
  VERIFY_BAD_STATUS: "The device does not answer like a camera. Check its firmware.",
  VERIFY_BAD_BODY: "The device does not answer like a camera. Check its firmware.",
  DEVICE_CHANGED: "A MAC can be copied. Confirm the camera if it is yours.",
  SKIPPED: "The camera was skipped. Retry to provision it.",
};
const remedyOf = (code) => REMEDIES[code] ?? remedyFor(code, 0);

/** The panel of a session: {node, end}. `onClosed()`: it has closed; `onNewSession()`: the operator starts another. */
export function sessionPanel(context, initial, { onClosed, onNewSession }) {
  const { api, stream } = context;
  const path = `${PATH}/${initial.id}`;
  const byMac = new Map();
  const head = sessionHeader(context, path, () => refresh());
  const list = h("ul", { class: "candidates", "aria-label": "Cameras of this session" });
  const content = h("div");
  const result = h("div");
  const node = h("div", { class: "stack" }, head.node, result, section("Cameras", content));
  let session = initial;
  const draw = eachFrame(() => {
    const devices = [...byMac.values()].sort(
      (a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state) || a.mac.localeCompare(b.mac),
    );
    head.show(session, devices);
    keyed(
      list,
      devices,
      (device) => device.mac,
      (device) => deviceRow(context, path, device, () => refresh()),
    );
    const next = devices.length
      ? list
      : empty(
          "camera",
          "No camera has joined yet",
          "Switch on cameras in range of the camera network. Each camera appears here when it is found.",
        );
    if (content.firstChild !== next) fill(content, next);
    if (session.state === "closed" && !result.firstChild) fill(result, sessionResult(session, devices, onNewSession));
  });
  // Events since the newest request was sent; its answer may be older than these events.
  let events = noEvents();
  const refresh = async () => {
    const newer = (events = noEvents());
    try {
      const answer = await api.get(`${path}?include_devices=true`, { background: true });
      if (newer !== events) return; // a newer request has been sent
      const wasOpen = session.state !== "closed";
      session = { ...answer.session, ...newer.session };
      byMac.clear();
      for (const device of [...(answer.devices ?? []), ...newer.devices.values()]) byMac.set(device.mac, device);
      head.showNetwork(newer.network ?? answer.network_status);
      draw();
      if (wasOpen && session.state === "closed") onClosed();
    } catch (error) {
      toastError(error, "Session");
    }
  };
  const applyDevice = ({ device }, envelope) => {
    if (envelope.session_id !== initial.id || !device) return;
    byMac.set(device.mac, device);
    events.devices.set(device.mac, device);
    draw();
  };
  const subscriptions = [
    stream.on("device.discovered", applyDevice),
    stream.on("device.state_changed", applyDevice),
    stream.on("network.status_changed", (network) => {
      events.network = network;
      head.showNetwork(network);
    }),
    stream.on("session.status", ({ session: change }) => {
      if (change?.id !== initial.id) return;
      const wasOpen = session.state !== "closed";
      session = { ...session, ...change };
      events.session = change;
      draw();
      if (wasOpen && session.state === "closed") onClosed();
    }),
  ];
  stream.addEventListener("resync", refresh);
  refresh();
  draw();
  const end = () => {
    stream.removeEventListener("resync", refresh);
    draw.cancel();
    head.end();
    subscriptions.forEach((unsubscribe) => unsubscribe());
  };
  return { node, end };
}

const noEvents = () => ({ session: null, devices: new Map(), network: null });

function sessionHeader(context, path, onChange) {
  const { api } = context;
  const badge = state("discovering");
  const [name, timeText, networkText] = [
    h("h2", { class: "big grow" }),
    h("p", { class: "small muted" }),
    h("p", { class: "small muted" }),
  ];
  const bar = meter("Verified");
  const post = async (verb, body, done) => {
    try {
      const answer = await api.post(`${path}/${verb}`, body);
      toast(done, { detail: answer.message ?? "" });
    } catch (error) {
      toastError(error, "Session");
    }
    onChange();
  };
  const provisionButton = button("Provision all", {
    kind: "primary",
    symbol: "play",
    onclick: () => provisionButton.busy(() => post("provision-all", { only_allowlisted: true }, "Provisioning started")),
  });
  const allowButton = button("Add all to the allowlist", {
    symbol: "plus",
    onclick: () => addToAllowlist(context, { macs: unlisted }).then((done) => done && onChange()),
  });
  const pauseButton = button("Pause", {
    symbol: "pause",
    onclick: () => pauseButton.busy(() => post("pause", undefined, "Session paused")),
  });
  const resumeButton = button("Resume", {
    symbol: "play",
    onclick: () => resumeButton.busy(() => post("resume", undefined, "Session resumed")),
  });
  const closeButton = button("Close", { symbol: "stop", onclick: () => close() });
  const node = h(
    "section",
    { class: "panel", "aria-label": "Open session" },
    h("div", { class: "row spread wrap" }, name, badge),
    bar,
    h("div", { class: "row wrap" }, provisionButton, allowButton, pauseButton, resumeButton, closeButton),
    timeText,
    networkText,
  );
  let current = null;
  let unlisted = [];
  const close = () =>
    confirm({
      title: "Close the session?",
      consequences: [
        "Cameras in progress are finished first. No further camera is started.",
        "The password is erased.",
        "Cameras that were not provisioned stay on the camera network.",
      ],
      label: "Close the session",
      work: async () => {
        await api.post(`${path}/close`);
        onChange();
      },
    });
  const tick = () => {
    if (!current) return;
    const left = current.expires_at ? (Date.parse(current.expires_at) - daemonNow()) / 1000 : 0;
    setText(
      timeText,
      current.state === "closed"
        ? "Closed; the password is erased."
        : left > 0
          ? `Closes automatically after ${duration(left)} without activity.`
          : "",
    );
  };
  const timer = setInterval(tick, 1000);
  const show = (session, devices) => {
    current = session;
    setText(name, session.target_ssid || "Unnamed network");
    badge.show(session.state);
    const verified = devices.filter((device) => device.state === "verified").length;
    const failed = devices.filter((device) => device.state === "failed").length;
    const busy = devices.filter((device) => IN_PROGRESS.has(device.state)).length;
    bar.show(
      devices.length ? verified / devices.length : 0,
      `${verified} of ${count(devices.length, "camera")}${busy ? `, ${busy} in progress` : ""}${failed ? `, ${failed} failed` : ""}`,
      failed ? "warn" : "ok",
    );
    const ended = session.state === "closed" || session.state === "closing";
    const waiting = devices.filter((device) => device.state === "discovered");
    unlisted = waiting.filter((device) => !device.in_allowlist).map((device) => device.mac);
    allowButton.hidden = ended || !unlisted.length;
    allowButton.label(`Add ${unlisted.length} to the allowlist`);
    pauseButton.hidden = ended || session.state === "paused";
    resumeButton.hidden = session.state !== "paused";
    provisionButton.hidden = closeButton.hidden = ended;
    provisionButton.disabled = session.state === "paused" || !waiting.some((device) => device.in_allowlist);
    tick();
  };
  const showNetwork = (status) =>
    setText(
      networkText,
      `Camera network ${status.ssid || "(unnamed)"}: ${status.is_active ? `up, ${count(status.connected_devices, "device")} connected` : "down. See System for the reason"}.`,
    );
  return { node, show, showNetwork, end: () => clearInterval(timer) };
}

function deviceRow(context, path, initial, onChange) {
  const { mac } = initial;
  const [badge, bar, facts] = [
    state("discovered"),
    h("progress", { max: 100, "aria-label": `Progress of ${mac}` }),
    h("p", { class: "small muted" }),
  ];
  const note = h("p", { class: "note" });
  const differences = h("p", { class: "note", "data-tone": "warn" });
  const changedAt = age("");
  let current = initial;
  const textOf = (changes) => changes.map((part) => part.text).join("; ");
  const post = async (verb) => {
    try {
      await context.api.post(`${path}/devices/${encodeURIComponent(mac)}/${verb}`);
    } catch (error) {
      toastError(error, mac);
    }
    onChange();
  };
  const provisionButton = button("Provision", {
    symbol: "play",
    onclick: () => provisionButton.busy(() => post("provision")),
  });
  const retryButton = button("Retry", { symbol: "refresh", onclick: () => retryButton.busy(() => post("retry")) });
  const confirmButton = button("Confirm", { symbol: "check", onclick: () => confirmChanged() });
  // The changes that the dialog shows are confirmed, not those that arrive while it is open.
  const confirmChanged = ({ fingerprint_changes: changes, changes_id } = current) =>
    confirm({
      title: `Confirm ${mac}?`,
      consequences: [
        `Changed since first seen: ${textOf(changes)}. Another device with a copied MAC would look the same.`,
        "It is sent the password of the target network.",
        "How it answers now is stored as normal.",
      ],
      label: "Confirm and provision",
      work: async () => {
        await context.api.post(`${path}/devices/${encodeURIComponent(mac)}/confirm`, { changes_id });
        onChange();
      },
    });
  const skipButton = button("Skip", { kind: "quiet", onclick: () => skipButton.busy(() => post("skip")) });
  const allowButton = button("Add to allowlist", {
    symbol: "plus",
    onclick: () => addToAllowlist(context, { macs: [mac] }).then((done) => done && onChange()),
  });
  const node = h(
    "li",
    {},
    h("div", { class: "row spread wrap" }, h("strong", { class: "mono" }, mac), badge),
    bar,
    h(
      "div",
      { class: "row spread wrap" },
      h("div", {}, facts, note, differences),
      h("div", { class: "row wrap" }, provisionButton, retryButton, confirmButton, skipButton, allowButton),
    ),
  );
  const update = (device) => {
    current = device;
    const skipped = device.error_code === "SKIPPED";
    badge.show(skipped ? "skipped" : device.state);
    set(bar, "value", device.progress);
    bar.value = device.progress;
    set(node, "data-tone", toneOf(device.state));
    changedAt.show(device.verified_at ?? device.provisioned_at ?? device.discovered_at);
    fill(
      facts,
      [
        device.ip || "no address",
        device.rssi ? `${device.rssi} dBm` : "",
        device.firmware_version,
        device.retry_count ? `${count(device.retry_count, "retry", "retries")}` : "",
      ]
        .filter(Boolean)
        .join(" · "),
      " · ",
      changedAt,
    );
    const failed = device.state === "failed";
    const text = failed
      ? [device.error_message, remedyOf(device.error_code)].filter(Boolean).join(". ")
      : device.in_allowlist
        ? ""
        : "Not on the allowlist, so it is not provisioned.";
    setText(note, text);
    set(note, "data-tone", failed && !skipped ? "bad" : "warn");
    const changed = device.fingerprint_changes ?? [];
    setText(differences, changed.length ? `Changed since first seen: ${textOf(changed)}.` : "");
    differences.hidden = !changed.length;
    const waits = device.error_code === "DEVICE_CHANGED";
    confirmButton.hidden = !changed.length || !(waits || (device.state === "discovered" && device.in_allowlist));
    provisionButton.hidden = device.state !== "discovered" || !device.in_allowlist;
    skipButton.hidden = device.state !== "discovered";
    retryButton.hidden = !failed || waits;
    allowButton.hidden = device.in_allowlist;
    for (const [control, verb] of [
      [provisionButton, "Provision"],
      [retryButton, "Retry"],
      [confirmButton, "Confirm"],
      [skipButton, "Skip"],
      [allowButton, "Add to allowlist:"],
    ])
      set(control, "aria-label", `${verb} ${mac}`);
  };
  update(initial);
  return { node, update };
}

function sessionResult(session, devices, onNewSession) {
  const failed = devices.filter((device) => device.state === "failed" && device.error_code !== "SKIPPED");
  const unprovisioned = devices.filter(
    (device) => device.state === "discovered" || device.error_code === "SKIPPED",
  ).length;
  const verified = devices.filter((device) => device.state === "verified").length;
  const durationText = session.closed_at
    ? ` in ${duration((Date.parse(session.closed_at) - Date.parse(session.created_at)) / 1000)}`
    : "";
  const reasons = new Map();
  for (const { mac, error_code: code } of failed) reasons.set(code, [...(reasons.get(code) ?? []), mac]);
  const lines = [...reasons].map(([code, macs]) =>
    h("li", {}, h("code", {}, code), ` ${macs.join(", ")}. ${remedyOf(code)}`),
  );
  return section(
    failed.length ? "Session closed with failures" : "Session closed",
    h(
      "p",
      {},
      `${verified} of ${count(devices.length, "camera")} verified${durationText}${unprovisioned ? `, ${unprovisioned} not provisioned` : ""}. The password is erased.`,
    ),
    lines.length > 0 && h("ul", { class: "consequences" }, lines),
    h(
      "div",
      { class: "row wrap" },
      button("Start another session", { kind: "primary", onclick: onNewSession }),
      h("a", { class: "button", href: "#/cameras" }, "Show cameras"),
    ),
  );
}
