// One stream of events for the whole page. It comes back by itself, and says what it is doing.

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
const SILENCE_MS = 45000; // three heartbeats
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30000;

/**
 * `on(type, listener)` hears events of a type; `state` is `connecting`, `open`, `waiting` (until `retryAt`) or
 * `locked` (a key is needed). Events of itself: `state`, and `resync` whenever what is shown must be asked for anew.
 */
export class Stream extends EventTarget {
  state = "connecting";
  retryAt = 0;
  #api;
  #source = null;
  #listeners = new Map();
  #extra = new Map();
  #lastId = "";
  #failures = 0;
  #timer = 0;
  #silence = 0;

  constructor({ api }) {
    super();
    this.#api = api;
    api.addEventListener("key", () => this.reopen());
    addEventListener("online", () => this.reopen());
    document.addEventListener("visibilitychange", () => document.hidden || this.state !== "waiting" || this.reopen());
  }

  /** Hear events of a type: `listener(payload, envelope)`; returns what ends it. */
  on(type, listener) {
    if (!this.#listeners.has(type)) {
      this.#listeners.set(type, new Set());
      if (type !== "error") this.#source?.addEventListener(type, this.#hear);
    }
    this.#listeners.get(type).add(listener);
    return () => this.#listeners.get(type).delete(listener);
  }

  /** Ask for a type that is not sent to everybody (`log`), until what is returned is called. */
  want(type) {
    this.#extra.set(type, (this.#extra.get(type) ?? 0) + 1);
    if (this.#extra.get(type) === 1 && this.#source) this.reopen();
    return () => {
      this.#extra.set(type, this.#extra.get(type) - 1);
      if (this.#extra.get(type) === 0) {
        this.#extra.delete(type);
        this.reopen();
      }
    };
  }

  /** Connect now, whatever is being waited for. */
  reopen() {
    this.#close();
    this.#become(this.#failures ? "waiting" : "connecting", 0);
    const source = (this.#source = new EventSource(this.#url));
    for (const type of this.#listeners.keys()) if (type !== "error") source.addEventListener(type, this.#hear);
    source.addEventListener("connection.established", this.#greet);
    source.addEventListener("connection.heartbeat", this.#wake);
    source.addEventListener("error", (event) => {
      // An event of that name exists; what the browser tells of a connection has no data.
      if (event.data !== undefined) this.#hear(event);
      else if (source === this.#source) this.#fail();
    });
    this.#wake();
  }

  get #url() {
    const types = [...FAMILIES, ...this.#extra.keys()].join(",");
    return `/api/v1/events?types=${types}${this.#lastId && `&last_event_id=${this.#lastId}`}`;
  }

  #greet = (event) => {
    this.#failures = 0;
    this.#wake();
    this.#become("open", 0);
    // Without a place in the log, this is where it begins; with one, what was missed comes now.
    this.#lastId ||= String(JSON.parse(event.data).payload.last_event_id ?? "");
    this.dispatchEvent(new Event("resync"));
  };

  #hear = (event) => {
    this.#wake();
    if (event.lastEventId) this.#lastId = event.lastEventId;
    const envelope = JSON.parse(event.data);
    for (const listener of this.#listeners.get(event.type) ?? []) listener(envelope.payload ?? {}, envelope);
  };

  #wake = () => {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#fail(), SILENCE_MS);
  };

  async #fail() {
    this.#close();
    this.#failures += 1;
    const wait = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.#failures - 1)) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.reopen(), wait);
    this.#become("waiting", Date.now() + wait);
    if ((await this.#isLocked()) && !this.#source) {
      this.#close();
      this.#become("locked", 0);
    }
  }

  /** A browser does not say why it was refused, so ask. */
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
    clearTimeout(this.#silence);
    this.#source?.close();
    this.#source = null;
  }

  #become(state, retryAt) {
    this.state = state;
    this.retryAt = retryAt;
    this.dispatchEvent(new Event("state"));
  }
}
