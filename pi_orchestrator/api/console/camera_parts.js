// What cards and the page of a camera share: its picture, its signal, its evidence, and what can be done with it.

import { fill, h, keyed, say, set } from "./dom.js";
import { dbm, moment, sentence } from "./format.js";
import { icon, signalBars } from "./icons.js";
import { advice, age, confirm, dialog, field, toast, toastError } from "./ui.js";

const CAPTURE_MS = 40000;
const FORMALITIES = new Set(["device_id", "action", "request_id", "timestamp", "status", "success"]);
const BY = {
  arp: "answered ARP",
  neighbour: "known to the kernel",
  station: "heard by the radio",
  mqtt: "spoke on MQTT",
  probe: "answered HTTP",
  record: "was here before the restart",
  lease: "has a DHCP lease",
  mdns: "announced itself (mDNS)",
};

/** How a source of evidence tells of a camera. */
export const toldBy = (source) => BY[source] ?? "last seen";

/** An API path below a camera. */
const cameraPath = (camera, rest = "") => `/api/v1/cameras/${encodeURIComponent(camera.mac)}${rest}`;

/** The address of a camera's page. */
export const cameraLink = (camera) => `#/cameras/${encodeURIComponent(camera.mac)}`;

/** Where a camera hangs, in words. */
export const placeOf = (camera, cameras) =>
  camera.container ? `${cameras.label(camera.container)} · position ${camera.position || "?"}` : "In no container";

/** The last picture with its age; `.show(camera)`. One that cannot be loaded is none. */
export function picture() {
  const image = h("img", { alt: "", decoding: "async", loading: "lazy", hidden: true });
  const none = h("div", { class: "none" }, icon("camera"), h("span", {}, "No picture yet"));
  const taken = age("");
  const caption = h(
    "span",
    { class: "taken", hidden: true },
    icon("clock"),
    h("span", { class: "sr" }, "Taken "),
    taken,
  );
  let shown = "";
  const draw = (there) => {
    image.hidden = caption.hidden = !there;
    none.hidden = there;
  };
  image.addEventListener("load", () => draw(true));
  image.addEventListener("error", () => draw(false));
  const show = (camera) => {
    set(image, "alt", `Last picture of ${camera.name}`);
    if (!camera.pictureAt || camera.pictureAt === shown) return;
    shown = camera.pictureAt;
    taken.show(shown);
    image.hidden = false; // a lazy image that is hidden is never asked for
    image.src = cameraPath(camera, `/image?t=${encodeURIComponent(shown)}`);
  };
  return Object.assign(h("div", { class: "picture" }, image, none, caption), { show });
}

/** Signal as bars, word and dBm; `.show(camera)`. */
export function signal() {
  const bars = signalBars();
  const words = h("span");
  const node = h("span", { class: "signal" }, bars.node, words);
  const show = ({ quality, rssi }) => {
    bars.show(quality);
    set(node, "data-tone", { poor: "bad", fair: "warn", unknown: "off" }[quality] ?? "ok");
    say(words, rssi ? `${sentence(quality)}, ${dbm(rssi)}` : "Signal unknown");
  };
  return Object.assign(node, { show });
}

/** Why a camera is believed to be here, in the words of the newest sources that prove it; `.show(camera)`. */
export function evidence(most = 2) {
  const node = h("ul", { class: "evidence", "aria-label": "Evidence" });
  const show = (camera) => {
    const proofs = (camera.evidence ?? []).filter((one) => one.proves_life);
    const fresh = proofs.filter((one) => one.source !== "record" || proofs.length === 1).slice(0, most);
    const told = fresh.length ? fresh : [{ source: "seen", last_seen: camera.seenAt }];
    keyed(
      node,
      told,
      (one) => one.source,
      (first) => {
        const when = age(first.last_seen);
        return { node: h("li", {}, toldBy(first.source), " ", when), update: (one) => when.show(one.last_seen) };
      },
    );
  };
  return Object.assign(node, { show });
}

/** What is wrong with a camera and what to do, or null. */
export function troubleOf({ trouble, diagnostics, status }) {
  const remedy = diagnostics?.remedy;
  if (remedy && remedy.state !== "ok")
    return { text: trouble || remedy.state.replaceAll("_", " "), advice: remedy.advice ?? "" };
  return trouble && status !== "offline" ? { text: trouble, advice: "" } : null;
}

/** The place where a camera's trouble is told; `.show(camera)`. */
export function troubleNote() {
  const [text, rest] = [h("strong"), h("span")];
  const node = h("p", { class: "note", "data-tone": "warn", hidden: true }, text, rest);
  const show = (camera) => {
    const found = troubleOf(camera);
    node.hidden = !found;
    say(text, sentence(found?.text));
    say(rest, found?.advice && `. ${found.advice}`);
  };
  return Object.assign(node, { show });
}

