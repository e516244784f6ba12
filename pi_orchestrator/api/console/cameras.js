// All cameras as cards. There may be hundreds: a card is built once and from then on only changed where it changes.

import {
  cameraLink,
  capture,
  captureNote,
  evidence,
  picture,
  placeOf,
  reboot,
  rename,
  signal,
  troubleNote,
  troubleOf,
} from "./camera_parts.js";
import * as camera from "./camera.js";
import { eachFrame, fill, h, keyed, say, set } from "./dom.js";
import { button, empty, iconButton, problem, skeleton, state, toneOf } from "./ui.js";

export const title = "Cameras";

const FILTERS = {
  all: ["All", () => true],
  online: ["Online", (one) => toneOf(one.status) === "ok"],
  attention: ["Attention", (one) => one.status === "error" || troubleOf(one) !== null],
  away: ["Away", (one) => one.status === "offline" || one.status === "idle"],
  strangers: ["Not registered", (one) => !one.registered],
};
const text = (a, b) => a.localeCompare(b, undefined, { numeric: true });
const SEVERITY = ["bad", "warn", "off", "busy", "info", "ok"];
const ORDERS = {
  place: [
    "By place",
    (a, b) => text(a.container || "\uffff", b.container || "\uffff") || a.position - b.position || text(a.mac, b.mac),
  ],
  name: ["By name", (a, b) => text(a.name, b.name) || text(a.mac, b.mac)],
  state: [
    "Trouble first",
    (a, b) => SEVERITY.indexOf(toneOf(a.status)) - SEVERITY.indexOf(toneOf(b.status)) || text(a.name, b.name),
  ],
  signal: ["Weakest signal first", (a, b) => (a.rssi || -999) - (b.rssi || -999) || text(a.name, b.name)],
};
const chosen = { filter: "all", order: "place", search: "" };

/** Show the list, or the page of the camera that the address names. */
export function mount(root, context) {
  return context.path[0] ? camera.mount(root, context) : mountList(root, context);
}

function mountList(root, context) {
  const { cameras } = context;
  const place = h("div");
  const cards = h("ul", { class: "grid cards", "aria-label": "Cameras" });
  const bar = toolbar(() => draw());
  const draw = eachFrame(() => {
    const all = cameras.all;
    bar.count(all);
    bar.hidden = all.length === 0;
    const shown = all.filter(FILTERS[chosen.filter][1]).filter(matches).sort(ORDERS[chosen.order][1]);
    keyed(
      cards,
      shown,
      (one) => one.mac,
      (one) => card(context, one),
    );
    const instead = all.length && shown.length ? cards : insteadOf(context, all);
    if (place.firstChild !== instead) fill(place, instead);
  });
  fill(root, bar, place);
  fill(place, skeleton());
  cameras.addEventListener("change", draw);
  if (cameras.loaded || cameras.error) draw();
  else cameras.refresh({ ask: true });
  return () => {
    cameras.removeEventListener("change", draw);
    draw.cancel();
  };
}

function matches({ name, mac, ip, id, container }) {
  const wanted = chosen.search.trim().toLowerCase();
  return !wanted || [name, mac, ip, id, container].some((one) => one.toLowerCase().includes(wanted));
}

function insteadOf({ cameras }, all) {
  if (!all.length && cameras.error) return problem(cameras.error, () => cameras.refresh({ ask: true }));
  if (all.length) return empty("search", "No camera matches", "Change the search or the filter above.");
  const go = (hash, label, symbol) => h("a", { class: "button", href: hash }, label, symbol);
  const text =
    "Switch a camera on within reach of the Pi's network. With auto-onboarding it appears here by itself; otherwise give it credentials in a session.";
  return empty(
    "camera",
    "No cameras yet",
    text,
    go("#/onboarding", "Auto-onboarding"),
    go("#/sessions", "Start a session"),
  );
}

function toolbar(changed) {
  const tabs = Object.entries(FILTERS).map(([name, [label]]) => {
    const number = h("b");
    const node = h("button", { type: "button", onclick: () => choose({ filter: name }) }, label, number);
    return { name, node, number };
  });
  const choose = (choice) => {
    Object.assign(chosen, choice);
    for (const { name, node } of tabs) set(node, "aria-pressed", String(chosen.filter === name));
    changed();
  };
  const search = h("input", {
    type: "search",
    "aria-label": "Search cameras",
    placeholder: "Search",
    value: chosen.search,
    oninput: () => choose({ search: search.value }),
  });
  const order = h(
    "select",
    { "aria-label": "Order", onchange: () => choose({ order: order.value }) },
    Object.entries(ORDERS).map(([name, [label]]) =>
      h("option", { value: name, selected: name === chosen.order }, label),
    ),
  );
  const node = h(
    "div",
    { class: "toolbar", hidden: true },
    h(
      "div",
      { class: "tabs", role: "group", "aria-label": "Filter" },
      tabs.map((tab) => tab.node),
    ),
    h("div", { class: "row grow finders" }, search, order),
  );
  for (const tab of tabs) set(tab.node, "aria-pressed", String(chosen.filter === tab.name));
  const count = (all) => {
    for (const tab of tabs) {
      const number = all.filter(FILTERS[tab.name][1]).length;
      say(tab.number, number);
      tab.node.hidden = tab.name !== "all" && tab.name !== chosen.filter && number === 0;
    }
  };
  return Object.assign(node, { count });
}

function card(context, first) {
  let now = first;
  const name = h("a", { class: "name" });
  const where = h("p", { class: "where" });
  const [status, bars, proof, photo, failed] = [state("offline"), signal(), evidence(), picture(), captureNote()];
  const trouble = troubleNote();
  const shoot = button("Capture", {
    symbol: "camera",
    onclick: () => shoot.busy(() => capture(context, now, shoot, failed.note)),
  });
  const tools = [
    iconButton("edit", "Rename", { onclick: () => rename(context, now) }),
    iconButton("power", "Reboot", { onclick: () => reboot(context, now) }),
  ];
  const heading = h("div", { class: "row spread heading" }, h("h2", { class: "grow" }, name), status);
  const words = h("div", { class: "words" }, heading, where, h("div", { class: "row spread wrap" }, bars), proof);
  const notes = h("div", { class: "notes" }, trouble, failed);
  const node = h(
    "li",
    { class: "card" },
    photo,
    words,
    notes,
    h("div", { class: "row spread deeds" }, shoot, h("div", { class: "row" }, tools)),
  );
  const update = (camera) => {
    now = camera;
    say(name, camera.name);
    set(name, "href", cameraLink(camera));
    say(where, placeOf(camera, context.cameras));
    status.show(camera.status);
    for (const part of [bars, proof, photo, trouble]) part.show(camera);
    set(shoot, "aria-label", `Capture ${camera.name}`);
    set(tools[0], "aria-label", `Rename ${camera.name}`);
    set(tools[1], "aria-label", `Reboot ${camera.name}`);
    tools[0].hidden = !camera.registered;
  };
  update(first);
  return { node, update };
}
