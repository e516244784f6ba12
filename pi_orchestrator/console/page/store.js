// All cameras: loaded once, updated by events, published to views at most once per frame.

import { eachFrame } from "./dom.js";
import { quality } from "./format.js";

const REFRESH_MS = 30000;
const MAX_SINGLE_LOADS = 8;
const DELAY_MS = 250;
const FULL_LOAD_PAUSE_MS = 2500;
const ID_CONFLICTS = ["device.id_conflict", "device.id_conflict_resolved"];

/** Registered cameras and unregistered cameras that are present, by MAC. Event `change`: `all` has changed. */
export class Cameras extends EventTarget {
  error = null;
  loaded = false;
  #api;
  #byMac = new Map();
  #labels = new Map();
  #dirty = new Set();
  #allDirty = false;
  #timer = 0;
  #loading = null;
  #next = null;
  #patches = new Set();
  #publish = eachFrame(() => this.dispatchEvent(new Event("change")));

  constructor({ api, stream }) {
    super();
    this.#api = api;
    stream.addEventListener("resync", () => this.refresh());
    api.addEventListener("key", () => this.refresh());
    const reload = ({ mac }) => this.touch(mac);
    for (const kind of ["renamed", "captured", "remedy", "reboot", "onboarding_failed"]) stream.on(`camera.${kind}`, reload);
    stream.on("camera.status_changed", ({ mac, status }) => this.patch(mac, { status }) || reload({ mac }));
    const changes = ["onboarded", "registered", "paired", "unassigned", "removed", "replaced"];
    const fullLoadTypes = changes.map((change) => `camera.${change}`);
    for (const type of [...fullLoadTypes, ...ID_CONFLICTS, "container.created", "container.updated", "container.deleted"])
      stream.on(type, () => this.#scheduleReload({ all: true }));
    setInterval(() => document.hidden || stream.state !== "open" || this.refresh(), REFRESH_MS);
  }

  /** Every camera. */
  get all() {
    return [...this.#byMac.values()];
  }

  /** A container's label, else its id. */
  label(container) {
    return this.#labels.get(container) || container;
  }

  /** A camera by MAC or id; undefined if not found. */
  find(id) {
    return this.#byMac.get(id) ?? this.all.find((camera) => camera.id === id);
  }

  /**
   * Load all cameras. Calls during a load share a second load that follows it, because the first answer may be older
   * than the change that caused the call. Prompt for a missing key only with `promptForKey`.
   */
  refresh({ promptForKey = false } = {}) {
    if (this.#loading) {
      this.#next ??= { promptForKey: false, done: this.#loading.then(() => this.#loadNext()) };
      this.#next.promptForKey ||= promptForKey;
      return this.#next.done;
    }
    this.#loading = this.#load({ background: !promptForKey }).finally(() => (this.#loading = null));
    return this.#loading;
  }

  #loadNext() {
    const { promptForKey } = this.#next;
    this.#next = null;
    return this.refresh({ promptForKey });
  }

  /** Load a camera again soon; many touched cameras are loaded together and less often. */
  touch(mac) {
    this.#dirty.add(mac);
    this.#scheduleReload();
  }

  /** Change fields of a camera; false if the camera is not loaded. */
  patch(mac, fields) {
    for (const patched of this.#patches) patched.set(mac, { ...patched.get(mac), ...fields });
    const camera = this.#byMac.get(mac);
    if (!camera) return false;
    this.#byMac.set(mac, { ...camera, ...fields });
    this.#publish();
    return true;
  }

  #scheduleReload({ all = false } = {}) {
    this.#allDirty ||= all;
    this.#timer ||= setTimeout(() => this.#loadDirty(), DELAY_MS);
  }

  async #loadDirty() {
    const macs = [...this.#dirty];
    const all = this.#allDirty || macs.length > MAX_SINGLE_LOADS;
    this.#dirty.clear();
    this.#allDirty = false;
    if (!all) await this.#loading; // an older answer must not overwrite a newer answer
    await (all ? this.refresh() : Promise.all(macs.map((mac) => this.#loadCamera(mac))));
    await new Promise((done) => setTimeout(done, all ? FULL_LOAD_PAUSE_MS : 0));
    this.#timer = 0;
    if (this.#allDirty || this.#dirty.size) this.#scheduleReload();
  }

  async #loadCamera(mac) {
    const patched = this.#collectPatches();
    try {
      const answer = await this.#api.get(`/api/v1/cameras/${encodeURIComponent(mac)}`, { background: true });
      const known = this.#byMac.get(answer.mac_address);
      this.#byMac.set(answer.mac_address, {
        ...known,
        ...merged(answer, null),
        ...patched.get(answer.mac_address),
        paired_at: known?.paired_at ?? "",
        registered: known?.registered || Boolean(answer.container_id),
      });
    } catch (error) {
      if (error.code === "CAMERA_NOT_FOUND") this.#byMac.delete(mac);
    }
    this.#patches.delete(patched);
    this.#publish();
  }

  /** Collect all patches from now on, by MAC: an answer in transit may be older than these patches. */
  #collectPatches() {
    const patched = new Map();
    this.#patches.add(patched);
    return patched;
  }

  async #load(options) {
    const patched = this.#collectPatches();
    try {
      const [live, paired, unassigned] = await Promise.all([
        this.#api.get("/api/v1/cameras/diagnostics", options),
        this.#api.get("/api/v1/espcam/paired", options),
        this.#api.get("/api/v1/cameras/unassigned", options),
      ]);
      const rows = [...unassigned.cameras, ...paired.cameras];
      const registered = new Map(rows.map((row) => [row.mac_address, row]));
      const seen = live.map((camera) => [camera.mac_address, merged(camera, registered.get(camera.mac_address))]);
      const notSeen = [
        ...unassigned.cameras.map((camera) => [camera.mac_address, merged(camera, camera)]),
        ...paired.cameras.map((camera) => [camera.mac_address, fromPaired(camera)]),
      ];
      this.#byMac = new Map([...notSeen, ...seen].map(([mac, camera]) => [mac, { ...camera, ...patched.get(mac) }]));
      this.loaded = true;
      this.error = null;
      await this.#loadLabels();
    } catch (error) {
      this.error = error;
    }
    this.#patches.delete(patched);
    this.#publish();
  }

