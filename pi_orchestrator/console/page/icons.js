// Line icons on a 24 × 24 grid in the colour of the text beside them. Decorative: the text carries the meaning.

import { s } from "./dom.js";

const PATHS = {
  alert: "M12 4 2.8 20h18.4L12 4Zm0 6v4.5m0 2.6v.1",
  back: "M15 5l-7 7 7 7",
  box: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  camera: "M4 8h3.2L9 5h6l1.8 3H20v11H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7Z",
  check: "M5 12.5l4.5 4.5L19 7.5",
  clock: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 7v5.2l3.4 2",
  close: "M6 6l12 12M18 6 6 18",
  contrast: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 3v18M12 7h5.5M12 12h9M12 17h5.5",
  down: "M12 4v13m-5.5-5.5L12 17l5.5-5.5M5 21h14",
  edit: "M4 20l1-4.2L16 4.8a1.6 1.6 0 0 1 2.3 0l.9.9a1.6 1.6 0 0 1 0 2.3L8.2 19 4 20Z",
  gauge: "M4.2 18a9 9 0 1 1 15.6 0M12 13.5l4-4.5M12 14a.6.6 0 1 0 0-1.2.6.6 0 0 0 0 1.2Z",
  info: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 11v5m0-8.4v.1",
  join: "M4 5h7v14H4M9 12h11m-4-4 4 4-4 4",
  key: "M14.5 13.5a4.7 4.7 0 1 0-4-4L3 17v4h4v-3h3v-3l1.5-1.5M16 8v.1",
  layers: "M12 3.5 3 8.5l9 5 9-5-9-5ZM3 13l9 5 9-5M3 17.2l9 5 9-5",
  link: "M4 12a11.5 11.5 0 0 1 16 0M7.2 15.4a7 7 0 0 1 9.6 0M12 19.5v.1",
  log: "M4 6h16M4 10.7h10M4 15.3h16M4 20h7",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5Z",
  more: "M5 12v.1M12 12v.1M19 12v.1",
  off: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM5.8 5.8l12.4 12.4",
  pause: "M8 5v14M16 5v14",
  play: "M7 4.5v15l12-7.5-12-7.5Z",
  plus: "M12 5v14M5 12h14",
  power: "M12 3v8M6.5 6.8a8 8 0 1 0 11 0",
  radar: "M12 12 18.4 5.6M12 21a9 9 0 1 1 8.2-5.3M12 16.5a4.5 4.5 0 1 1 4.2-3M12 12v.1",
  refresh: "M20 5v5h-5M4 19v-5h5M19 10a7.5 7.5 0 0 0-13.2-2.6M5 14a7.5 7.5 0 0 0 13.2 2.6",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13ZM15.5 15.5 20.5 20.5",
  stop: "M6 6h12v12H6z",
  sun: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM12 2v2.5M12 19.5V22M2 12h2.5M19.5 12H22M5 5l1.7 1.7M17.3 17.3 19 19M5 19l1.7-1.7M17.3 6.7 19 5",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  wait: "M7 3h10M7 21h10M8 3c0 5 8 5 8 9s-8 4-8 9m8-18c0 5-8 5-8 9s8 4 8 9",
};

/** An icon by its name. */
export function icon(name) {
  return s(
    "svg",
    { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    s("path", { d: PATHS[name] }),
  );
}

const BARS = { unknown: 0, poor: 1, fair: 2, good: 3, excellent: 4 };

/** Four signal bars; `.show(quality)` lights none (unknown) to all (excellent). */
export function signalBars() {
  const bars = [5, 9, 13, 17].map((height, at) =>
    s("rect", { x: 2 + at * 5.5, y: 20 - height, width: 3.5, height, rx: 1 }),
  );
  const node = s("svg", { class: "bars", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, bars);
  const show = (quality) => bars.forEach((bar, at) => bar.classList.toggle("lit", at < (BARS[quality] ?? 0)));
  return { node, show };
}
