// Who is on the camera network, why that is believed, and a scan to find out anew.

import { toldBy } from "./camera_parts.js";
import { eachFrame, fill, h, keyed, say, set } from "./dom.js";
import { count, dbm, sentence } from "./format.js";
import { pair } from "./places.js";
import { age, button, empty, meter, problem, scrolled, section, skeleton, state, toastError } from "./ui.js";

export const title = "Discovery";

const PATH = "/api/v1/espcam";
const AT_LEAST_MS = 2000;
const PROGRESS_MS = 250;
const EVERY_MS = 20000;
const SHOWN = 200;
const PAST = 8;
const chosen = { filter: "cameras", search: "" };

const FILTERS = {
  cameras: ["Cameras", (one) => one.is_camera || one.registered],
  strangers: ["Not registered", (one) => !one.registered],
  conflicts: ["Conflicts", (one) => one.conflict.length > 0],
  all: ["All devices", () => true],
};

/** Show the scan, the sources and every device. */
export function mount(root, context) {
  const { stream } = context;
  const [scan, told, found, past] = [scanner(context), sources(), devices(context), history(context)];
  fill(root, h("div", { class: "columns" }, scan.node, told.node), found.node, past.node);
  let [timer, last, over] = [0, 0, false];
  const look = async () => {
    clearTimeout(timer);
    timer = 0;
    last = Date.now();
    try {
      const answer = await context.api.get(`${PATH}/discovered?limit=5000`, { background: found.loaded });
      if (over) return;
      scan.engine(answer);
      told.show(answer.sources);
      found.show(answer.devices);
    } catch (error) {
      if (!over) found.fail(error, look);
    }
  };
  const soon = () => (timer ||= setTimeout(look, Math.max(0, last + AT_LEAST_MS - Date.now())));
  const every = setInterval(() => document.hidden || look(), EVERY_MS);
  const again = () => {
    look();
    past.look();
    scan.find();
  };
  const changes = [
    "device.found",
    "device.state",
    "device.moved",
    "device.conflict",
    "device.conflict_resolved",
    "device.flapping",
    "camera.status_changed",
    "camera.onboarded",
    "camera.registered",
    "camera.removed",
  ];
  const ends = changes.map((type) => stream.on(type, soon));
  ends.push(stream.on("scan.started", ({ id }) => scan.follow(id)));
  ends.push(stream.on("scan.ended", () => (soon(), past.look())));
  stream.addEventListener("resync", again);
  again();
  return () => {
    over = true;
    clearTimeout(timer);
    clearInterval(every);
    stream.removeEventListener("resync", again);
    for (const end of [...ends, scan.end, found.end]) end();
  };
}

