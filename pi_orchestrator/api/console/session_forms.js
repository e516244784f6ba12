// What is filled in before cameras can be given credentials: the network, and who may have its password.

import { h } from "./dom.js";
import { button, dialog, field, section, toast, advice } from "./ui.js";

const PATH = "/api/v1/provisioning";
const TIMES = [
  ["discovery_timeout_seconds", "Look for cameras", 60],
  ["provisioning_timeout_seconds", "Hand over credentials", 120],
  ["verification_timeout_seconds", "Wait for it on the new network", 90],
];

/** The form that opens a session; `started(session)` is told. */
export function start({ api }, { started }) {
  const ssid = h("input", { name: "ssid", required: true, maxlength: 32, autocomplete: "off", spellcheck: "false" });
  const password = h("input", {
    name: "password",
    type: "password",
    maxlength: 64,
    autocomplete: "off",
    spellcheck: "false",
  });
  const reveal = h("input", {
    type: "checkbox",
    onchange: () => (password.type = reveal.checked ? "text" : "password"),
  });
  const times = TIMES.map(([name, label, value]) => ({
    name,
    label,
    input: h("input", {
      name,
      type: "number",
      min: 1,
      max: 86400,
      value: String(value),
      required: true,
      inputmode: "numeric",
    }),
  }));
  const trouble = h("div", { class: "trouble", role: "alert", hidden: true });
  const send = button("Start the session", { kind: "primary", type: "submit", symbol: "play" });
  const begin = async () => {
    trouble.hidden = true;
    try {
      const config = Object.fromEntries(times.map(({ name, input }) => [name, Number(input.value)]));
      const body = { target_ssid: ssid.value, target_password: password.value, config };
      const { session } = await api.post(`${PATH}/batch/start`, body, { headers: { "Idempotency-Key": once() } });
      password.value = "";
      started(session);
    } catch (error) {
      trouble.replaceChildren(h("strong", {}, error.message), h("p", {}, advice(error)));
      trouble.hidden = false;
    }
  };
  const onsubmit = (event) => {
    event.preventDefault();
    send.busy(begin);
  };
  return section(
    "New session",
    h(
      "p",
      { class: "muted" },
      "Cameras on the onboarding network join by themselves. Each is given the credentials once, and believed only when it has answered from the new network. The password is encrypted, and erased when the session ends.",
    ),
    h(
      "form",
      { class: "stack form", onsubmit },
      field("Network name (SSID)", ssid, "As it is spelled, up to 32 bytes."),
      h(
        "div",
        {},
        field("Password", password, "8 to 63 characters, or empty for an open network."),
        h("label", { class: "check" }, reveal, "Show the password"),
      ),
      h(
        "details",
        {},
        h("summary", {}, "Time limits"),
        h(
          "div",
          { class: "grid" },
          times.map(({ label, input }) => field(`${label}, in s`, input)),
        ),
      ),
      trouble,
      h("div", {}, send),
    ),
  );
}

/** Random, because a repeat of the same request must be told from another one. Works on plain HTTP too. */
const once = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Put cameras on the allowlist: one a line, as "MAC, what it is". */
export function addToList({ api }, { macs = [] } = {}) {
  const lines = h("textarea", {
    name: "macs",
    rows: 6,
    required: true,
    class: "mono",
    spellcheck: "false",
    placeholder: "24:6F:28:00:00:10, hall left",
    value: macs.join("\n"),
    autofocus: true,
  });
  return dialog({
    title: "Add cameras to the allowlist",
    body: field("Cameras", lines, "One a line: the MAC, then if you like a comma and what it is."),
    submit: {
      label: "Add",
      work: async () => {
        const { added, updated, errors } = await api.post(`${PATH}/allowlist/bulk`, { entries: parsed(lines.value) });
        if (errors.length)
          throw Object.assign(new Error(`${added + updated} added, ${errors.length} refused`), {
            details: errors
              .slice(0, 5)
              .map(({ mac, reason }) => `${mac}: ${reason}`)
              .join("; "),
            remedy: "Correct these lines and add them again",
          });
        toast(`${added} added${updated ? `, ${updated} updated` : ""}`);
      },
    },
  });
}

function parsed(text) {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.map((line) => {
    const [mac, ...words] = line.split(",");
    const description = words.join(",").trim();
    return { mac: mac.trim(), ...(description && { description }) };
  });
}
