// The configuration: every key with where its value comes from, and those changed that can be while the daemon runs.

import { eachFrame, fill, h } from "./dom.js";
import { button, confirm, dialog, empty, field, problem, section, state, toast, toastError } from "./ui.js";

/** The configuration as a panel: {node, look() → asks anew, end()}. */
export function configuration(context) {
  const { api, stream } = context;
  const place = h("div", { class: "stack" });
  const search = h("input", {
    type: "search",
    "aria-label": "Search settings",
    placeholder: "Search settings",
    oninput: () => draw(),
  });
  const node = section("Configuration", h("div", { class: "toolbar" }, search), place);
  let sections = [];
  const open = new Set();
  const draw = eachFrame(() => {
    const wanted = search.value.trim().toLowerCase();
    const found = sections
      .map((one) => ({
        ...one,
        items: one.items.filter(({ key, description }) => `${key} ${description}`.toLowerCase().includes(wanted)),
      }))
      .filter(({ items }) => items.length);
    const groups = found.map((one) => group({ api, look, open }, one, wanted !== ""));
    fill(place, groups.length ? groups : empty("search", "No setting matches", "Change the search above."));
  });
  const look = async () => {
    try {
      ({ sections } = await api.get("/api/v1/config", { background: true }));
      node.hidden = false;
      draw();
    } catch (error) {
      node.hidden = error.absent;
      fill(
        place,
        problem(error, () => api.needKey(error).then(look)),
      );
    }
  };
  const end = stream.on("config.changed", () => look());
  return { node, look, end };
}

function group(context, { name, description, items }, unfolded) {
  const rows = items.map((item) =>
    h(
      "div",
      { class: "setting" },
      h("div", { class: "grow" }, h("code", {}, item.key), h("p", { class: "small muted" }, item.description)),
      h("div", { class: "value" }, h("code", {}, item.value === "" ? "(empty)" : item.value), origin(item)),
      item.editable && button("Change", { name: `Change ${item.key}`, onclick: () => change(context, item) }),
    ),
  );
  const summary = h("summary", {}, h("h3", {}, name), h("span", { class: "small muted" }, description));
  const toggled = (event) => context.open[event.target.open ? "add" : "delete"](name);
  return h(
    "details",
    { class: "group", open: unfolded || context.open.has(name), ontoggle: unfolded ? null : toggled },
    summary,
    rows,
  );
}

function origin({ origin: from, restart_needed: late, value, default_value: usual }) {
  if (late) return state("warning", "after a restart");
  return from === "default" || value === usual
    ? null
    : h("span", { class: "small muted" }, from === "override" ? "changed here" : `from ${from}`);
}

function change({ api, look }, item) {
  const control = controlFor(item);
  const path = `/api/v1/config/${encodeURIComponent(item.key)}`;
  const reset =
    item.origin === "override" &&
    button("Back to what is configured", {
      kind: "quiet",
      onclick: () => {
        const consequences = `${item.key} is again what file, environment and default say.`;
        confirm({
          title: "Reset this setting?",
          consequences,
          label: "Reset",
          danger: false,
          work: () => api.post(`${path}/reset`).then(look),
        }).catch(toastError);
      },
    });
  return dialog({
    title: item.key,
    kind: "narrow",
    body: [h("p", {}, item.description), field("Value", control, hintFor(item)), reset],
    submit: {
      label: "Save",
      work: async () => {
        const { message } = await api.put(path, { value: control.value });
        toast(message);
        await look();
      },
    },
  });
}

function controlFor({ type, value, validation }) {
  const options = type === "boolean" ? ["true", "false"] : type === "select" ? validation.options : null;
  if (options)
    return h(
      "select",
      { name: "value" },
      options.map((one) => h("option", { value: one, selected: one === value }, one)),
    );
  const kinds = { number: "number", secret: "password" };
  const limits = type === "number" ? { min: validation.min, max: validation.max, step: "any" } : {};
  return h("input", {
    name: "value",
    type: kinds[type] ?? "text",
    value: value,
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    ...limits,
  });
}

function hintFor({ validation: { min, max }, default_value: usual, type }) {
  const range = min !== undefined && max !== undefined ? `${min} to ${max}. ` : "";
  return type === "secret" ? "Stored, and never shown again." : `${range}Default: ${usual === "" ? "empty" : usual}`;
}
