// Containers as they are looked at: two by two cameras, and who stands nowhere.

import { cameraLink, picture } from "./camera_parts.js";
import { eachFrame, fill, h, keyed, say, set } from "./dom.js";
import { count } from "./format.js";
import { assign, POSITIONS } from "./places.js";
import { button, confirm, dialog, empty, field, iconButton, problem, skeleton, state, toast } from "./ui.js";

export const title = "Containers";

const PATH = "/api/v1/containers";
const AT_LEAST_MS = 1000;
const pathOf = (container, rest = "") => `${PATH}/${encodeURIComponent(container.id)}${rest}`;
const nameOf = (container) => container.label || container.id;

/** Show every container, and what can be done with it. */
export function mount(root, context) {
  const { api, cameras, stream } = context;
  const list = h("ul", { class: "grid boxes", "aria-label": "Containers" });
  const place = h("div", {}, skeleton(3));
  const idle = h("p", { class: "muted" });
  const make = button("New container", {
    kind: "primary",
    symbol: "plus",
    onclick: () => edit(context, null).then((made) => made && look()),
  });
  const tools = { ...context, changed: () => look() };
  let [all, timer, last, over] = [null, 0, 0, false];
  const draw = eachFrame(() => {
    if (!all) return;
    keyed(
      list,
      all,
      (one) => one.id,
      (one) => box(tools, one),
    );
    const nowhere = cameras.all.filter((one) => one.registered && !one.container).length;
    say(
      idle,
      nowhere
        ? `${count(nowhere, "registered camera stands", "registered cameras stand")} in no container: choose a free position to put one there.`
        : "",
    );
    const text = "A container holds four cameras. Auto-onboarding makes its own; make one here to pair by hand.";
    const instead = all.length ? list : empty("box", "No containers yet", text);
    if (place.firstChild !== instead) fill(place, instead);
  });
  const look = async () => {
    clearTimeout(timer);
    [timer, last] = [0, Date.now()];
    try {
      all = (await api.get(PATH, { background: all !== null })).containers;
      draw();
    } catch (error) {
      if (!all && !over) fill(place, problem(error, look));
    }
  };
  const soon = () => (timer ||= setTimeout(look, Math.max(0, last + AT_LEAST_MS - Date.now())));
  const types = [
    "container.created",
    "container.updated",
    "container.deleted",
    ...["onboarded", "registered", "paired", "unassigned", "removed", "replaced", "renamed"].map((kind) => `camera.${kind}`),
  ];
  const ends = types.map((type) => stream.on(type, soon));
  fill(root, h("div", { class: "row spread wrap" }, idle, make), place);
  cameras.addEventListener("change", draw);
  stream.addEventListener("resync", look);
  look();
  return () => {
    over = true;
    clearTimeout(timer);
    cameras.removeEventListener("change", draw);
    stream.removeEventListener("resync", look);
    draw.cancel();
    ends.forEach((end) => end());
  };
}

function box(context, first) {
  let now = first;
  const [name, text, tally] = [
    h("h2", { class: "grow clip" }),
    h("p", { class: "small muted" }),
    h("p", { class: "small muted" }),
  ];
  const places = h("ol", { class: "places" });
  const change = iconButton("edit", "Edit", {
    onclick: () => edit(context, now).then((done) => done && context.changed()),
  });
  const drop = iconButton("trash", "Delete", { onclick: () => remove(context, now) });
  const node = h("li", { class: "panel box" }, h("div", { class: "row" }, name, change, drop), text, places, tally);
  const update = (container) => {
    now = container;
    say(name, nameOf(container));
    set(name, "title", container.id);
    say(text, container.description ?? "");
    text.hidden = !container.description;
    const { camera_count: all, online_count: online } = container;
    say(tally, all ? `${online} of ${count(all, "camera")} online` : "Empty");
    set(change, "aria-label", `Edit ${nameOf(container)}`);
    set(drop, "aria-label", `Delete ${nameOf(container)}`);
    const standing = POSITIONS.map((position) => ({
      position,
      camera: container.cameras.find((one) => one.position === position),
    }));
    keyed(
      places,
      standing,
      ({ position, camera }) => `${position} ${camera?.device_id ?? ""}`,
      (one) => (one.camera ? taken(context, () => now, one) : free(context, () => now, one)),
    );
  };
  update(first);
  return { node, update };
}

function taken(context, container, first) {
  const [photo, word, name] = [picture(), state("offline"), h("a", { class: "name" })];
  const out = iconButton("close", "Take out", { onclick: () => takeOut(context, container(), now.camera) });
  const node = h(
    "li",
    { class: "place" },
    photo,
    h("div", { class: "row" }, h("div", { class: "grow" }, name, word), out),
  );
  let now = first;
  const update = (one) => {
    now = one;
    const known = context.cameras.find(one.camera.mac_address);
    const label = one.camera.name || one.camera.device_id;
    say(name, label);
    set(name, "href", cameraLink({ mac: one.camera.mac_address }));
    word.show(known?.status ?? one.camera.status ?? "offline");
    photo.show(known ?? { name: label, pictureAt: "" });
    set(out, "aria-label", `Take ${label} out of position ${one.position}`);
  };
  update(first);
  return { node, update };
}

function free(context, container, { position }) {
  const put = button(`Position ${position}`, {
    kind: "quiet",
    symbol: "plus",
    name: `Put a camera on position ${position}`,
    onclick: () => assign(context, container(), position).then((done) => done && context.changed()),
  });
  return { node: h("li", { class: "place free" }, put) };
}

const takeOut = (context, container, camera) =>
  confirm({
    title: `Take ${camera.name || camera.device_id} out?`,
    consequences: [
      `Its position in ${nameOf(container)} becomes free.`,
      "It stays registered, and can be put anywhere else.",
    ],
    label: "Take out",
    danger: false,
    work: async () => {
      await context.api.delete(pathOf(container, `/cameras/${encodeURIComponent(camera.device_id)}`));
      await context.cameras.refresh();
      context.changed();
    },
  });

function edit({ api }, container) {
  const label = h("input", {
    name: "label",
    value: container?.label ?? "",
    maxlength: 100,
    autocomplete: "off",
    autofocus: true,
  });
  const text = h("textarea", { name: "description", rows: 3, maxlength: 500, value: container?.description ?? "" });
  return dialog({
    title: container ? `Edit ${nameOf(container)}` : "New container",
    kind: "narrow",
    body: [
      field("Label", label, "What it is called, up to 100 characters."),
      field("Description", text, "Where it hangs, what it looks at."),
    ],
    submit: {
      label: container ? "Save" : "Create",
      work: async () => {
        const body = { label: label.value.trim(), description: text.value.trim() };
        if (container) await api.patch(pathOf(container), body);
        else await api.post(PATH, body);
      },
    },
  });
}

const remove = (context, container) =>
  confirm({
    title: `Delete ${nameOf(container)}?`,
    consequences: [
      "Its label and description are gone.",
      "Only an empty container can be deleted: its cameras have to be taken out first.",
    ],
    label: "Delete",
    work: async () => {
      await context.api.delete(pathOf(container));
      toast(`${nameOf(container)} was deleted`);
      context.changed();
    },
  });