/** Take a picture: the button says how long it has taken, `note(error or null)` shows what went wrong. */
export async function capture({ api, cameras }, camera, control, note) {
  const began = Date.now();
  const timer = setInterval(() => control.label(`Capturing, ${Math.round((Date.now() - began) / 1000)} s`), 1000);
  note(null);
  control.label("Capturing");
  try {
    const answer = await api.post(cameraPath(camera, "/capture"), undefined, { raw: true, timeout: CAPTURE_MS });
    const at = answer.headers.get("X-Capture-Time") ?? new Date().toISOString();
    await answer.arrayBuffer();
    cameras.patch(camera.mac, { pictureAt: at });
  } catch (error) {
    note(error);
  } finally {
    clearInterval(timer);
    control.label("Capture");
  }
}

/** The place where a failed capture is told, with its remedy; `.note(error or null)`. */
export function captureNote() {
  const node = h("p", { class: "note", "data-tone": "bad", role: "status" });
  const note = (error) => {
    if (!error || error.code === "CANCELLED") fill(node);
    else if (error.code === "OFFLINE")
      toastError(error); // that is not about this camera
    else fill(node, h("strong", {}, error.message), ". ", advice(error));
  };
  return Object.assign(node, { note });
}

/** Reboot a camera, after its consequences were told. */
export const reboot = ({ api, cameras }, camera) =>
  confirm({
    title: `Reboot ${camera.name}?`,
    consequences: [
      "It is away for about half a minute.",
      "A capture that is under way on it is lost.",
      "It keeps its name, its place and its settings.",
    ],
    label: "Reboot",
    danger: false,
    work: async () => {
      await api.post(cameraPath(camera, "/reboot"), undefined, { timeout: CAPTURE_MS });
      cameras.patch(camera.mac, { status: "rebooting" });
      toast(`${camera.name} reboots`, { tone: "info", detail: "It is shown as online when it has answered again." });
    },
  });

/** Give a camera another name. */
export function rename({ api, cameras }, camera) {
  const name = h("input", { name: "name", value: camera.name, maxlength: 64, autocomplete: "off", autofocus: true });
  return dialog({
    title: "Rename camera",
    kind: "narrow",
    body: field("Name", name, "Up to 64 characters; leave it empty to go back to the camera's own id."),
    submit: {
      label: "Save",
      work: async () => {
        await api.patch(cameraPath(camera), { name: name.value.trim() });
        cameras.touch(camera.mac);
      },
    },
  });
}

/** Take a camera out of the record; it is let in again only by hand. */
export const unpair = ({ api, cameras, go }, camera) =>
  confirm({
    title: `Unpair ${camera.name}?`,
    consequences: [
      "It loses its name and its place in its container.",
      "Auto-onboarding does not take it back: pair it by hand if it is to return.",
      "Its history stays.",
    ],
    label: "Unpair",
    work: async () => {
      await api.delete(`/api/v1/espcam/paired/${encodeURIComponent(camera.mac)}`);
      toast(`${camera.name} was unpaired`);
      cameras.refresh();
      go("#/cameras");
    },
  });

/** Let new hardware take over everything that a camera has. */
export function replace({ api, cameras, go }, camera) {
  const strangers = cameras.all.filter((one) => !one.registered);
  const mac = h("input", {
    name: "mac",
    required: true,
    placeholder: "24:6F:28:00:00:00",
    list: "strangers",
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    class: "mono",
    maxlength: 24,
  });
  return dialog({
    title: `Replace ${camera.name}`,
    kind: "narrow",
    body: [
      h(
        "p",
        {},
        "The new camera takes over name, container, position and history. The old one is not let in again by itself.",
      ),
      field(
        "MAC of the new camera",
        mac,
        strangers.length ? "Cameras that are here and not registered are offered." : "",
      ),
      h(
        "datalist",
        { id: "strangers" },
        strangers.map((one) => h("option", { value: one.mac }, one.name)),
      ),
    ],
    submit: {
      label: "Replace",
      work: async () => {
        await api.post("/api/v1/espcam/replace", { old_mac: camera.mac, new_mac: mac.value.trim() });
        toast(`${camera.name} has new hardware`);
        await cameras.refresh();
        go("#/cameras");
      },
    },
  });
}

/** Tell a camera to do something else, and say what it answered. */
export async function command({ api }, camera, body, done) {
  try {
    const { answer } = await api.post(cameraPath(camera, "/commands"), body, { timeout: CAPTURE_MS });
    const said = Object.entries(answer ?? {})
      .filter(([name, value]) => typeof value !== "object" && !FORMALITIES.has(name))
      .map(([name, value]) => `${name} ${value}`);
    toast(done, { detail: said.slice(0, 8).join(" · ") });
  } catch (error) {
    toastError(error, camera.name);
  }
}

/** A time in full with its age. */
export const when = (at) => (at ? h("span", {}, moment(at), " (", age(at), ")") : "");
