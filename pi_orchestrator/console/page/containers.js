// Containers with their four positions, and cameras without a container.

import { cameraLink, picture } from "./camera_parts.js";
import { eachFrame, fill, h, keyed, set, setText } from "./dom.js";
import { count } from "./format.js";
import { assign, POSITIONS } from "./places.js";
import { button, confirm, dialog, empty, field, iconButton, problem, skeleton, state, toast } from "./ui.js";

export const title = "Containers";

const PATH = "/api/v1/containers";
const MIN_INTERVAL_MS = 1000;
const pathOf = (container, rest = "") => `${PATH}/${encodeURIComponent(container.id)}${rest}`;
const nameOf = (container) => container.label || container.id;

/** Show every container with its actions. */
export function mount(root, context) {
  const { api, cameras, stream } = context;
  const list = h("ul", { class: "grid boxes", "aria-label": "Containers" });
  const content = h("div", {}, skeleton(3));
  const unassignedText = h("p", { class: "muted" });
  const createButton = button("New container", {
    kind: "primary",
    symbol: "plus",
    onclick: () => edit(context, null).then((created) => created && refresh()),
  });
  const cardContext = { ...context, changed: () => refresh() };
  let [containers, timer, lastRefresh, unmounted] = [null, 0, 0, false];
  const draw = eachFrame(() => {
    if (!containers) return;
    keyed(
      list,
      containers,
      (container) => container.id,
      (container) => containerCard(cardContext, container),
    );
    const unassigned = cameras.all.filter((camera) => camera.registered && !camera.container).length;
    setText(
      unassignedText,
      unassigned
        ? `${count(unassigned, "registered camera has", "registered cameras have")} no container. Choose a free position to assign a camera.`
        : "",
    );
    const text =
      "A container holds four cameras. Auto-onboarding creates its own containers. Create a container here to pair cameras manually.";
    const next = containers.length ? list : empty("box", "No containers yet", text);
    if (content.firstChild !== next) fill(content, next);
  });
  const refresh = async () => {
    clearTimeout(timer);
    [timer, lastRefresh] = [0, Date.now()];
    try {
      containers = (await api.get(PATH, { background: containers !== null })).containers;
      draw();
    } catch (error) {
      if (!containers && !unmounted) fill(content, problem(error, refresh));
    }
  };
  const refreshSoon = () => (timer ||= setTimeout(refresh, Math.max(0, lastRefresh + MIN_INTERVAL_MS - Date.now())));
  const types = [
    "container.created",
    "container.updated",
    "container.deleted",
    ...["onboarded", "registered", "paired", "unassigned", "removed", "replaced", "renamed"].map((kind) => `camera.${kind}`),
  ];
  const subscriptions = types.map((type) => stream.on(type, refreshSoon));
  fill(root, h("div", { class: "row spread wrap" }, unassignedText, createButton), content);
  cameras.addEventListener("change", draw);
  stream.addEventListener("resync", refresh);
  refresh();
  return () => {
    unmounted = true;
    clearTimeout(timer);
    cameras.removeEventListener("change", draw);
    stream.removeEventListener("resync", refresh);
    draw.cancel();
    subscriptions.forEach((unsubscribe) => unsubscribe());
  };
}

function containerCard(context, initial) {
  let current = initial;
  const [name, text, cameraCount] = [
    h("h2", { class: "grow clip" }),
    h("p", { class: "small muted" }),
    h("p", { class: "small muted" }),
  ];
  const places = h("ol", { class: "places" });
  const editButton = iconButton("edit", "Edit", {
    onclick: () => edit(context, current).then((saved) => saved && context.changed()),
  });
  const deleteButton = iconButton("trash", "Delete", { onclick: () => remove(context, current) });
  const head = h("div", { class: "row" }, name, editButton, deleteButton);
  const node = h("li", { class: "panel box" }, head, text, places, cameraCount);
  const update = (container) => {
    current = container;
    setText(name, nameOf(container));
    set(name, "title", container.id);
    setText(text, container.description ?? "");
    text.hidden = !container.description;
    const { camera_count: total, online_count: online } = container;
    setText(cameraCount, total ? `${online} of ${count(total, "camera")} online` : "Empty");
    set(editButton, "aria-label", `Edit ${nameOf(container)}`);
    set(deleteButton, "aria-label", `Delete ${nameOf(container)}`);
    const positions = POSITIONS.map((position) => ({
      position,
      camera: container.cameras.find((assigned) => assigned.position === position),
    }));
    keyed(
      places,
      positions,
      ({ position, camera }) => `${position} ${camera?.device_id ?? ""}`,
      (entry) => (entry.camera ? takenPosition(context, () => current, entry) : freePosition(context, () => current, entry)),
    );
  };
  update(initial);
  return { node, update };
}

function takenPosition(context, getContainer, initial) {
  let current = initial;
  const [photo, status, name] = [picture(), state("offline"), h("a", { class: "name" })];
  const removeButton = iconButton("close", "Remove from container", {
    onclick: () => unassign(context, getContainer(), current.camera),
  });
  const node = h(
    "li",
    { class: "place" },
    photo,
    h("div", { class: "row" }, h("div", { class: "grow" }, name, status), removeButton),
  );
  const update = (entry) => {
    current = entry;
    const camera = context.cameras.find(entry.camera.mac_address);
    const label = entry.camera.name || entry.camera.device_id;
    setText(name, label);
    set(name, "href", cameraLink({ mac: entry.camera.mac_address }));
    status.show(camera?.status ?? entry.camera.status ?? "offline");
    photo.show(camera ?? { name: label, pictureAt: "" });
    set(removeButton, "aria-label", `Remove ${label} from position ${entry.position}`);
  };
  update(initial);
  return { node, update };
}

function freePosition(context, getContainer, { position }) {
  const assignButton = button(`Position ${position}`, {
    kind: "quiet",
    symbol: "plus",
    name: `Assign a camera to position ${position}`,
    onclick: () => assign(context, getContainer(), position).then((assigned) => assigned && context.changed()),
  });
  return { node: h("li", { class: "place free" }, assignButton) };
}

const unassign = (context, container, camera) =>
  confirm({
    title: `Remove ${camera.name || camera.device_id} from its container?`,
    consequences: [
      `Its position in ${nameOf(container)} becomes free.`,
      "It stays registered and can be assigned to another position.",
    ],
    label: "Remove",
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
      field("Label", label, "Name of the container, up to 100 characters."),
      field("Description", text, "Location and purpose, up to 500 characters."),
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
      "Its label and description are deleted.",
      "Only an empty container can be deleted. Remove its cameras first.",
    ],
    label: "Delete",
    work: async () => {
      await context.api.delete(pathOf(container));
      toast(`${nameOf(container)} was deleted`);
      context.changed();
    },
  });