  async #loadLabels() {
    try {
      const { containers } = await this.#api.get("/api/v1/containers", { background: true });
      this.#labels = new Map(containers.map(({ id, label }) => [id, label]));
    } catch {
      // ids are shown instead of labels
    }
  }
}

/** A camera for views, from the live answer and the registered row (null or undefined: none). */
function merged(live, paired) {
  const { health, diagnostics, evidence } = live;
  return {
    mac: live.mac_address,
    id: live.id,
    name: live.name,
    status: live.status,
    ip: live.ip_address,
    container: live.container_id ?? "",
    position: live.position ?? 0,
    firmware: live.firmware_version ?? "",
    rssi: health.wifi_rssi,
    quality: quality(health.wifi_rssi),
    heap: health.free_heap,
    uptime: health.uptime_seconds,
    resolution: health.resolution ?? "",
    seenAt: live.last_seen ?? "",
    pictureAt: (paired?.last_image !== "" && health.last_capture) || "", // a picture that is no longer stored is ignored
    lastError: health.last_error ?? "",
    onboardingFailure: live.onboarding_failure ?? null,
    warnings: live.warnings ?? [],
    registered: Boolean(paired),
    paired_at: paired?.paired_at ?? "",
    ...(diagnostics && { diagnostics }),
    ...(evidence && { evidence, why: live.why ?? "" }),
  };
}

/** A camera for views, from the row of a paired camera that has not been seen since the daemon started. */
function fromPaired(paired) {
  return {
    mac: paired.mac_address,
    id: paired.mac_address,
    name: paired.name ?? paired.mac_address,
    status: paired.status,
    ip: "",
    container: paired.container_id,
    position: paired.position ?? 0,
    firmware: paired.firmware_version,
    rssi: paired.signal_strength,
    quality: quality(paired.signal_strength),
    heap: 0,
    uptime: 0,
    resolution: "",
    seenAt: paired.last_seen,
    pictureAt: "",
    lastError: paired.error_message ?? "",
    registered: true,
    paired_at: paired.paired_at,
  };
}
