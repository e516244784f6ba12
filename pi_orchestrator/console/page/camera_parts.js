// Shared by the card and the page of a camera: picture, signal, evidence, actions.

import { fill, h, keyed, set, setText } from "./dom.js";
import { clock, dbm, moment, now, sentence } from "./format.js";
import { icon, signalBars } from "./icons.js";
import { advice, age, confirm, dialog, field, toast, toastError } from "./ui.js";

const CAPTURE_MS = 40000;
const HEADER_FIELDS = new Set(["device_id", "action", "request_id", "timestamp", "status", "success"]);
const EVIDENCE_LABELS = {
  arp: "answered ARP",
  neighbour: "in the kernel's neighbour table",
  station: "connected to the access point",
  mqtt: "sent an MQTT message",
  probe: "answered HTTP",
  record: "present before the restart",
  lease: "has a DHCP lease",
  mdns: "announced by mDNS",
};

/** The text for a source of evidence. */
export const evidenceLabel = (source) => EVIDENCE_LABELS[source] ?? "last seen";

/** An API path below a camera. */
const cameraPath = (camera, rest = "") => `/api/v1/cameras/${encodeURIComponent(camera.mac)}${rest}`;

/** The address of a camera's page. */
export const cameraLink = (camera) => `#/cameras/${encodeURIComponent(camera.mac)}`;

/** A camera's container and position as text. */
export const locationText = (camera, cameras) =>
  camera.container ? `${cameras.label(camera.container)} · position ${camera.position || "?"}` : "No container";

/** The last picture with its age, or a placeholder if it cannot be loaded; `.show(camera)`. */
export function picture() {
  const image = h("img", { alt: "", decoding: "async", loading: "lazy", hidden: true });
  const placeholder = h("div", { class: "none" }, icon("camera"), h("span", {}, "No picture yet"));
  const taken = age("");
  const caption = h(
    "span",
    { class: "taken", hidden: true },
    icon("clock"),
    h("span", { class: "sr" }, "Taken "),
    taken,
  );
  let shownAt = "";
  const draw = (isLoaded) => {
    image.hidden = caption.hidden = !isLoaded;
    placeholder.hidden = isLoaded;
  };
  image.addEventListener("load", () => draw(true));
  image.addEventListener("error", () => draw(false));
  const show = (camera) => {
    set(image, "alt", `Last picture of ${camera.name}`);
    if (!camera.pictureAt || camera.pictureAt === shownAt) return;
    shownAt = camera.pictureAt;
    taken.show(shownAt);
    image.hidden = false; // browsers do not request a lazy image that is hidden
    image.src = cameraPath(camera, `/image?t=${encodeURIComponent(shownAt)}`);
  };
  return Object.assign(h("div", { class: "picture" }, image, placeholder, caption), { show });
}

/** Signal as bars, quality and dBm; `.show(camera)`. */
export function signal() {
  const bars = signalBars();
  const text = h("span");
  const node = h("span", { class: "signal" }, bars.node, text);
  const show = ({ quality, rssi }) => {
    bars.show(quality);
    set(node, "data-tone", { poor: "bad", fair: "warn", unknown: "off" }[quality] ?? "ok");
    setText(text, rssi ? `${sentence(quality)}, ${dbm(rssi)}` : "Signal unknown");
  };
  return Object.assign(node, { show });
}

/** The newest evidence that a camera is present, at most `limit` entries; `.show(camera)`. */
export function evidenceList(limit = 2) {
  const node = h("ul", { class: "evidence", "aria-label": "Evidence" });
  const show = (camera) => {
    const proofs = (camera.evidence ?? []).filter((entry) => entry.proves_life);
    const current = proofs.filter((entry) => entry.source !== "record" || proofs.length === 1).slice(0, limit);
    const entries = current.length ? current : [{ source: "seen", last_seen: camera.seenAt }];
    keyed(
      node,
      entries,
      (entry) => entry.source,
      ({ source, last_seen: at }) => {
        const seen = age(at);
        return { node: h("li", {}, evidenceLabel(source), " ", seen), update: (entry) => seen.show(entry.last_seen) };
      },
    );
  };
  return Object.assign(node, { show });
}

/** A camera's problem as {text, advice}, or null. */
export function problemOf({ lastError, diagnostics, status, onboardingFailure, warnings }) {
  if (warnings?.length) return { text: warnings[0], advice: [...warnings.slice(1), lastError].filter(Boolean).join(". ") };
  const { remedy, unreadable } = diagnostics ?? {};
  if (unreadable) return { text: `it ${unreadable}`, advice: "Correct its firmware." };
  if (remedy && remedy.state !== "ok")
    return { text: lastError || remedy.state.replaceAll("_", " "), advice: remedy.advice ?? "" };
  if (!lastError || status === "offline") return null;
  return { text: lastError, advice: onboardingFailure ? onboardingAdvice(onboardingFailure) : "" };
}

/** What to do about a failed onboarding, and when the next attempt comes. */
export function onboardingAdvice({ failures, remedy, next_attempt_at: next }) {
  const attempt = Date.parse(next) > now() ? `at ${clock(next)}` : "with the camera's next message";
  return `Attempts failed: ${failures}. Next attempt ${attempt}. ${sentence(remedy)}`;
}

