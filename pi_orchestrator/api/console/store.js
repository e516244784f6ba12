// All cameras in one place: asked for once, kept current by events, told to views at most once a frame.

import { eachFrame } from "./dom.js";
import { quality } from "./format.js";

const EVERY_MS = 30000;
const SINGLY = 8;
const SOON_MS = 250;
const FLOOD_MS = 2500;

/** Registered cameras and strangers who are here, by MAC; event `change` after something in `all` did. */
export class Cameras extends EventTarget {
  error = null;
  loaded = false;
  #api;
  #byMac = new Map();
  #labels = new Map();
  #dirty = new Set();
  #allDirty = false;
  #timer = 0;
  #refreshing = null;
  #tell = eachFrame(() => this.dispatchEvent(new Event("change")));

  constructor({ api, stream }) {
    super();
    this.#api = api;
    stream.addEventListener("resync", () => this.refresh());
    api.addEventListener("key", () => this.refresh());
    const touched = ({ mac }) => this.touch(mac);
    for (const kind of ["renamed", "captured", "remedy", "reboot"]) stream.on(`camera.${kind}`, touched);
    stream.on("camera.status_changed", ({ mac, status }) => this.patch(mac, { status }) || touched({ mac }));
    const many = ["onboarded", "registered", "paired", "unassigned", "removed", "replaced"].map((kind) => `camera.${kind}`);
    for (const type of [...many, "container.created", "container.updated", "container.deleted"])
      stream.on(type, () => this.#later({ all: true }));
    setInterval(() => document.hidden || stream.state !== "open" || this.refresh(), EVERY_MS);
  }

  /** Every camera. */
  get all() {
    return [...this.#byMac.values()];
  }

  /** What people call a container: its label, else its id. */
  label(container) {
    return this.#labels.get(container) || container;
  }

  /** A camera by MAC or id; undefined where there is none. */
  find(id) {
    return this.#byMac.get(id) ?? this.all.find((camera) => camera.id === id);
  }

  /** Ask for all anew; calls that overlap share one answer. A missing key is asked for with `ask` only. */
  refresh({ ask = false } = {}) {
    this.#refreshing ??= this.#load({ background: !ask }).finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  /** Ask for one camera soon; when many are touched at once, for all of them and less often. */
  touch(mac) {
    this.#dirty.add(mac);
    this.#later();
  }

  /** Change what is known of a camera; false where it is not known. */
  patch(mac, fields) {
    const camera = this.#byMac.get(mac);
    if (!camera) return false;
    this.#byMac.set(mac, { ...camera, ...fields });
    this.#tell();
    return true;
  }

  #later({ all = false } = {}) {
    this.#allDirty ||= all;
    this.#timer ||= setTimeout(() => this.#fetchDirty(), SOON_MS);
  }

  async #fetchDirty() {
    const macs = [...this.#dirty];
    const all = this.#allDirty || macs.length > SINGLY;
    this.#dirty.clear();
    this.#allDirty = false;
    await (all ? this.refresh() : Promise.all(macs.map((mac) => this.#fetchOne(mac))));
    await new Promise((done) => setTimeout(done, all ? FLOOD_MS : 0));
    this.#timer = 0;
    if (this.#allDirty || this.#dirty.size) this.#later();
  }

  async #fetchOne(mac) {
    try {
      const answer = await this.#api.get(`/api/v1/cameras/${encodeURIComponent(mac)}`, { background: true });
      const known = this.#byMac.get(answer.mac_address);
      this.#byMac.set(answer.mac_address, {
        ...known,
        ...merged(answer, null),
        paired_at: known?.paired_at ?? "",
        registered: known?.registered || Boolean(answer.container_id),
      });
    } catch (error) {
      if (error.code === "CAMERA_NOT_FOUND") this.#byMac.delete(mac);
    }
    this.#tell();
  }

  async #load(options) {
    try {
      const [live, paired, idle] = await Promise.all([
        this.#api.get("/api/v1/cameras/diagnostics", options),
        this.#api.get("/api/v1/espcam/paired", options),
        this.#api.get("/api/v1/cameras/unassigned", options),
      ]);
      const registered = new Map([...idle.cameras, ...paired.cameras].map((one) => [one.mac_address, one]));
      const seen = live.map((one) => [one.mac_address, merged(one, registered.get(one.mac_address))]);
      const silent = [
        ...idle.cameras.map((one) => [one.mac_address, merged(one, one)]),
        ...paired.cameras.map((one) => [one.mac_address, ofPaired(one)]),
      ];
      this.#byMac = new Map([...silent, ...seen]);
      this.loaded = true;
      this.error = null;
      await this.#loadLabels();
    } catch (error) {
      this.error = error;
    }
    this.#tell();
  }

  async #loadLabels() {
    try {
      const { containers } = await this.#api.get("/api/v1/containers", { background: true });
      this.#labels = new Map(containers.map(({ id, label }) => [id, label]));
    } catch {
      // ids stand for what cannot be asked
    }
  }
}

/** A camera as views read it, from the live answer and from what is registered (null: not asked). */
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
    pictureAt: (paired?.last_image !== "" && health.last_capture) || "", // one that is no longer kept is none
    trouble: health.last_error ?? "",
    registered: Boolean(paired),
    paired_at: paired?.paired_at ?? "",
    ...(diagnostics && { diagnostics }),
    ...(evidence && { evidence, why: live.why ?? "" }),
  };
}

/** A registered camera that has not been heard since the daemon started. */
function ofPaired(paired) {
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
    trouble: paired.error_message ?? "",
    registered: true,
    paired_at: paired.paired_at,
  };
}
