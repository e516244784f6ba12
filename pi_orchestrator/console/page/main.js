// The frame of the page: navigation, header, and the current view.

import { Api } from "./client.js";
import * as cameras from "./cameras.js";
import * as containers from "./containers.js";
import * as discovery from "./discovery.js";
import { fill, h, set, setText } from "./dom.js";
import { header } from "./header.js";
import { icon } from "./icons.js";
import { promptForKey } from "./key.js";
import * as logs from "./logs.js";
import * as onboarding from "./onboarding.js";
import * as sessions from "./sessions.js";
import { Cameras } from "./store.js";
import { Stream } from "./stream.js";
import * as system from "./system.js";
import { empty, problem } from "./ui.js";

/** Every view: its name in the page's address, its icon, and its module {title, mount(root, context) → unmount}. */
const VIEWS = [
  { name: "cameras", symbol: "camera", view: cameras },
  { name: "containers", symbol: "box", view: containers },
  { name: "onboarding", symbol: "join", view: onboarding },
  { name: "sessions", symbol: "layers", view: sessions },
  { name: "discovery", symbol: "radar", view: discovery, minor: true },
  { name: "logs", symbol: "log", view: logs, minor: true },
  { name: "system", symbol: "gauge", view: system, minor: true },
];

const api = new Api({ promptForKey });
const stream = new Stream({ api });
const context = { api, stream, cameras: new Cameras({ api, stream }), go: (hash) => (location.hash = hash) };
const main = document.getElementById("main");
const pageHeader = header(context);
let unmount = null;

/** Show the view that the page's address names; the view gets the rest of the address as `path`. */
function route() {
  const [name, ...path] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const found = VIEWS.find((view) => view.name === (name || VIEWS[0].name));
  unmount?.();
  unmount = null;
  closeMenu();
  for (const link of document.querySelectorAll("#nav a[data-view]"))
    set(link, "aria-current", link.dataset.view === found?.name ? "page" : null);
  const title = found?.view.title ?? "Not found";
  document.title = `${title} · Pi Orchestrator`;
  pageHeader.title(title);
  fill(main);
  scrollTo(0, 0);
  if (found) unmount = mountView(found.view, path);
  else fill(main, empty("search", "Page not found", "Choose a page from the navigation."));
}

function mountView(view, path) {
  try {
    return view.mount(main, { ...context, path });
  } catch (error) {
    console.error(error);
    fill(
      main,
      problem({ message: "This view could not be shown", remedy: "Reload the page." }, () => location.reload()),
    );
    return null;
  }
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function navigation() {
  const links = VIEWS.map(({ name, symbol, view, minor }) =>
    h(
      "a",
      { href: `#/${name}`, "data-view": name, class: minor ? "minor" : null },
      icon(symbol),
      h("span", {}, view.title),
    ),
  );
  const more = h(
    "button",
    { type: "button", class: "more", "aria-expanded": "false", onclick: toggleMenu },
    icon("more"),
    h("span", {}, "More"),
  );
  const brand = h(
    "a",
    { class: "brand", href: "#/cameras" },
    h("img", { src: "/favicon.svg", alt: "", width: 28, height: 28 }),
    h("span", {}, "Pi Orchestrator"),
  );
  fill(document.getElementById("nav"), brand, h("div", { class: "links" }, links), pageHeader.tools, more);
}

function toggleMenu() {
  const nav = document.getElementById("nav");
  const open = nav.dataset.open === undefined;
  nav.toggleAttribute("data-open", open);
  const more = nav.querySelector(".more");
  set(more, "aria-expanded", String(open));
  setText(more.querySelector("span"), open ? "Close" : "More");
}

function closeMenu() {
  if (document.getElementById("nav").dataset.open !== undefined) toggleMenu();
}

navigation();
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.addEventListener("click", ({ target }) => document.getElementById("nav").contains(target) || closeMenu());
addEventListener("keydown", (event) => event.key === "Escape" && closeMenu());
addEventListener("hashchange", () => {
  route();
  main.focus({ preventScroll: true });
});
route();
stream.reopen();
