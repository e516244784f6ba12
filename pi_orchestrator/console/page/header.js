// The header of every view: health, connection, theme, API key, and the warning in development mode.

import { fill, h, set, setText } from "./dom.js";
import { duration, now } from "./format.js";
import { icon } from "./icons.js";
import { remedyFor } from "./remedies.js";
import { button, dialog, state, toast } from "./ui.js";

const HEALTH_MS = 15000;
const MAX_EVENT_AGE_MS = 30000;
const THEMES = { auto: ["auto", "contrast"], light: ["light", "sun"], dark: ["dark", "moon"] };

/** Build the header → {title(text), tools}: `title` sets the heading, `tools` are buttons for the navigation. */
export function header({ api, stream, cameras }) {
  const heading = h("h1");
  fill(
    document.getElementById("top"),
    heading,
    h("div", { class: "pills" }, healthPill(api, stream), connectionPill(api, stream)),
  );
  showDevModeBanner(api, stream);
  offerReloadOnUpdate(api, stream);
  notifyReboots(stream, cameras);
  return { title: (text) => setText(heading, text), tools: h("div", { class: "tools" }, keyButton(api), themeButton()) };
}

function healthPill(api, stream) {
  const badge = state("starting", "Health");
  const pill = h(
    "button",
    { type: "button", class: "pill", "aria-label": "Health of the daemon", onclick: showHealth },
    badge,
  );
  const refresh = async () => {
    if (document.hidden) return;
    const health = stream.state === "waiting" ? null : await readiness();
    pill.hidden = !health; // the health of an unreachable daemon is unknown
    if (!health) return;
    if (!health.ready) badge.show("not_ready", "Not ready");
    else if (health.errors.length)
      badge.show("degraded", health.errors.length === 1 ? "1 warning" : `${health.errors.length} warnings`);
    else badge.show("ready", "Healthy");
    set(pill, "aria-label", `Health of the daemon: ${badge.textContent}`);
    set(pill, "title", health.errors.join("\n") || null);
  };
  setInterval(refresh, HEALTH_MS);
  stream.addEventListener("state", refresh);
  document.addEventListener("visibilitychange", refresh);
  refresh();
  return pill;
}

/** {ready, checks, errors} from /readyz, also with status 503; null if there is no answer. */
async function readiness() {
  try {
    const response = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    const health = await response.json();
    return Array.isArray(health.errors) ? health : null;
  } catch {
    return null;
  }
}

async function showHealth() {
  const health = await readiness();
  if (!health) return;
  const reasons = new Map(health.errors.map((line) => [line.split(": ")[0], line.slice(line.indexOf(": ") + 2)]));
  const rows = Object.entries(health.checks).map(([name, passed]) =>
    h(
      "li",
      {},
      state(passed ? "ok" : health.ready ? "warning" : "failed", name === "mqtt" ? "MQTT" : name),
      reasons.has(name) && h("p", {}, reasons.get(name)),
    ),
  );
  await dialog({
    title: health.ready
      ? health.errors.length
        ? "Ready, with warnings"
        : "All checks passed"
      : "The daemon is not ready",
    body: h("ul", { class: "checks" }, rows),
    dismiss: "Close",
  });
}

function connectionPill(api, stream) {
  const badge = state("connecting", "Connecting");
  const pill = h(
    "button",
    { type: "button", class: "pill", onclick: () => (stream.state === "locked" ? api.requestKey() : stream.reopen()) },
    badge,
  );
  const labels = {
    connecting: () => ["connecting", "Connecting"],
    open: () => ["connected", "Live"],
    locked: () => ["failed", "Key needed"],
    waiting: () => [
      "warning",
      stream.retryAt ? `Offline, retry in ${duration((stream.retryAt - Date.now()) / 1000)}` : "Offline, connecting",
    ],
  };
  let wasOpen = true;
  const show = () => {
    const open = stream.state === "open";
    badge.show(...labels[stream.state]());
    set(pill, "disabled", open || stream.state === "connecting");
    set(pill, "title", open ? "This page is updated live" : "Connect now");
    if (stream.state === "waiting" && wasOpen)
      toast("Connection lost", {
        tone: "warn",
        detail: "The data shown may be out of date. The page reconnects automatically.",
      });
    if (open && !wasOpen) toast("Reconnected");
    if (open || stream.state === "waiting") wasOpen = open;
  };
  stream.addEventListener("state", show);
  setInterval(() => stream.state === "waiting" && show(), 1000);
  return pill;
}

function keyButton(api) {
  const node = button("", { symbol: "key", kind: "quiet", onclick: () => (api.hasKey ? forget() : api.requestKey()) });
  const forget = () => {
    api.forgetKey();
    toast("API key removed", { detail: "This browser keeps read access for up to 12 hours." });
  };
  const show = () => node.label(api.hasKey ? "Forget API key" : "Enter API key");
  api.addEventListener("key", show);
  show();
  return node;
}

function themeButton() {
  const root = document.documentElement;
  const node = h("button", { type: "button", class: "button quiet", onclick: () => choose(next()) });
  const next = () => Object.keys(THEMES)[(Object.keys(THEMES).indexOf(root.dataset.theme) + 1) % 3];
  const choose = (theme) => {
    root.dataset.theme = theme;
    try {
      localStorage.setItem("piorch.theme", theme);
    } catch {
      // storage is disabled: the choice lasts until the page is closed
    }
    show();
  };
  const show = () => {
    const [label, symbol] = THEMES[root.dataset.theme] ?? THEMES.auto;
    fill(node, icon(symbol), h("span", { class: "label" }, `Theme: ${label}`));
  };
  show();
  return node;
}

/** Show a banner while development mode onboards cameras without confirmation. */
function showDevModeBanner(api, stream) {
  const place = document.getElementById("banners");
  const refresh = async () => {
    try {
      const { mode, enabled } = await api.get("/api/v1/onboarding/auto/status", { background: true });
      if (mode !== "dev" || !enabled) fill(place);
      else if (!place.childElementCount) fill(place, banner());
    } catch {
      // requested again after the next reconnection
    }
  };
  for (const kind of ["enabled", "disabled"]) stream.on(`onboarding.${kind}`, refresh);
  stream.addEventListener("resync", refresh);
}

function banner() {
  return h(
    "p",
    { class: "banner" },
    icon("alert"),
    h("span", {}, h("strong", {}, "Development mode. "), "Cameras are onboarded automatically."),
    h("a", { href: "#/onboarding" }, "Kill switch"),
  );
}

/** Offer a reload when the daemon's version has changed. */
function offerReloadOnUpdate(api, stream) {
  let loadedVersion = "";
  stream.addEventListener("resync", async () => {
    try {
      const { version } = await api.get("/version", { background: true });
      if (loadedVersion && version !== loadedVersion)
        toast(`The daemon is now version ${version}`, {
          tone: "info",
          action: { label: "Reload", onclick: () => location.reload() },
        });
      loadedVersion = version;
    } catch {
      // requested again after the next reconnection
    }
  });
}

/** Notify of the result of each reboot in every view; old events replayed after a reconnection are ignored. */
function notifyReboots(stream, cameras) {
  stream.on("camera.reboot", ({ mac, state: ending }, { timestamp }) => {
    if (now() - Date.parse(timestamp) > MAX_EVENT_AGE_MS) return;
    const name = cameras.find(mac)?.name ?? mac;
    if (ending === "back") toast(`${name} is online again`);
    if (ending === "failed")
      toast(`${name} did not come back after its reboot`, { tone: "bad", detail: remedyFor("REBOOT_FAILED") });
  });
}