function scanner({ api }) {
  const text = h("p", { class: "muted" });
  const bar = meter("Progress");
  const start = button("Scan now", { kind: "primary", symbol: "radar", onclick: () => start.busy(begin) });
  const stop = button("Cancel", { kind: "quiet", symbol: "close", hidden: true, onclick: () => stop.busy(cancel) });
  const node = section("Scan", text, bar, h("div", { class: "row wrap" }, start, stop));
  let [running, timer] = ["", 0];
  bar.hidden = true;
  const begin = async () => {
    try {
      const { scan } = await api.post(`${PATH}/scan`);
      follow(scan.id);
    } catch (error) {
      toastError(error, "Scan");
    }
  };
  const cancel = async () => {
    try {
      show((await api.delete(`${PATH}/scan/${running}`)).scan);
    } catch (error) {
      toastError(error, "Scan");
    }
  };
  const show = (scan) => {
    const goes = scan.state === "running";
    bar.hidden = false;
    stop.hidden = !goes;
    start.disabled = goes;
    const result = `${count(scan.found, "device")} found, ${scan.new} new, ${scan.moved} moved, ${scan.gone} gone`;
    const words = goes
      ? `${scan.progress} %, ${result}`
      : `${scan.state}: ${scan.message ?? result}${scan.duration_ms ? `, in ${scan.duration_ms} ms` : ""}`;
    bar.show(
      scan.progress / 100,
      words,
      { failed: "bad", cancelled: "warn", interrupted: "warn", done: "ok" }[scan.state] ?? "",
    );
    clearTimeout(timer);
    timer = goes ? setTimeout(() => ask(scan.id), PROGRESS_MS) : 0;
    if (!goes) running = "";
  };
  const ask = async (id) => {
    try {
      show((await api.get(`${PATH}/scan/${encodeURIComponent(id)}`, { background: true })).scan);
    } catch {
      [running, start.disabled, stop.hidden] = ["", false, true]; // the stream tells of the next one
    }
  };
  const follow = (id) => {
    if (running === id) return;
    running = id;
    ask(id);
  };
  /** Go on with a scan that runs already. */
  const find = async () => {
    try {
      const { scans } = await api.get(`${PATH}/scan?limit=1`, { background: true });
      if (scans[0]?.state === "running") follow(scans[0].id);
    } catch {
      // the list of past scans tells what is wrong
    }
  };
  const engine = (answer) =>
    say(
      text,
      answer.engine
        ? `The network is asked by ${answer.engine_reason}.`
        : `Nothing can be scanned: ${answer.engine_reason}.`,
    );
  return { node, follow, find, engine, end: () => clearTimeout(timer) };
}

const SOURCES = {
  scanner: "Scanner",
  stations: "Radio's station list",
  leases: "DHCP leases",
  mdns: "mDNS",
  probe: "HTTP probe",
  mqtt: "MQTT",
};

function sources() {
  const list = h("ul", { class: "facts" });
  const node = section("Sources of evidence", list);
  const show = (all) =>
    keyed(
      list,
      all,
      (one) => one.source,
      (first) => {
        const word = state("unknown");
        const why = h("span", { class: "small muted" });
        const update = ({ state: how, reason }) => {
          word.show(how);
          say(why, reason ?? "");
        };
        update(first);
        return {
          node: h(
            "li",
            {},
            h("div", { class: "row spread" }, h("span", {}, SOURCES[first.source] ?? first.source), word),
            why,
          ),
          update,
        };
      },
    );
  return { node, show };
}

function devices(context) {
  const list = h("ul", { class: "devices", "aria-label": "Devices" });
  const place = h("div", {}, skeleton(4, "line"));
  const note = h("p", { class: "small muted" });
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
  const node = section("Devices", bar, place, note);
  const self = { node, loaded: false };
  let all = [];
  const choose = (choice) => {
    Object.assign(chosen, choice);
    draw();
  };
  const draw = eachFrame(() => {
    for (const { name, node: tab, number } of tabs) {
      set(tab, "aria-pressed", String(chosen.filter === name));
      say(number, all.filter(FILTERS[name][1]).length);
    }
    if (!self.loaded) return;
    const found = all.filter(FILTERS[chosen.filter][1]).filter(matches);
    const shown = found.slice(0, SHOWN);
    keyed(
      list,
      shown,
      (one) => one.mac_address,
      (one) => device(context, one),
    );
    say(note, found.length > SHOWN ? `${SHOWN} of ${found.length} are shown: search to see others.` : "");
    const instead = shown.length
      ? list
      : empty(
          "radar",
          all.length ? "No device matches" : "Nobody is here",
          all.length ? "Change the search or the filter above." : "Switch a camera on, or scan now.",
        );
    if (place.firstChild !== instead) fill(place, instead);
  });
  self.show = (found) => {
    all = found;
    self.loaded = true;
    draw();
  };
  self.fail = (error, again) => self.loaded || fill(place, problem(error, again));
  self.end = draw.cancel;
  draw();
  return self;
}

function matches(one) {
  const wanted = chosen.search.trim().toLowerCase();
  return (
    !wanted ||
    [one.mac_address, one.ip_address, one.hostname, one.vendor, one.device_id ?? ""].some((text) =>
      text.toLowerCase().includes(wanted),
    )
  );
}

