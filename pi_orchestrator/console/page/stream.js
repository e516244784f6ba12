// The event stream of the whole page. It reconnects automatically and publishes its state.

const FAMILIES = [
  "camera.*",
  "container.*",
  "device.*",
  "onboarding.*",
  "scan.*",
  "session.*",
  "network.*",
  "allowlist.*",
  "config.*",
  "error",
];
const TIMEOUT_MS = 45000; // three heartbeats
const MIN_WAIT_MS = 1000;
const MAX_WAIT_MS = 30000;

/**
 * `on(type, listener)` subscribes to a type of event. `state` is `connecting`, `open`, `waiting` (until `retryAt`) or
 * `locked` (a key is needed). Own events: `state`, and `resync` when views must load their data again.
 */
export class Stream extends EventTarget {
  state = "connecting";
  retryAt = 0;
  #api;
  #source = null;
  #listeners = new Map();
  #extraTypes = new Map();
  #lastId = "";
  #failures = 0;
  #timer = 0;
  #timeout = 0;

  constructor({ api }) {
    super();
    this.#api = api;
    api.addEventListener("key", () => this.reopen());
    addEventListener("online", () => this.reopen());
    document.addEventListener("visibilitychange", () => document.hidden || this.state !== "waiting" || this.reopen());
  }

  /** Subscribe `listener(payload, envelope)` to a type of event; returns a function that unsubscribes. */
  on(type, listener) {
    if (!this.#listeners.has(type)) {
      this.#listeners.set(type, new Set());
      if (type !== "error") this.#source?.addEventListener(type, this.#receive);
    }
    this.#listeners.get(type).add(listener);
    return () => this.#listeners.get(type).delete(listener);
  }

  /** Request a type that is not sent by default (`log`); returns a function that releases it. */
  addType(type) {
    this.#extraTypes.set(type, (this.#extraTypes.get(type) ?? 0) + 1);
    if (this.#extraTypes.get(type) === 1 && this.#source) this.reopen();
    return () => {
      this.#extraTypes.set(type, this.#extraTypes.get(type) - 1);
      if (this.#extraTypes.get(type) === 0) {
        this.#extraTypes.delete(type);
        this.reopen();
      }
    };
  }

  /** Connect now, without waiting for the next retry. */
  reopen() {
    this.#close();
    this.#setState(this.#failures ? "waiting" : "connecting", 0);
    const source = (this.#source = new EventSource(this.#url));
    for (const type of this.#listeners.keys()) if (type !== "error") source.addEventListener(type, this.#receive);
    source.addEventListener("connection.established", this.#onEstablished);
    source.addEventListener("connection.heartbeat", this.#resetTimeout);
    source.addEventListener("error", (event) => {
      // The daemon has an event named "error"; the browser's own connection error has no data.
      if (event.data !== undefined) this.#receive(event);
      else if (source === this.#source) this.#fail();
    });
    this.#resetTimeout();
  }

  get #url() {
    const types = [...FAMILIES, ...this.#extraTypes.keys()].join(",");
    return `/api/v1/events?types=${types}${this.#lastId && `&last_event_id=${this.#lastId}`}`;
  }

  #onEstablished = (event) => {
    this.#failures = 0;
    this.#resetTimeout();
    this.#setState("open", 0);
    // Without an id, start at the newest stored event; with an id, the missed events follow now.
    this.#lastId ||= String(JSON.parse(event.data).payload.last_event_id ?? "");
    this.dispatchEvent(new Event("resync"));
  };

  #receive = (event) => {
    this.#resetTimeout();
    if (event.lastEventId) this.#lastId = event.lastEventId;
    const envelope = JSON.parse(event.data);
    for (const listener of this.#listeners.get(event.type) ?? []) listener(envelope.payload ?? {}, envelope);
  };

  #resetTimeout = () => {
    clearTimeout(this.#timeout);
    this.#timeout = setTimeout(() => this.#fail(), TIMEOUT_MS);
  };

  async #fail() {
    this.#close();
    this.#failures += 1;
    const wait = Math.min(MAX_WAIT_MS, MIN_WAIT_MS * 2 ** (this.#failures - 1)) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.reopen(), wait);
    this.#setState("waiting", Date.now() + wait);
    if ((await this.#isLocked()) && !this.#source) {
      this.#close();
      this.#setState("locked", 0);
    }
  }

  /** Whether the stream needs a key; EventSource does not report the status. */
  async #isLocked() {
    try {
      await this.#api.call("HEAD", this.#url, { background: true, raw: true });
      return false;
    } catch (error) {
      return error.status === 401;
    }
  }

  #close() {
    clearTimeout(this.#timer);
    clearTimeout(this.#timeout);
    this.#source?.close();
    this.#source = null;
  }

  #setState(state, retryAt) {
    this.state = state;
    this.retryAt = retryAt;
    this.dispatchEvent(new Event("state"));
  }
}
