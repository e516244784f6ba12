// The form that starts a provisioning session, and the dialogue that adds cameras to the allowlist.

import { h } from "./dom.js";
import { button, dialog, field, section, toast, advice } from "./ui.js";

const PATH = "/api/v1/provisioning";
const TIMES = [
  ["discovery_timeout_seconds", "Discovery", 60],
  ["provisioning_timeout_seconds", "Sending credentials", 120],
  ["verification_timeout_seconds", "Verification on the target network", 90],
];

/** The form that starts a session; calls `started(session)`. */
export function sessionForm({ api }, { started }) {
  const ssid = h("input", { name: "ssid", required: true, maxlength: 32, autocomplete: "off", spellcheck: "false" });
  const password = h("input", {
    name: "password",
    type: "password",
    maxlength: 64,
    autocomplete: "off",
    spellcheck: "false",
  });
  const showPassword = h("input", {
    type: "checkbox",
    onchange: () => (password.type = showPassword.checked ? "text" : "password"),
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
  const errorBox = h("div", { class: "form-error", role: "alert", hidden: true });
  const startButton = button("Start the session", { kind: "primary", type: "submit", symbol: "play" });
  const startSession = async () => {
    errorBox.hidden = true;
    try {
      const config = Object.fromEntries(times.map(({ name, input }) => [name, Number(input.value)]));
      const body = { target_ssid: ssid.value, target_password: password.value, config };
      const headers = { "Idempotency-Key": idempotencyKey() };
      const { session } = await api.post(`${PATH}/batch/start`, body, { headers });
      password.value = "";
      started(session);
    } catch (error) {
      errorBox.replaceChildren(h("strong", {}, error.message), h("p", {}, advice(error)));
      errorBox.hidden = false;
    }
  };
  const onsubmit = (event) => {
    event.preventDefault();
    startButton.busy(startSession);
  };
  return section(
    "New session",
    h(
      "p",
      { class: "muted" },
      "Cameras on the camera network join the session automatically. Each camera is sent the credentials once and is verified on the target network. The password is stored encrypted and erased when the session ends.",
    ),
    h(
      "form",
      { class: "stack form", onsubmit },
      field("Network name (SSID)", ssid, "Exact spelling, up to 32 bytes."),
      h(
        "div",
        {},
        field("Password", password, "8 to 63 characters, or empty for an open network."),
        h("label", { class: "check" }, showPassword, "Show the password"),
      ),
      h(
        "details",
        {},
        h("summary", {}, "Time limits"),
        h(
          "div",
          { class: "grid" },
          times.map(({ label, input }) => field(`${label}, in seconds`, input)),
        ),
      ),
      errorBox,
      h("div", {}, startButton),
    ),
  );
}

/** A random key for one request. Not crypto.randomUUID, which is missing on plain HTTP. */
const idempotencyKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

/** Show the dialogue that adds cameras to the allowlist, each line a "MAC, description". */
export function addToAllowlist({ api }, { macs = [] } = {}) {
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
    body: field("Cameras", lines, "Each camera on its own line: MAC, optionally followed by a comma and a description."),
    submit: {
      label: "Add",
      work: async () => {
        const { added, updated, errors } = await api.post(`${PATH}/allowlist/bulk`, { entries: parseEntries(lines.value) });
        if (errors.length)
          throw Object.assign(new Error(`${added + updated} added, ${errors.length} rejected`), {
            details: errors
              .slice(0, 5)
              .map(({ mac, reason }) => `${mac}: ${reason}`)
              .join("; "),
            remedy: "Correct these lines and add them again.",
          });
        toast(`${added} added${updated ? `, ${updated} updated` : ""}`);
      },
    },
  });
}

function parseEntries(text) {
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
