// An open session as it goes: its time, its network, its cameras one by one, and at the end what came of it.

import { eachFrame, fill, h, keyed, say, set } from "./dom.js";
import { count, duration, now as daemonNow } from "./format.js";
import { remedyFor } from "./remedies.js";
import { addToList } from "./session_forms.js";
import { age, button, confirm, empty, meter, section, state, toast, toastError, toneOf } from "./ui.js";

const PATH = "/api/v1/provisioning/batch";
const UNDER_WAY = new Set(["provisioning", "provisioned", "verifying"]);
const RANK = ["verifying", "provisioned", "provisioning", "failed", "discovered", "verified"];
const REMEDIES = {
  WRONG_NETWORK:
    "It came back to the old network: is the password right? Close this session and start one with the right one.",
  MAC_MISMATCH: "Another device answers at its address: look under Discovery.",
  SUBNET_NOT_ALLOWED:
    "Its address is in no network that cameras may have: see ap.subnet and provisioning.target_subnets.",
  NO_ADDRESS: "Wait until it has an address, then retry.",
  VERIFY_BAD_STATUS: "It does not answer as a camera does: look at its firmware.",
  VERIFY_BAD_BODY: "It does not answer as a camera does: look at its firmware.",
  SKIPPED: "It was skipped; retry takes it all the same.",
};
const remedyOf = (code) => REMEDIES[code] ?? remedyFor(code, 0);

/** The view of a session: {node, end}. `finished()` when it has closed, `again()` when another one is wanted. */
export function live(context, first, { finished, again }) {
  const { api, stream } = context;
  const path = `${PATH}/${first.id}`;
  const byMac = new Map();
  const head = heading(context, path, () => look());
  const list = h("ul", { class: "candidates", "aria-label": "Cameras of this session" });
  const place = h("div");
  const result = h("div");
  const node = h("div", { class: "stack" }, head.node, result, section("Cameras", place));
  let session = first;
  const draw = eachFrame(() => {
    const devices = [...byMac.values()].sort(
      (a, b) => RANK.indexOf(a.state) - RANK.indexOf(b.state) || a.mac.localeCompare(b.mac),
    );
    head.show(session, devices);
    keyed(
      list,
      devices,
      (one) => one.mac,
      (one) => candidate(context, path, one, () => look()),
    );
    const instead = devices.length
      ? list
      : empty(
          "camera",
          "No camera has joined yet",
          "Switch cameras on within reach of the onboarding network. Each appears here when it is found.",
        );
    if (place.firstChild !== instead) fill(place, instead);
    if (session.state === "closed" && !result.firstChild) fill(result, ending(session, devices, again));
  });
  const look = async () => {
    try {
      const answer = await api.get(`${path}?include_devices=true`, { background: true });
      const wasOpen = session.state !== "closed";
      session = answer.session;
      byMac.clear();
      for (const one of answer.devices ?? []) byMac.set(one.mac, one);
      head.network(answer.network_status);
      draw();
      if (wasOpen && session.state === "closed") finished();
    } catch (error) {
      toastError(error, "Session");
    }
  };
  const take = ({ device }, envelope) => {
    if (envelope.session_id !== first.id || !device) return;
    byMac.set(device.mac, device);
    draw();
  };
  const ends = [
    stream.on("device.discovered", take),
    stream.on("device.state_changed", take),
    stream.on("network.status_changed", (network) => head.network(network)),
    stream.on("session.status", ({ session: told }) => {
      if (told?.id !== first.id) return;
      const wasOpen = session.state !== "closed";
      session = { ...session, ...told };
      draw();
      if (wasOpen && session.state === "closed") finished();
    }),
  ];
  stream.addEventListener("resync", look);
  look();
  draw();
  const end = () => {
    stream.removeEventListener("resync", look);
    draw.cancel();
    head.end();
    ends.forEach((stop) => stop());
  };
  return { node, end };
}

