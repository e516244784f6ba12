// The daemon's API: one way to ask, one kind of error, and a key that is asked for when it is needed.

import { hearClock, sentence } from "./format.js";
import { remedyFor } from "./remedies.js";

const TIMEOUT_MS = 15000;
const KEPT = "piorch.key";
const KNOWN = "piorch.known";
const COOKIE_MS = 12 * 3600 * 1000;
const KEY_CHECK = "/api/v1/provisioning/allowlist/stats";

/** What went wrong, in the daemon's words, and what to do about it. */
class ApiError extends Error {
  constructor({ code, message, details = "", retryable = false, retryAfter = 0, status = 0 }) {
    super(sentence(message) || code);
    Object.assign(this, { code, details, retryable, retryAfter, status, remedy: remedyFor(code, status) });
  }

  /** Whether the daemon does not have this (an older one, or a part that is switched off). */
  get absent() {
    return this.code === "NOT_FOUND" && this.status === 404;
  }
}

/** Asks the daemon; `askForKey(check, error)` shows a dialogue and resolves to whether there is a key now. */
export class Api extends EventTarget {
  #key = kept("sessionStorage", KEPT);
  #asking = null;
  #askForKey;

  constructor({ askForKey }) {
    super();
    this.#askForKey = askForKey;
  }

  /** Whether this page holds a key. */
  get hasKey() {
    return this.#key !== "";
  }

  /** Whether a call that needs a key may succeed: there is one, or the browser still has the cookie of one. */
  get mayBeKnown() {
    return this.hasKey || Number(kept("localStorage", KNOWN)) > Date.now();
  }

  get(path, options) {
    return this.call("GET", path, options);
  }

  post(path, body, options) {
    return this.call("POST", path, { body, ...options });
  }

  put(path, body, options) {
    return this.call("PUT", path, { body, ...options });
  }

  patch(path, body, options) {
    return this.call("PATCH", path, { body, ...options });
  }

  delete(path, options) {
    return this.call("DELETE", path, options);
  }

  /**
   * Data without its envelope; with `raw` the Response. Raises ApiError. Where a key is missing it is asked for and
   * the call repeated, unless `background`: a page that looks after itself must not put a dialogue before people.
   */
  async call(method, path, { background = false, raw = false, ...options } = {}) {
    let response = await this.#send(method, path, options);
    if (!response.ok) {
      const error = await errorOf(response);
      if (background || !needsKey(error) || !(await this.needKey(error))) throw error;
      response = await this.#send(method, path, options);
      if (!response.ok) throw await errorOf(response);
    }
    return raw ? response : dataOf(response);
  }

  /** Let people enter a key; true when there is one. Whoever needs one meanwhile waits for the same dialogue. */
  async needKey(error) {
    this.#asking ??= this.#askForKey((key) => this.#accepts(key), error).finally(() => (this.#asking = null));
    const given = await this.#asking;
    if (given) this.#take(given);
    return given !== null;
  }

  /** Forget the key; the browser's cookie stays until it expires. */
  forgetKey() {
    this.#take({ key: "", keep: false });
  }

  #take({ key, keep }) {
    if (key === this.#key) return;
    this.#key = key;
    store("sessionStorage", KEPT, keep ? key : "");
    store("localStorage", KNOWN, key ? String(Date.now() + COOKIE_MS) : "");
    this.dispatchEvent(new Event("key"));
  }

  async #accepts(key) {
    const response = await this.#send("GET", KEY_CHECK, { key });
    if (response.ok) {
      await response.text(); // an answer that nobody reads keeps its connection, and a browser has six
      return null;
    }
    const error = await errorOf(response);
    return error.status === 403 ? null : error; // a right key, of a scope that does not reach here
  }

  async #send(method, path, { body, key = this.#key, timeout = TIMEOUT_MS, headers, signal } = {}) {
    const limit = AbortSignal.timeout(timeout);
    try {
      return await fetch(path, {
        method,
        credentials: "same-origin",
        cache: "no-store",
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
        headers: {
          ...(key && { "X-API-Key": key }),
          ...(body !== undefined && { "Content-Type": typeof body === "string" ? "text/csv" : "application/json" }),
          ...headers,
        },
        body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
      });
    } catch (cause) {
      throw failure(cause);
    }
  }
}

function failure(cause) {
  if (cause.name === "TimeoutError") {
    return new ApiError({ code: "TIMEOUT", message: "The daemon did not answer in time", retryable: true });
  }
  if (cause.name === "AbortError") return new ApiError({ code: "CANCELLED", message: "Cancelled" });
  return new ApiError({ code: "OFFLINE", message: "The daemon cannot be reached", retryable: true });
}

async function errorOf(response) {
  const { status } = response;
  try {
    const { error } = await response.json();
    return new ApiError({ ...error, retryAfter: error.retry_after_seconds ?? 0, status });
  } catch {
    return new ApiError({ code: "BAD_ANSWER", message: `The answer (${status}) is none of the daemon's`, status });
  }
}

async function dataOf(response) {
  if (response.status === 204) return null;
  try {
    const answer = await response.json();
    if (answer?.timestamp && "data" in answer) hearClock(answer.timestamp);
    return answer !== null && typeof answer === "object" && "data" in answer ? answer.data : answer;
  } catch (cause) {
    if (cause.name === "TimeoutError" || cause.name === "AbortError") throw failure(cause);
    throw new ApiError({ code: "BAD_ANSWER", message: "The answer is not JSON", status: response.status });
  }
}

/** Whether a key would help: the one that is there is missing, wrong, or of too small a scope. */
function needsKey(error) {
  return error.status === 401 || (error.code === "FORBIDDEN" && /\bkey\b/.test(error.message));
}

function kept(storage, name) {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return ""; // storage is switched off
  }
}

function store(storage, name, text) {
  try {
    if (text) window[storage].setItem(name, text);
    else window[storage].removeItem(name);
  } catch {
    // storage is switched off: it lasts as long as the page
  }
}
