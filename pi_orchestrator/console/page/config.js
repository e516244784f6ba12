// The configuration: every setting with its origin; reloadable settings can be changed.

import { eachFrame, fill, h } from "./dom.js";
import { button, confirm, dialog, empty, field, problem, section, state, toast, toastError } from "./ui.js";

/** The configuration panel: {node, refresh(), end()}. */
export function configuration(context) {
  const { api, stream } = context;
  const content = h("div", { class: "stack" });
  const search = h("input", {
    type: "search",
    "aria-label": "Search settings",
    placeholder: "Search settings",
    oninput: () => draw(),
  });
  const node = section("Configuration", h("div", { class: "toolbar" }, search), content);
  let sections = [];
  const open = new Set();
  const draw = eachFrame(() => {
    const query = search.value.trim().toLowerCase();
    const found = sections
      .map((part) => ({
        ...part,
        items: part.items.filter(({ key, description }) => `${key} ${description}`.toLowerCase().includes(query)),
      }))
      .filter(({ items }) => items.length);
    const groups = found.map((part) => group({ api, refresh, open }, part, query !== ""));
    fill(content, groups.length ? groups : empty("search", "No setting matches", "Change the search text."));
  });
  const refresh = async () => {
    try {
      ({ sections } = await api.get("/api/v1/config", { background: true }));
      node.hidden = false;
      draw();
    } catch (error) {
      node.hidden = error.isMissing;
      fill(
        content,
        problem(error, () => api.requestKey(error).then(refresh)),
      );
    }
  };
  const end = stream.on("config.changed", () => refresh());
  return { node, refresh, end };
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

function origin({ origin: from, restart_needed: restartNeeded, value, default_value: defaultValue }) {
  if (restartNeeded) return state("warning", "restart needed");
  return from === "default" || value === defaultValue
    ? null
    : h("span", { class: "small muted" }, from === "override" ? "overridden" : `from ${from}`);
}

function change({ api, refresh }, item) {
  const control = controlFor(item);
  const path = `/api/v1/config/${encodeURIComponent(item.key)}`;
  const reset =
    item.origin === "override" &&
    button("Reset to the configured value", {
      kind: "quiet",
      onclick: () => {
        const consequences = `The override is removed: ${item.key} has its value from the file, the environment or the default again.`;
        confirm({
          title: "Reset this setting?",
          consequences,
          label: "Reset",
          danger: false,
          work: () => api.post(`${path}/reset`).then(refresh),
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
        await refresh();
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
      options.map((option) => h("option", { value: option, selected: option === value }, option)),
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

function hintFor({ validation: { min, max }, default_value: defaultValue, type }) {
  const range = min !== undefined && max !== undefined ? `${min} to ${max}. ` : "";
  return type === "secret" ? "Stored, but never shown again." : `${range}Default: ${defaultValue === "" ? "empty" : defaultValue}`;
}
