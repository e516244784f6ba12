// The page of one camera: its picture, what can be done with it, why it is believed to be here, what happened to it.

import {
  capture,
  captureNote,
  command,
  picture,
  placeOf,
  reboot,
  rename,
  replace,
  signal,
  toldBy,
  troubleNote,
  unpair,
  when,
} from "./camera_parts.js";
import { eachFrame, fill, h, refill, say } from "./dom.js";
import { bytes, duration, sentence } from "./format.js";
import { icon } from "./icons.js";
import { pair } from "./places.js";
import { age, button, empty, facts, problem, scrolled, section, skeleton, state } from "./ui.js";

const EVERY_MS = 10000;
const EVENTS = 50;

/** Show one camera; it is named by MAC or id in the address. */
export function mount(root, context) {
  const { cameras, path, stream } = context;
  const place = h("div", { class: "stack" });
  let page = null;
  const draw = eachFrame(() => {
    const camera = cameras.find(path[0]);
    if (!camera) {
      page = null;
      fill(
        place,
        cameras.loaded
          ? missing()
          : cameras.error
            ? problem(cameras.error, () => cameras.refresh({ ask: true }))
            : skeleton(2),
      );
      return;
    }
    if (!page) {
      page = build(context, camera);
      fill(place, page.node);
      look();
    }
    page.update(camera);
  });
  const look = () => !document.hidden && stream.state === "open" && page?.look();
  fill(root, h("a", { class: "back", href: "#/cameras" }, icon("back"), "All cameras"), place);
  cameras.addEventListener("change", draw);
  const timer = setInterval(look, EVERY_MS);
  const heard = ["camera.onboarded", "camera.onboarding_failed", "camera.replaced"].map((type) =>
    stream.on(type, look),
  );
  if (!cameras.loaded) cameras.refresh({ ask: true });
  draw();
  return () => {
    cameras.removeEventListener("change", draw);
    clearInterval(timer);
    heard.forEach((end) => end());
    draw.cancel();
  };
}

const missing = () =>
  empty(
    "camera",
    "There is no such camera",
    "It was unpaired or replaced, or it has not been heard since the daemon started.",
  );

function build(context, first) {
  let now = first;
  const name = h("h2", { class: "big" });
  const [status, bars, photo, failed] = [state("offline"), signal(), picture(), captureNote()];
  const [trouble, data, why, history] = [
    troubleNote(),
    h("div"),
    h("div", { class: "stack" }),
    scrolled("Onboarding history"),
  ];
  const shoot = button("Capture", {
    kind: "primary",
    symbol: "camera",
    onclick: () => shoot.busy(() => capture(context, now, shoot, failed.note)),
  });
  const ping = button("Ping", {
    kind: "quiet",
    symbol: "link",
    onclick: () => ping.busy(() => command(context, now, { action: "ping" }, `${now.name} answered`)),
  });
  const ask = button("Health check", {
    kind: "quiet",
    symbol: "info",
    onclick: () => ask.busy(() => command(context, now, { action: "health_check" }, `${now.name} says`)),
  });
  const owned = [
    button("Rename", { kind: "quiet", symbol: "edit", onclick: () => rename(context, now) }),
    button("Replace", { kind: "quiet", symbol: "refresh", onclick: () => replace(context, now) }),
    button("Unpair", { kind: "quiet", symbol: "trash", onclick: () => unpair(context, now) }),
  ];
  const take = button("Pair", { kind: "quiet", symbol: "join", onclick: () => take.busy(() => pair(context, now)) });
  const again = button("Reboot", { symbol: "power", onclick: () => reboot(context, now) });
  const deeds = [h("div", { class: "toolbar" }, shoot, again), h("div", { class: "toolbar tight" }, ping, ask, take, owned)];
  const node = h(
    "div",
    { class: "stack" },
    h("div", { class: "row wrap spread" }, name, h("div", { class: "row" }, status, bars)),
    h(
      "div",
      { class: "columns" },
      h("div", { class: "stack" }, photo, deeds, failed, trouble),
      section("What it is", data),
    ),
    h("div", { class: "columns" }, section("Why this is believed", why), section("Onboarding history", history)),
  );
  const update = (camera) => {
    now = camera;
    say(name, camera.name);
    status.show(camera.status);
    bars.show(camera);
    photo.show(camera);
    trouble.show(camera);
    for (const one of owned) one.hidden = !camera.registered;
    take.hidden = camera.registered;
    refill(data, described(camera, context.cameras));
  };
  return { node, update, look: () => Promise.all([lookWhy(context, now, why), lookHistory(context, now, history)]) };
}