function heading(context, path, changed) {
  const { api } = context;
  const word = state("discovering");
  const [name, left, net] = [
    h("h2", { class: "big grow" }),
    h("p", { class: "small muted" }),
    h("p", { class: "small muted" }),
  ];
  const bar = meter("Verified");
  const act = async (verb, body, done) => {
    try {
      const answer = await api.post(`${path}/${verb}`, body);
      toast(done, { detail: answer.message ?? "" });
    } catch (error) {
      toastError(error, "Session");
    }
    changed();
  };
  const all = button("Provision all", {
    kind: "primary",
    symbol: "play",
    onclick: () => all.busy(() => act("provision-all", { only_allowlisted: true }, "Cameras are in line")),
  });
  const allow = button("Add all to the allowlist", {
    symbol: "plus",
    onclick: () => addToList(context, { macs: unlisted }).then((done) => done && changed()),
  });
  const hold = button("Pause", {
    symbol: "pause",
    onclick: () => hold.busy(() => act("pause", undefined, "Nothing new is started")),
  });
  const go = button("Resume", {
    symbol: "play",
    onclick: () => go.busy(() => act("resume", undefined, "The session goes on")),
  });
  const end = button("Close", { symbol: "stop", onclick: () => close() });
  const node = h(
    "section",
    { class: "panel", "aria-label": "Open session" },
    h("div", { class: "row spread wrap" }, name, word),
    bar,
    h("div", { class: "row wrap" }, all, allow, hold, go, end),
    left,
    net,
  );
  let now = null;
  let unlisted = [];
  const close = () =>
    confirm({
      title: "Close the session?",
      consequences: [
        "What is under way is finished first, nothing new is started.",
        "The password is erased.",
        "Cameras that have not joined stay on the onboarding network.",
      ],
      label: "Close the session",
      work: async () => {
        await api.post(`${path}/close`);
        changed();
      },
    });
  const tick = () => {
    if (!now) return;
    const rest = now.expires_at ? (Date.parse(now.expires_at) - daemonNow()) / 1000 : 0;
    say(
      left,
      now.state === "closed"
        ? "Closed; the password is erased."
        : rest > 0
          ? `Ends by itself in ${duration(rest)} if nothing happens.`
          : "",
    );
  };
  const timer = setInterval(tick, 1000);
  const show = (session, devices) => {
    now = session;
    say(name, session.target_ssid || "No network named");
    word.show(session.state);
    const verified = devices.filter((one) => one.state === "verified").length;
    const failed = devices.filter((one) => one.state === "failed").length;
    const busy = devices.filter((one) => UNDER_WAY.has(one.state)).length;
    bar.show(
      devices.length ? verified / devices.length : 0,
      `${verified} of ${count(devices.length, "camera")}${busy ? `, ${busy} under way` : ""}${failed ? `, ${failed} failed` : ""}`,
      failed ? "warn" : "ok",
    );
    const ended = session.state === "closed" || session.state === "closing";
    unlisted = devices.filter((one) => one.state === "discovered" && !one.in_allowlist).map((one) => one.mac);
    allow.hidden = ended || !unlisted.length;
    allow.label(`Add ${unlisted.length} to the allowlist`);
    hold.hidden = ended || session.state === "paused";
    go.hidden = session.state !== "paused";
    all.hidden = end.hidden = ended;
    all.disabled = session.state === "paused" || !devices.some((one) => one.state === "discovered" && one.in_allowlist);
    tick();
  };
  const network = (status) =>
    say(
      net,
      `Onboarding network ${status.ssid || "(unnamed)"}: ${status.is_active ? `up, ${count(status.connected_devices, "device")} on it` : "down; see System for why"}.`,
    );
  return { node, show, network, end: () => clearInterval(timer) };
}

function candidate(context, path, first, changed) {
  let now = first;
  const [word, bar, facts] = [
    state("discovered"),
    h("progress", { max: 100, "aria-label": `Progress of ${first.mac}` }),
    h("p", { class: "small muted" }),
  ];
  const why = h("p", { class: "note" });
  const at = age("");
  const act = async (verb) => {
    try {
      await context.api.post(`${path}/devices/${encodeURIComponent(first.mac)}/${verb}`);
    } catch (error) {
      toastError(error, first.mac);
    }
    changed();
  };
  const go = button("Provision", { symbol: "play", onclick: () => go.busy(() => act("provision")) });
  const retry = button("Retry", { symbol: "refresh", onclick: () => retry.busy(() => act("retry")) });
  const skip = button("Skip", { kind: "quiet", onclick: () => skip.busy(() => act("skip")) });
  const allow = button("Add to allowlist", {
    symbol: "plus",
    onclick: () => addToList(context, { macs: [first.mac] }).then((done) => done && changed()),
  });
  const node = h(
    "li",
    {},
    h("div", { class: "row spread wrap" }, h("strong", { class: "mono" }, first.mac), word),
    bar,
    h(
      "div",
      { class: "row spread wrap" },
      h("div", {}, facts, why),
      h("div", { class: "row wrap" }, go, retry, skip, allow),
    ),
  );
  const update = (device) => {
    now = device;
    const skipped = device.error_code === "SKIPPED";
    word.show(skipped ? "skipped" : device.state);
    set(bar, "value", device.progress);
    bar.value = device.progress;
    set(node, "data-tone", toneOf(device.state));
    at.show(device.verified_at ?? device.provisioned_at ?? device.discovered_at);
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
      at,
    );
    const failed = device.state === "failed";
    const text = failed
      ? [device.error_message, remedyOf(device.error_code)].filter(Boolean).join(". ")
      : device.in_allowlist
        ? ""
        : "Not on the allowlist: it is left out.";
    say(why, text);
    set(why, "data-tone", failed && !skipped ? "bad" : "warn");
    go.hidden = device.state !== "discovered" || !device.in_allowlist;
    skip.hidden = device.state !== "discovered";
    retry.hidden = !failed;
    allow.hidden = device.in_allowlist;
    for (const [control, verb] of [
      [go, "Provision"],
      [retry, "Retry"],
      [skip, "Skip"],
      [allow, "Add to allowlist:"],
    ])
      set(control, "aria-label", `${verb} ${now.mac}`);
  };
  update(first);
  return { node, update };
}

function ending(session, devices, again) {
  const failed = devices.filter((one) => one.state === "failed" && one.error_code !== "SKIPPED");
  const left = devices.filter((one) => one.state === "discovered" || one.error_code === "SKIPPED").length;
  const verified = devices.filter((one) => one.state === "verified").length;
  const took = session.closed_at
    ? ` in ${duration((Date.parse(session.closed_at) - Date.parse(session.created_at)) / 1000)}`
    : "";
  const reasons = new Map();
  for (const one of failed) reasons.set(one.error_code, [...(reasons.get(one.error_code) ?? []), one.mac]);
  const lines = [...reasons].map(([code, macs]) =>
    h("li", {}, h("code", {}, code), ` ${macs.join(", ")}. ${remedyOf(code)}`),
  );
  return section(
    failed.length ? "Done, with failures" : "Done",
    h(
      "p",
      {},
      `${verified} of ${count(devices.length, "camera")} verified${took}${left ? `, ${left} left out` : ""}. The password is erased.`,
    ),
    lines.length > 0 && h("ul", { class: "consequences" }, lines),
    h(
      "div",
      { class: "row wrap" },
      button("Start another session", { kind: "primary", onclick: again }),
      h("a", { class: "button", href: "#/cameras" }, "Show the cameras"),
    ),
  );
}
