// The page of a single camera: picture, actions, details, presence, onboarding history.

import {
  capture,
  captureErrorNote,
  evidenceLabel,
  locationText,
  picture,
  problemNote,
  reboot,
  rename,
  replace,
  sendCommand,
  signal,
  timeWithAge,
  unpair,
} from "./camera_parts.js";
import { eachFrame, fill, h, replaceIfChanged, setText } from "./dom.js";
import { bytes, duration, sentence } from "./format.js";
import { icon } from "./icons.js";
import { pair } from "./places.js";
import { age, button, empty, facts, problem, scrolled, section, skeleton, state } from "./ui.js";

const REFRESH_MS = 10000;
const MAX_EVENTS = 50;

/** Show the camera whose MAC or id is in the page's address. */
export function mount(root, context) {
  const { cameras, path, stream } = context;
  const content = h("div", { class: "stack" });
  let page = null;
  const draw = eachFrame(() => {
    const camera = cameras.find(path[0]);
    if (!camera) {
      page = null;
      fill(
        content,
        cameras.loaded
          ? notFound()
          : cameras.error
            ? problem(cameras.error, () => cameras.refresh({ promptForKey: true }))
            : skeleton(2),
      );
      return;
    }
    if (!page) {
      page = buildPage(context, camera);
      fill(content, page.node);
      refresh();
    }
    page.update(camera);
  });
  const refresh = () => !document.hidden && stream.state === "open" && page?.refresh();
  fill(root, h("a", { class: "back", href: "#/cameras" }, icon("back"), "All cameras"), content);
  cameras.addEventListener("change", draw);
  const timer = setInterval(refresh, REFRESH_MS);
  const subscriptions = ["camera.onboarded", "camera.onboarding_failed", "camera.replaced"].map((type) =>
    stream.on(type, refresh),
  );
  if (!cameras.loaded) cameras.refresh({ promptForKey: true });
  draw();
  return () => {
    cameras.removeEventListener("change", draw);
    clearInterval(timer);
    subscriptions.forEach((unsubscribe) => unsubscribe());
    draw.cancel();
  };
}

const notFound = () =>
  empty(
    "camera",
    "Camera not found",
    "It was unpaired or replaced, or it has not been seen since the daemon started.",
  );

function buildPage(context, initial) {
  let current = initial;
  const name = h("h2", { class: "big" });
  const [status, bars, photo, captureError] = [state("offline"), signal(), picture(), captureErrorNote()];
  const [problemText, details, presence, history] = [
    problemNote(),
    h("div"),
    h("div", { class: "stack" }),
    scrolled("Onboarding history"),
  ];
  const captureButton = button("Capture", {
    kind: "primary",
    symbol: "camera",
    onclick: () => captureButton.busy(() => capture(context, current, captureButton, captureError.note)),
  });
  const pingButton = button("Ping", {
    kind: "quiet",
    symbol: "link",
    onclick: () => pingButton.busy(() => sendCommand(context, current, { action: "ping" }, `${current.name} answered`)),
  });
  const healthButton = button("Health check", {
    kind: "quiet",
    symbol: "info",
    onclick: () =>
      healthButton.busy(() => sendCommand(context, current, { action: "health_check" }, `${current.name} reported`)),
  });
  const registeredActions = [
    button("Rename", { kind: "quiet", symbol: "edit", onclick: () => rename(context, current) }),
    button("Replace", { kind: "quiet", symbol: "refresh", onclick: () => replace(context, current) }),
    button("Unpair", { kind: "quiet", symbol: "trash", onclick: () => unpair(context, current) }),
  ];
  const pairButton = button("Pair", {
    kind: "quiet",
    symbol: "join",
    onclick: () => pairButton.busy(() => pair(context, current)),
  });
  const rebootButton = button("Reboot", { symbol: "power", onclick: () => reboot(context, current) });
  const actions = [
    h("div", { class: "toolbar" }, captureButton, rebootButton),
    h("div", { class: "toolbar tight" }, pingButton, healthButton, pairButton, registeredActions),
  ];
  const node = h(
    "div",
    { class: "stack" },
    h("div", { class: "row wrap spread" }, name, h("div", { class: "row" }, status, bars)),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "stack" }, photo, actions, captureError, problemText),
      section("Details", details),
    ),
    h("div", { class: "columns" }, section("Presence", presence), section("Onboarding history", history)),
  );
  const update = (camera) => {
    current = camera;
    setText(name, camera.name);
    status.show(camera.status);
    bars.show(camera);
    photo.show(camera);
    problemText.show(camera);
    for (const action of registeredActions) action.hidden = !camera.registered;
    pairButton.hidden = camera.registered;
    replaceIfChanged(details, cameraFacts(camera, context.cameras));
  };
  const refresh = () =>
    Promise.all([loadPresence(context, current, presence), loadHistory(context, current, history)]);
  return { node, update, refresh };
}

