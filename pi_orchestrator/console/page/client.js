// Client of the daemon's API: calls, errors, and the API key.

import { sentence, syncClock } from "./format.js";
import { remedyFor } from "./remedies.js";

const TIMEOUT_MS = 15000;
const KEY_ENTRY = "piorch.key";
const COOKIE_ENTRY = "piorch.known";
const COOKIE_MS = 12 * 3600 * 1000;
const KEY_CHECK = "/api/v1/provisioning/allowlist/stats";

/** A failed call: the daemon's code and message, and a remedy. */
class ApiError extends Error {
  constructor({ code, message, details = "", retryable = false, retryAfter = 0, status = 0 }) {
    super(sentence(message) || code);
    Object.assign(this, { code, details, retryable, retryAfter, status, remedy: remedyFor(code, status) });
  }

  /** Whether the daemon does not have this path (an older version, or a feature that is switched off). */
  get isMissing() {
    return this.code === "NOT_FOUND" && this.status === 404;
  }
}

/** Calls the API; `promptForKey(check, error)` shows a dialogue and resolves to {key, keep}, or null if dismissed. */
export class Api extends EventTarget {
  #key = readStorage("sessionStorage", KEY_ENTRY);
  #prompt = null;
  #showPrompt;

  constructor({ promptForKey }) {
    super();
    this.#showPrompt = promptForKey;
  }

  /** Whether this page holds a key. */
  get hasKey() {
    return this.#key !== "";
  }

  /** Whether a call that needs a key may succeed: the page has a key, or the browser still has its cookie. */
  get mayHaveAccess() {
    return this.hasKey || Number(readStorage("localStorage", COOKIE_ENTRY)) > Date.now();
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
   * Return the data without its envelope; with `raw` the Response. Throws ApiError. If a key is missing, prompt for it
   * and repeat the call, unless `background`: automatic updates must not open a dialogue.
   */
  async call(method, path, { background = false, raw = false, ...options } = {}) {
    let response = await this.#send(method, path, options);
    if (!response.ok) {
      const error = await responseError(response);
      if (background || !needsKey(error) || !(await this.requestKey(error))) throw error;
      response = await this.#send(method, path, options);
      if (!response.ok) throw await responseError(response);
    }
    return raw ? response : responseData(response);
  }

  /** Prompt for a key; true if a key was entered. Concurrent callers share the same dialogue. */
  async requestKey(error) {
    this.#prompt ??= this.#showPrompt((key) => this.#checkKey(key), error).finally(() => (this.#prompt = null));
    const entered = await this.#prompt;
    if (entered) this.#setKey(entered);
    return entered !== null;
  }

  /** Forget the key; the browser's cookie stays until it expires. */
  forgetKey() {
    this.#setKey({ key: "", keep: false });
  }

  #setKey({ key, keep }) {
    if (key === this.#key) return;
    this.#key = key;
    writeStorage("sessionStorage", KEY_ENTRY, keep ? key : "");
    writeStorage("localStorage", COOKIE_ENTRY, key ? String(Date.now() + COOKIE_MS) : "");
    this.dispatchEvent(new Event("key"));
  }

  async #checkKey(key) {
    const response = await this.#send("GET", KEY_CHECK, { key });
    if (response.ok) {
      await response.text(); // an unread response blocks its connection, and a browser has only six
      return null;
    }
    const error = await responseError(response);
    return error.status === 403 ? null : error; // the key is valid, but its scope does not include this path
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
      throw networkError(cause);
    }
  }
}

function networkError(cause) {
  if (cause.name === "TimeoutError") {
    return new ApiError({ code: "TIMEOUT", message: "The daemon did not answer in time", retryable: true });
  }
  if (cause.name === "AbortError") return new ApiError({ code: "CANCELLED", message: "Cancelled" });
  return new ApiError({ code: "OFFLINE", message: "The daemon is unreachable", retryable: true });
}

async function responseError(response) {
  const { status } = response;
  try {
    const { error } = await response.json();
    return new ApiError({ ...error, retryAfter: error.retry_after_seconds ?? 0, status });
  } catch {
    const message = `Unexpected response with status ${status}, not from the daemon`;
    return new ApiError({ code: "BAD_ANSWER", message, status });
  }
}

async function responseData(response) {
  if (response.status === 204) return null;
  try {
    const answer = await response.json();
    if (answer?.timestamp && "data" in answer) syncClock(answer.timestamp);
    return answer !== null && typeof answer === "object" && "data" in answer ? answer.data : answer;
  } catch (cause) {
    if (cause.name === "TimeoutError" || cause.name === "AbortError") throw networkError(cause);
    throw new ApiError({ code: "BAD_ANSWER", message: "The response is not JSON", status: response.status });
  }
}

/** Whether entering a key can help: the current key is missing, wrong, or its scope is too narrow. */
function needsKey(error) {
  return error.status === 401 || (error.code === "FORBIDDEN" && /\bkey\b/.test(error.message));
}

function readStorage(storage, name) {
  try {
    return window[storage].getItem(name) ?? "";
  } catch {
    return ""; // storage is disabled
  }
}

function writeStorage(storage, name, text) {
  try {
    if (text) window[storage].setItem(name, text);
    else window[storage].removeItem(name);
  } catch {
    // storage is disabled: the value lasts until the page is closed
  }
}
