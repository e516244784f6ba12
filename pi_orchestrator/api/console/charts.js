// Small line charts. What they show is said in words as well.

import { fill, h, s } from "./dom.js";
import { clock } from "./format.js";

const WIDTH = 320;
const HEIGHT = 96;
const EDGE = 4;

/**
 * A line chart: `.show(series)` draws series of {name, tone?, points: [{at: ms, value}]} on one scale from zero;
 * `unit` follows numbers, `max` is the least that the scale reaches to.
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
    const place = ({ at, value }) => [
      EDGE + ((at - from) / (to - from || 1)) * (WIDTH - 2 * EDGE),
      HEIGHT - EDGE - (value / highest) * (HEIGHT - 2 * EDGE),
    ];
    fill(
      drawing,
      grid(),
      drawn.map(({ points, tone }) => line(points.map(place), tone)),
    );
    drawing.setAttribute("aria-label", `${label}. ${drawn.map((one) => inWords(one, unit)).join("; ")}`);
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

function line(places, tone) {
  const path = places.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const under = `${path}L${places.at(-1)[0].toFixed(1)} ${HEIGHT}L${places[0][0].toFixed(1)} ${HEIGHT}Z`;
  return [
    s("path", { class: "area", "data-tone": tone, d: under }),
    s("path", { class: "line", "data-tone": tone, d: path }),
  ];
}

function inWords({ name, points }, unit) {
  const values = points.map(({ value }) => value);
  return `${name}: now ${round(values.at(-1))}${unit}, least ${round(Math.min(...values))}${unit}, most ${round(Math.max(...values))}${unit}`;
}

const round = (value) => (Number.isInteger(value) ? value : value.toFixed(1));
