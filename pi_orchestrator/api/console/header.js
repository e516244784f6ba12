// What stands above every view: health and its reasons, this page's connection, theme, key, a warning in dev mode.

import { fill, h, say, set } from "./dom.js";
import { duration, now } from "./format.js";
import { icon } from "./icons.js";
import { remedyFor } from "./remedies.js";
import { button, dialog, state, toast } from "./ui.js";

const HEALTH_MS = 15000;
const LATE_MS = 30000;
const THEMES = { auto: ["auto", "contrast"], light: ["light", "sun"], dark: ["dark", "moon"] };

/** Build the header → {title(text), tools}: what sets its heading, and the buttons that go with the navigation. */
export function header({ api, stream, cameras }) {
  const heading = h("h1");
  fill(
    document.getElementById("top"),
    heading,
    h("div", { class: "pills" }, healthPill(api, stream), connectionPill(api, stream)),
  );
  watchDevMode(api, stream);
  watchVersion(api, stream);
  tellReboots(stream, cameras);
  return { title: (text) => say(heading, text), tools: h("div", { class: "tools" }, keyButton(api), themeButton()) };
}

function healthPill(api, stream) {
  const word = state("starting", "Health");
  const pill = h(
    "button",
    { type: "button", class: "pill", "aria-label": "Health of the daemon", onclick: explain },
    word,
  );
  const look = async () => {
    if (document.hidden) return;
    const health = stream.state === "waiting" ? null : await readiness();
    pill.hidden = !health; // of a daemon that does not answer nothing is known
    if (!health) return;
    if (!health.ready) word.show("not_ready", "Not ready");
    else if (health.errors.length)
      word.show("degraded", health.errors.length === 1 ? "1 warning" : `${health.errors.length} warnings`);
    else word.show("ready", "All well");
    set(pill, "aria-label", `Health of the daemon: ${word.textContent}`);
    set(pill, "title", health.errors.join("\n") || null);
  };
  setInterval(look, HEALTH_MS);
  stream.addEventListener("state", look);
  document.addEventListener("visibilitychange", look);
  look();
  return pill;
}

/** {ready, checks, errors} from /readyz, which answers 503 with the same body; null where nobody answers. */
async function readiness() {
  try {
    const response = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(10000) });
    const health = await response.json();
    return Array.isArray(health.errors) ? health : null;
  } catch {
    return null;
  }
}

async function explain() {
  const health = await readiness();
  if (!health) return;
  const reasons = new Map(health.errors.map((line) => [line.split(": ")[0], line.slice(line.indexOf(": ") + 2)]));
  const rows = Object.entries(health.checks).map(([name, fine]) =>
    h(
      "li",
      {},
      state(fine ? "ok" : health.ready ? "warning" : "failed", name === "mqtt" ? "MQTT" : name),
      reasons.has(name) && h("p", {}, reasons.get(name)),
    ),
  );
  await dialog({
    title: health.ready
      ? health.errors.length
        ? "Working, with warnings"
        : "Everything works"
      : "The daemon is not ready",
    body: h("ul", { class: "checks" }, rows),
    dismiss: "Close",
  });
}

function connectionPill(api, stream) {
  const word = state("connecting", "Connecting");
  const pill = h(
    "button",
    { type: "button", class: "pill", onclick: () => (stream.state === "locked" ? api.needKey() : stream.reopen()) },
    word,
  );
  const wordsOf = {
    connecting: () => ["connecting", "Connecting"],
    open: () => ["connected", "Live"],
    locked: () => ["failed", "Key needed"],
    waiting: () => [
      "warning",
      stream.retryAt ? `Offline, again in ${duration((stream.retryAt - Date.now()) / 1000)}` : "Offline, trying",
    ],
  };
  let wasOpen = true;
  const show = () => {
    const open = stream.state === "open";
    word.show(...wordsOf[stream.state]());
    set(pill, "disabled", open || stream.state === "connecting");
    set(pill, "title", open ? "Changes arrive by themselves" : "Connect now");
    if (stream.state === "waiting" && wasOpen)
      toast("Connection lost", { tone: "warn", detail: "What is shown may be old. The page reconnects by itself." });
    if (open && !wasOpen) toast("Connected again");
    if (open || stream.state === "waiting") wasOpen = open;
  };
  stream.addEventListener("state", show);
  setInterval(() => stream.state === "waiting" && show(), 1000);
  return pill;
}

function keyButton(api) {
  const node = button("", { symbol: "key", kind: "quiet", onclick: () => (api.hasKey ? forget() : api.needKey()) });
  const forget = () => {
    api.forgetKey();
    toast("The key was forgotten", { detail: "What only reads stays open in this browser for up to 12 hours." });
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
      // storage is switched off: the choice lasts as long as the page
    }
    show();
  };
  const show = () => {
    const [words, symbol] = THEMES[root.dataset.theme] ?? THEMES.auto;
    fill(node, icon(symbol), h("span", { class: "label" }, `Theme: ${words}`));
  };
  show();
  return node;
}

/** In development mode cameras are taken in without anybody's consent: say so for as long as that is so. */
function watchDevMode(api, stream) {
  const place = document.getElementById("banners");
  const look = async () => {
    try {
      const { mode, enabled } = await api.get("/api/v1/onboarding/auto/status", { background: true });
      if (mode !== "dev" || !enabled) fill(place);
      else if (!place.childElementCount) fill(place, banner());
    } catch {
      // what cannot be asked now is asked after the next reconnection
    }
  };
  for (const kind of ["enabled", "disabled"]) stream.on(`onboarding.${kind}`, look);
  stream.addEventListener("resync", look);
}

function banner() {
  return h(
    "p",
    { class: "banner" },
    icon("alert"),
    h("span", {}, h("strong", {}, "Development mode. "), "Cameras are onboarded by themselves."),
    h("a", { href: "#/onboarding" }, "Kill switch"),
  );
}

/** A page that is older than its daemon is to be loaded anew. */
function watchVersion(api, stream) {
  let known = "";
  stream.addEventListener("resync", async () => {
    try {
      const { version } = await api.get("/version", { background: true });
      if (known && version !== known)
        toast(`The daemon is now version ${version}`, {
          tone: "info",
          action: { label: "Reload", onclick: () => location.reload() },
        });
      known = version;
    } catch {
      // it is asked for again after the next reconnection
    }
  });
}

/** How a reboot ended, wherever people are by then; what is replayed after a reconnection is told no more. */
function tellReboots(stream, cameras) {
  stream.on("camera.reboot", ({ mac, state: ending }, { timestamp }) => {
    if (now() - Date.parse(timestamp) > LATE_MS) return;
    const name = cameras.find(mac)?.name ?? mac;
    if (ending === "back") toast(`${name} is back`);
    if (ending === "failed") toast(`${name} did not come back`, { tone: "bad", detail: remedyFor("REBOOT_FAILED") });
  });
}
