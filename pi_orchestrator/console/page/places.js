// Dialogues that assign a camera to a container and a position.

import { fill, h } from "./dom.js";
import { dialog, field, toast, toastError } from "./ui.js";

/** The positions of a container. */
export const POSITIONS = [1, 2, 3, 4];
const NEW = "new container"; // never a container's id: ids have no spaces

/** The free positions of a container. */
export const freePositions = (container) =>
  POSITIONS.filter((position) => !container.cameras.some((camera) => camera.position === position));

/** Pair a camera to a container with a free position. */
export async function pair({ api, cameras }, { mac, name }) {
  let available = [];
  try {
    available = (await api.get("/api/v1/containers")).containers.filter((container) => freePositions(container).length);
  } catch (error) {
    return toastError(error, `Pair ${name}`);
  }
  const containerSelect = h(
    "select",
    { name: "container", autofocus: true, onchange: () => showPositions() },
    available.map(({ id, label, camera_count: used }) => h("option", { value: id }, `${label || id}, ${used} of 4`)),
    h("option", { value: NEW }, "New container"),
  );
  const positionSelect = h("select", { name: "position" });
  const showPositions = () => {
    const chosen = available.find((container) => container.id === containerSelect.value);
    fill(
      positionSelect,
      (chosen ? freePositions(chosen) : POSITIONS).map((position) => h("option", { value: position }, String(position))),
    );
  };
  showPositions();
  return dialog({
    title: `Pair ${name}`,
    kind: "narrow",
    body: [h("p", { class: "mono" }, mac), field("Container", containerSelect), field("Position", positionSelect)],
    submit: {
      label: "Pair",
      work: async () => {
        const isNew = containerSelect.value === NEW;
        const container = isNew ? (await api.post("/api/v1/containers", {})).id : containerSelect.value;
        await api.post("/api/v1/espcam/pair", { mac, container_id: container, position: Number(positionSelect.value) });
        toast(`${name} was paired`);
        await cameras.refresh();
      },
    },
  });
}

/** Assign a registered camera without a container to the given position. */
export function assign({ api, cameras }, container, position) {
  const unassigned = cameras.all.filter((camera) => camera.registered && !camera.container);
  const cameraSelect = h(
    "select",
    { name: "camera", autofocus: true },
    unassigned.map(({ mac, name }) => h("option", { value: mac }, name === mac ? mac : `${name} (${mac})`)),
  );
  const title = `${container.label || container.id}, position ${position}`;
  if (!unassigned.length) {
    const text =
      "Every registered camera has a container. Remove a camera from its container first, or pair a new camera under Discovery.";
    return dialog({ title, kind: "narrow", body: h("p", {}, text), dismiss: "Close" });
  }
  return dialog({
    title,
    kind: "narrow",
    body: field("Camera", cameraSelect, "Registered cameras without a container."),
    submit: {
      label: "Assign",
      work: async () => {
        await api.post(`/api/v1/containers/${encodeURIComponent(container.id)}/cameras`, {
          device_id: cameraSelect.value,
          position,
        });
        await cameras.refresh();
      },
    },
  });
}