function device(context, first) {
  let now = first;
  const name = h("h3", { class: "grow" });
  const [word, why, address] = [state("unknown"), h("p", { class: "small muted" }), h("p", { class: "mono small" })];
  const trouble = h("p", { class: "note", "data-tone": "bad" });
  const proofs = h("div");
  const details = h("details", { ontoggle: () => details.open && showProofs() }, h("summary", {}, "Evidence"), proofs);
  const take = button("Pair", {
    symbol: "join",
    onclick: () => pair(context, { mac: now.mac_address, name: now.device_id ?? now.mac_address }),
  });
  const open = h("a", { class: "button", href: `#/cameras/${encodeURIComponent(first.mac_address)}` }, "Open");
  const node = h(
    "li",
    {},
    h("div", { class: "row spread wrap" }, name, word),
    address,
    why,
    trouble,
    h("div", { class: "row spread wrap" }, details, h("div", { class: "row" }, take, open)),
  );
  const showProofs = () => keyed(proofs, now.evidence, (one) => one.source, proof);
  const update = (one) => {
    now = one;
    say(name, one.device_id || one.hostname || one.vendor || "Unknown device");
    word.show(one.status);
    const also = one.ip_addresses.filter((ip) => ip !== one.ip_address);
    say(
      address,
      [
        one.mac_address,
        one.ip_address || "no address",
        ...also,
        one.vendor,
        one.signal_strength ? dbm(one.signal_strength) : "",
      ]
        .filter(Boolean)
        .join(" · "),
    );
    say(why, sentence(one.why));
    const near = one.near.length ? `May be the same ESP32 as ${one.near.join(", ")}.` : "";
    say(
      trouble,
      [
        one.conflict.length
          ? `Its address is claimed by ${one.conflict.join(", ")} too: only the owner may answer; look for two devices with one fixed address.`
          : "",
        near,
      ]
        .filter(Boolean)
        .join(" "),
    );
    set(trouble, "data-tone", one.conflict.length ? "bad" : "info");
    take.hidden = one.registered || !one.is_camera;
    open.hidden = !one.registered && !one.is_camera;
    if (details.open) showProofs();
  };
  update(first);
  return { node, update };
}

function proof(first) {
  const [when, facts] = [age(first.last_seen), h("span", { class: "small muted" })];
  const update = (one) => {
    when.show(one.last_seen);
    say(
      facts,
      [
        one.ip_address,
        one.host_name,
        one.signal_strength && dbm(one.signal_strength),
        one.detail,
        one.proves_life ? "" : "proves nothing by itself",
      ]
        .filter(Boolean)
        .join(" · "),
    );
  };
  update(first);
  return { node: h("div", { class: "row wrap" }, h("strong", { class: "small" }, sentence(toldBy(first.source))), when, facts), update };
}

function history({ api }) {
  const rows = h("tbody");
  const head = ["When", "By", "State", "Found", "New", "Moved", "Gone", "Took"].map((text) =>
    h("th", { scope: "col" }, text),
  );
  const table = scrolled("Past scans", h("table", {}, h("thead", {}, h("tr", {}, head)), rows));
  const node = section("Past scans", table);
  const look = async () => {
    try {
      const { scans } = await api.get(`${PATH}/scan?limit=${PAST}`, { background: true });
      keyed(
        rows,
        scans,
        (one) => `${one.id} ${one.state}`,
        (one) => ({
          node: h(
            "tr",
            {},
            [
              age(one.started_at),
              one.requested_by,
              state(one.state),
              one.found,
              one.new,
              one.moved,
              one.gone,
              one.duration_ms === undefined ? "" : `${one.duration_ms} ms`,
            ].map((cell) => h("td", {}, cell)),
          ),
        }),
      );
      node.hidden = !scans.length;
    } catch {
      node.hidden = true; // the devices above tell what is wrong
    }
  };
  return { node, look };
}