function cameraFacts(camera, cameras) {
  const { diagnostics = {} } = camera;
  const captureMs = diagnostics.avg_capture_time_ms;
  return facts([
    ["Location", locationText(camera, cameras)],
    ["MAC", h("code", {}, camera.mac)],
    ["Address", camera.ip && h("code", {}, camera.ip)],
    ["ID", h("code", {}, camera.id)],
    ["Firmware", camera.firmware],
    ["Uptime", camera.uptime ? duration(camera.uptime) : ""],
    ["Free memory", camera.heap ? bytes(camera.heap) : ""],
    ["Resolution", camera.resolution],
    ["Last seen", timeWithAge(camera.seenAt)],
    ["Last picture", timeWithAge(camera.pictureAt)],
    [
      "Average capture time",
      captureMs ? (captureMs < 1000 ? `${Math.round(captureMs)} ms` : `${(captureMs / 1000).toFixed(1)} s`) : "",
    ],
    ["Errors", diagnostics.error_count === undefined ? "" : String(diagnostics.error_count)],
    ["Last error", camera.lastError || diagnostics.last_error],
    ["Paired", timeWithAge(camera.paired_at)],
  ]);
}

async function loadPresence({ api }, camera, place) {
  try {
    const device = await api.get(`/api/v1/devices/${encodeURIComponent(camera.mac)}`, { background: true });
    fill(
      place,
      h("p", {}, `${sentence(device.why)}.`),
      deviceNotes(device),
      scrolled("Evidence", evidenceTable(device.evidence)),
    );
  } catch (error) {
    fill(
      place,
      h(
        "p",
        { class: "muted" },
        error.status === 404 ? "Not seen since the daemon started." : error.message,
      ),
    );
  }
}

function deviceNotes({ conflict, near, notes: nameNotes, locally_administered: local, vendor }) {
  const notes = [
    conflict.length && `Address conflict: ${conflict.join(", ")} answered for the same address.`,
    ...nameNotes.map((note) => `${sentence(note)}.`),
    near.length && `Adjacent MACs, possibly of the same board: ${near.join(", ")}.`,
    local && "Its MAC is locally administered, not assigned by a vendor.",
    vendor && `Vendor: ${vendor.replace(/\.$/, "")}.`,
  ].filter(Boolean);
  return notes.map((note) => h("p", { class: "small muted" }, note));
}

function evidenceTable(evidence) {
  const rows = evidence.map((entry) =>
    h(
      "tr",
      {},
      h("td", {}, sentence(evidenceLabel(entry.source))),
      h("td", {}, entry.proves_life ? state("ok", "proof") : state("info", "hint")),
      h("td", {}, age(entry.last_seen)),
      h("td", { class: "mono" }, entry.ip_address ?? ""),
      h("td", {}, entry.detail ?? entry.host_name ?? ""),
    ),
  );
  const head = ["Source", "Strength", "Last seen", "Address", "Detail"].map((title) => h("th", { scope: "col" }, title));
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

async function loadHistory({ api }, camera, place) {
  try {
    const { events } = await api.get(
      `/api/v1/onboarding/auto/events/${encodeURIComponent(camera.mac)}?limit=${MAX_EVENTS}`,
      { background: true },
    );
    if (!events.length) return fill(place, h("p", { class: "muted" }, "Not onboarded by auto-onboarding."));
    const rows = events.map((event) =>
      h("tr", {}, h("td", {}, age(event.timestamp)), h("td", {}, state(event.stage)), h("td", {}, eventDetail(event))),
    );
    return fill(place, h("table", {}, h("tbody", {}, rows)));
  } catch (error) {
    return fill(place, h("p", { class: "muted" }, error.message));
  }
}

const eventDetail = (event) =>
  event.error_message ??
  [event.container_id, event.ip_address, event.duration_ms !== undefined && `${event.duration_ms} ms`]
    .filter(Boolean)
    .join(" · ");