/** A note with a camera's problem, hidden if there is none; `.show(camera)`. */
export function problemNote() {
  const [text, adviceText] = [h("strong"), h("span")];
  const node = h("p", { class: "note", "data-tone": "warn", hidden: true }, text, adviceText);
  const show = (camera) => {
    const problem = problemOf(camera);
    node.hidden = !problem;
    setText(text, sentence(problem?.text));
    setText(adviceText, problem?.advice && `. ${problem.advice}`);
  };
  return Object.assign(node, { show });
}

/** Take a picture; the button shows the elapsed time, `note(error or null)` the failure. */
export async function capture({ api, cameras }, camera, captureButton, note) {
  const began = Date.now();
  const timer = setInterval(() => captureButton.label(`Capturing, ${Math.round((Date.now() - began) / 1000)} s`), 1000);
  note(null);
  captureButton.label("Capturing");
  try {
    const answer = await api.post(cameraPath(camera, "/capture"), undefined, { raw: true, timeout: CAPTURE_MS });
    const at = answer.headers.get("X-Capture-Time") ?? new Date().toISOString();
    await answer.arrayBuffer();
    cameras.patch(camera.mac, { pictureAt: at });
  } catch (error) {
    note(error);
  } finally {
    clearInterval(timer);
    captureButton.label("Capture");
  }
}

/** A note with the error of a failed capture and its remedy; `.note(error or null)`. */
export function captureErrorNote() {
  const node = h("p", { class: "note", "data-tone": "bad", role: "status" });
  const note = (error) => {
    if (!error || error.code === "CANCELLED") fill(node);
    else if (error.code === "OFFLINE")
      toastError(error); // not specific to this camera
    else fill(node, h("strong", {}, error.message), ". ", advice(error));
  };
  return Object.assign(node, { note });
}

/** Reboot a camera after a confirmation. */
export const reboot = ({ api, cameras }, camera) =>
  confirm({
    title: `Reboot ${camera.name}?`,
    consequences: [
      "It is offline for about 30 seconds.",
      "A capture in progress is lost.",
      "Its name, container, position and settings are kept.",
    ],
    label: "Reboot",
    danger: false,
    work: async () => {
      await api.post(cameraPath(camera, "/reboot"), undefined, { timeout: CAPTURE_MS });
      cameras.patch(camera.mac, { status: "rebooting" });
      toast(`${camera.name} is rebooting`, { tone: "info", detail: "It is shown as online once it responds again." });
    },
  });

/** Rename a camera. */
export function rename({ api, cameras }, camera) {
  const name = h("input", { name: "name", value: camera.name, maxlength: 64, autocomplete: "off", autofocus: true });
  return dialog({
    title: "Rename camera",
    kind: "narrow",
    body: field("Name", name, "Up to 64 characters. Leave empty to use the camera's ID."),
    submit: {
      label: "Save",
      work: async () => {
        await api.patch(cameraPath(camera), { name: name.value.trim() });
        cameras.touch(camera.mac);
      },
    },
  });
}

/** Unpair a camera after a confirmation; auto-onboarding does not onboard it again. */
export const unpair = ({ api, cameras, go }, camera) =>
  confirm({
    title: `Unpair ${camera.name}?`,
    consequences: [
      "Its name, container and position are removed.",
      "Auto-onboarding does not onboard it again. To bring it back, pair it manually.",
      "Its history is kept.",
    ],
    label: "Unpair",
    work: async () => {
      await api.delete(`/api/v1/espcam/paired/${encodeURIComponent(camera.mac)}`);
      toast(`${camera.name} was unpaired`);
      cameras.refresh();
      go("#/cameras");
    },
  });

/** Replace a camera's hardware; name, container, position and history are kept. */
export function replace({ api, cameras, go }, camera) {
  const unregistered = cameras.all.filter((known) => !known.registered);
  const mac = h("input", {
    name: "mac",
    required: true,
    placeholder: "24:6F:28:00:00:00",
    list: "unregistered",
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
        "The new camera takes over name, container, position and history. Auto-onboarding does not onboard the old camera again.",
      ),
      field(
        "MAC of the new camera",
        mac,
        unregistered.length ? "Unregistered cameras on the network are suggested." : "",
      ),
      h(
        "datalist",
        { id: "unregistered" },
        unregistered.map((known) => h("option", { value: known.mac }, known.name)),
      ),
    ],
    submit: {
      label: "Replace",
      work: async () => {
        await api.post("/api/v1/espcam/replace", { old_mac: camera.mac, new_mac: mac.value.trim() });
        toast(`${camera.name} was replaced`);
        await cameras.refresh();
        go("#/cameras");
      },
    },
  });
}

/** Send a command to a camera and show its answer under the title `done`. */
export async function sendCommand({ api }, camera, body, done) {
  try {
    const { answer } = await api.post(cameraPath(camera, "/commands"), body, { timeout: CAPTURE_MS });
    const details = Object.entries(answer ?? {})
      .filter(([name, value]) => typeof value !== "object" && !HEADER_FIELDS.has(name))
      .map(([name, value]) => `${name} ${value}`);
    toast(done, { detail: details.slice(0, 8).join(" · ") });
  } catch (error) {
    toastError(error, camera.name);
  }
}

/** A full date and time with its age. */
export const timeWithAge = (at) => (at ? h("span", {}, moment(at), " (", age(at), ")") : "");
