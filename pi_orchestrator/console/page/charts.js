// Small line charts with a text alternative.

import { fill, h, s } from "./dom.js";
import { clock } from "./format.js";

const WIDTH = 320;
const HEIGHT = 96;
const EDGE = 4;

/**
 * A line chart: `.show(series)` draws series of {name, tone?, points: [{at: ms, value}]} on a common scale from zero.
 * `unit` follows each number; the scale reaches at least to `max`.
 */
export function lineChart({ label, unit = "", max = 1 }) {
  const drawing = s("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  });
  const top = h("span", { class: "top" });
  const span = h("span", { class: "span" });
  const legend = h("div", { class: "legend" });
  const node = h(
    "figure",
    { class: "chart" },
    h("figcaption", {}, h("span", {}, label), legend),
    h("div", { class: "plot" }, drawing, top),
    span,
  );
  const show = (series) => {
    const drawn = series.filter(({ points }) => points.length > 1);
    const all = drawn.flatMap(({ points }) => points);
    if (!all.length) return;
    const highest = Math.max(max, ...all.map(({ value }) => value));
    const [from, to] = [Math.min(...all.map(({ at }) => at)), Math.max(...all.map(({ at }) => at))];
    const toPoint = ({ at, value }) => [
      EDGE + ((at - from) / (to - from || 1)) * (WIDTH - 2 * EDGE),
      HEIGHT - EDGE - (value / highest) * (HEIGHT - 2 * EDGE),
    ];
    fill(
      drawing,
      grid(),
      drawn.map(({ points, tone }) => line(points.map(toPoint), tone)),
    );
    drawing.setAttribute("aria-label", `${label}. ${drawn.map((line) => describe(line, unit)).join("; ")}`);
    top.textContent = `${round(highest)}${unit}`;
    span.textContent = `${clock(from)} – ${clock(to)}`;
    fill(
      legend,
      drawn.map(({ name, tone, points }) =>
        h("span", { "data-tone": tone }, `${name} ${round(points.at(-1).value)}${unit}`),
      ),
    );
  };
  return Object.assign(node, { show });
}

function grid() {
  return [0.25, 0.5, 0.75].map((part) =>
    s("line", { class: "grid-line", x1: 0, x2: WIDTH, y1: HEIGHT * part, y2: HEIGHT * part }),
  );
}

function line(corners, tone) {
  const path = corners.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const area = `${path}L${corners.at(-1)[0].toFixed(1)} ${HEIGHT}L${corners[0][0].toFixed(1)} ${HEIGHT}Z`;
  return [
    s("path", { class: "area", "data-tone": tone, d: area }),
    s("path", { class: "line", "data-tone": tone, d: path }),
  ];
}

function describe({ name, points }, unit) {
  const values = points.map(({ value }) => value);
  return `${name}: now ${round(values.at(-1))}${unit}, minimum ${round(Math.min(...values))}${unit}, maximum ${round(Math.max(...values))}${unit}`;
}

const round = (value) => (Number.isInteger(value) ? value : value.toFixed(1));
