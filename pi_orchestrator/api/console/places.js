// Dialogues that put cameras into places: a container, and a position in it.

import { fill, h } from "./dom.js";
import { dialog, field, toast, toastError } from "./ui.js";

/** The positions of a container, as people count them. */
export const POSITIONS = [1, 2, 3, 4];
const NEW = "a new one"; // no id of a container: those have no blanks

/** The free positions of a container. */
export const freeIn = (container) =>
  POSITIONS.filter((at) => !container.cameras.some((camera) => camera.position === at));

/** Take a camera into the record, in a container that has room. */
export async function pair({ api, cameras }, { mac, name }) {
  let open = [];
  try {
    open = (await api.get("/api/v1/containers")).containers.filter((one) => freeIn(one).length);
  } catch (error) {
    return toastError(error, `Pair ${name}`);
  }
  const where = h(
    "select",
    { name: "container", autofocus: true, onchange: () => offer() },
    open.map((one) => h("option", { value: one.id }, `${one.label || one.id}, ${one.camera_count} of 4`)),
    h("option", { value: NEW }, "A new container"),
  );
  const at = h("select", { name: "position" });
  const offer = () => {
    const chosen = open.find((one) => one.id === where.value);
    fill(
      at,
      (chosen ? freeIn(chosen) : POSITIONS).map((position) => h("option", { value: position }, String(position))),
    );
  };
  offer();
  return dialog({
    title: `Pair ${name}`,
    kind: "narrow",
    body: [h("p", { class: "mono" }, mac), field("Container", where), field("Position", at)],
    submit: {
      label: "Pair",
      work: async () => {
        const container = where.value === NEW ? (await api.post("/api/v1/containers", {})).id : where.value;
        await api.post("/api/v1/espcam/pair", { mac, container_id: container, position: Number(at.value) });
        toast(`${name} is paired`);
        await cameras.refresh();
      },
    },
  });
}

/** Put a registered camera that stands nowhere into a place that is given. */
export function assign({ api, cameras }, container, position) {
  const idle = cameras.all.filter((one) => one.registered && !one.container);
  const who = h(
    "select",
    { name: "camera", autofocus: true },
    idle.map((one) => h("option", { value: one.mac }, one.name === one.mac ? one.mac : `${one.name} (${one.mac})`)),
  );
  const title = `${container.label || container.id}, position ${position}`;
  if (!idle.length) {
    const text =
      "Every registered camera stands in a container. Take one out first, or pair one that is new under Discovery.";
    return dialog({ title, kind: "narrow", body: h("p", {}, text), dismiss: "Close" });
  }
  return dialog({
    title,
    kind: "narrow",
    body: field("Camera", who, "Registered cameras that stand in no container."),
    submit: {
      label: "Put it here",
      work: async () => {
        await api.post(`/api/v1/containers/${encodeURIComponent(container.id)}/cameras`, {
          device_id: who.value,
          position,
        });
        await cameras.refresh();
      },
    },
  });
}
