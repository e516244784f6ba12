// All cameras as cards. There may be hundreds: each card is built once and then updated in place.

import {
  cameraLink,
  capture,
  captureErrorNote,
  evidenceList,
  locationText,
  picture,
  problemNote,
  problemOf,
  reboot,
  rename,
  signal,
} from "./camera_parts.js";
import * as cameraPage from "./camera.js";
import { eachFrame, fill, h, keyed, set, setText } from "./dom.js";
import { button, empty, iconButton, problem, skeleton, state, toneOf } from "./ui.js";

export const title = "Cameras";

const FILTERS = {
  all: ["All", () => true],
  online: ["Online", (camera) => toneOf(camera.status) === "ok"],
  problems: ["Problems", (camera) => camera.status === "error" || problemOf(camera) !== null],
  inactive: ["Idle or offline", (camera) => camera.status === "offline" || camera.status === "idle"],
  unregistered: ["Not registered", (camera) => !camera.registered],
};
const compareText = (a, b) => a.localeCompare(b, undefined, { numeric: true });
const SEVERITY = ["bad", "warn", "off", "busy", "info", "ok"];
const ORDERS = {
  container: [
    "By container",
    (a, b) =>
      compareText(a.container || "\uffff", b.container || "\uffff") ||
      a.position - b.position ||
      compareText(a.mac, b.mac),
  ],
  name: ["By name", (a, b) => compareText(a.name, b.name) || compareText(a.mac, b.mac)],
  state: [
    "Problems first",
    (a, b) => SEVERITY.indexOf(toneOf(a.status)) - SEVERITY.indexOf(toneOf(b.status)) || compareText(a.name, b.name),
  ],
  signal: ["Weakest signal first", (a, b) => (a.rssi || -999) - (b.rssi || -999) || compareText(a.name, b.name)],
};
const chosen = { filter: "all", order: "container", search: "" };

/** Show the list, or the camera that the page's address names. */
export function mount(root, context) {
  return context.path[0] ? cameraPage.mount(root, context) : mountList(root, context);
}

function mountList(root, context) {
  const { cameras } = context;
  const content = h("div");
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
      (camera) => camera.mac,
      (camera) => card(context, camera),
    );
    const next = all.length && shown.length ? cards : placeholder(context, all);
    if (content.firstChild !== next) fill(content, next);
  });
  fill(root, bar, content);
  fill(content, skeleton());
  cameras.addEventListener("change", draw);
  if (cameras.loaded || cameras.error) draw();
  else cameras.refresh({ promptForKey: true });
  return () => {
    cameras.removeEventListener("change", draw);
    draw.cancel();
  };
}

function matches({ name, mac, ip, id, container }) {
  const query = chosen.search.trim().toLowerCase();
  return !query || [name, mac, ip, id, container].some((text) => text.toLowerCase().includes(query));
}

function placeholder({ cameras }, all) {
  if (!all.length && cameras.error) return problem(cameras.error, () => cameras.refresh({ promptForKey: true }));
  if (all.length) return empty("search", "No camera matches", "Change the search or the filter above.");
  const linkTo = (hash, label, symbol) => h("a", { class: "button", href: hash }, label, symbol);
  const text =
    "Switch on a camera in range of the camera network. With auto-onboarding, it appears here automatically. Otherwise, send it credentials in a session.";
  return empty(
    "camera",
    "No cameras yet",
    text,
    linkTo("#/onboarding", "Auto-onboarding"),
    linkTo("#/sessions", "Start a session"),
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
    { "aria-label": "Sort order", onchange: () => choose({ order: order.value }) },
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
      setText(tab.number, number);
      tab.node.hidden = tab.name !== "all" && tab.name !== chosen.filter && number === 0;
    }
  };
  return Object.assign(node, { count });
}

function card(context, initial) {
  let current = initial;
  const name = h("a", { class: "name" });
  const location = h("p", { class: "where" });
  const [status, bars, evidence, photo] = [state("offline"), signal(), evidenceList(), picture()];
  const [problemText, captureError] = [problemNote(), captureErrorNote()];
  const captureButton = button("Capture", {
    symbol: "camera",
    onclick: () => captureButton.busy(() => capture(context, current, captureButton, captureError.note)),
  });
  const tools = [
    iconButton("edit", "Rename", { onclick: () => rename(context, current) }),
    iconButton("power", "Reboot", { onclick: () => reboot(context, current) }),
  ];
  const heading = h("div", { class: "row spread heading" }, h("h2", { class: "grow" }, name), status);
  const text = h("div", { class: "words" }, heading, location, h("div", { class: "row spread wrap" }, bars), evidence);
  const notes = h("div", { class: "notes" }, problemText, captureError);
  const node = h(
    "li",
    { class: "card" },
    photo,
    text,
    notes,
    h("div", { class: "row spread card-actions" }, captureButton, h("div", { class: "row" }, tools)),
  );
  const update = (camera) => {
    current = camera;
    setText(name, camera.name);
    set(name, "href", cameraLink(camera));
    setText(location, locationText(camera, context.cameras));
    status.show(camera.status);
    for (const part of [bars, evidence, photo, problemText]) part.show(camera);
    set(captureButton, "aria-label", `Capture ${camera.name}`);
    set(tools[0], "aria-label", `Rename ${camera.name}`);
    set(tools[1], "aria-label", `Reboot ${camera.name}`);
    tools[0].hidden = !camera.registered;
  };
  update(initial);
  return { node, update };
}