function described(camera, cameras) {
  const { diagnostics = {} } = camera;
  const took = diagnostics.avg_capture_time_ms;
  return facts([
    ["Place", placeOf(camera, cameras)],
    ["MAC", h("code", {}, camera.mac)],
    ["Address", camera.ip && h("code", {}, camera.ip)],
    ["Id", h("code", {}, camera.id)],
    ["Firmware", camera.firmware],
    ["Running for", camera.uptime ? duration(camera.uptime) : ""],
    ["Free memory", camera.heap ? bytes(camera.heap) : ""],
    ["Resolution", camera.resolution],
    ["Last seen", when(camera.seenAt)],
    ["Last picture", when(camera.pictureAt)],
    ["A capture takes", took ? (took < 1000 ? `${Math.round(took)} ms` : `${(took / 1000).toFixed(1)} s`) : ""],
    ["Errors", diagnostics.error_count === undefined ? "" : String(diagnostics.error_count)],
    ["Last error", camera.trouble || diagnostics.last_error],
    ["Paired", when(camera.paired_at)],
  ]);
}

async function lookWhy({ api }, camera, place) {
  try {
    const device = await api.get(`/api/v1/devices/${encodeURIComponent(camera.mac)}`, { background: true });
    fill(
      place,
      h("p", {}, `${sentence(device.why)}.`),
      oddities(device),
      scrolled("Evidence", evidenceTable(device.evidence)),
    );
  } catch (error) {
    fill(
      place,
      h(
        "p",
        { class: "muted" },
        error.status === 404 ? "Nothing has been heard of it since the daemon started." : error.message,
      ),
    );
  }
}

function oddities({ conflict, near, locally_administered: local, vendor }) {
  const notes = [
    conflict.length && `Others claim its address: ${conflict.join(", ")}.`,
    near.length && `MACs next to its own, maybe the same board: ${near.join(", ")}.`,
    local && "Its MAC is made up, not the maker's.",
    vendor && `Made by ${vendor.replace(/\.$/, "")}.`,
  ].filter(Boolean);
  return notes.map((note) => h("p", { class: "small muted" }, note));
}

function evidenceTable(evidence) {
  const rows = evidence.map((one) =>
    h(
      "tr",
      {},
      h("td", {}, sentence(toldBy(one.source))),
      h("td", {}, one.proves_life ? state("ok", "proves it") : state("info", "hint")),
      h("td", {}, age(one.last_seen)),
      h("td", { class: "mono" }, one.ip_address ?? ""),
      h("td", {}, one.detail ?? one.host_name ?? ""),
    ),
  );
  const head = ["Source", "Worth", "Last", "Address", "Detail"].map((word) => h("th", { scope: "col" }, word));
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}

async function lookHistory({ api }, camera, place) {
  try {
    const { events } = await api.get(
      `/api/v1/onboarding/auto/events/${encodeURIComponent(camera.mac)}?limit=${EVENTS}`,
      { background: true },
    );
    if (!events.length) return fill(place, h("p", { class: "muted" }, "It was not taken in by auto-onboarding."));
    const rows = events.map((one) =>
      h("tr", {}, h("td", {}, age(one.timestamp)), h("td", {}, state(one.stage)), h("td", {}, toldOf(one))),
    );
    return fill(place, h("table", {}, h("tbody", {}, rows)));
  } catch (error) {
    return fill(place, h("p", { class: "muted" }, error.message));
  }
}

const toldOf = (one) =>
  one.error_message ??
  [one.container_id, one.ip_address, one.duration_ms !== undefined && `${one.duration_ms} ms`]
    .filter(Boolean)
    .join(" · ");
