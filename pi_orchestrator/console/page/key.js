// The dialogue for an API key.

import { h } from "./dom.js";
import { dialog, field } from "./ui.js";

/**
 * Prompt for a key; `check(key)` resolves to null if the key is accepted, else to an error. Resolves to {key, keep},
 * or to null when dismissed. `keep`: store the key until the tab is closed.
 */
export function promptForKey(check, reason) {
  const key = h("input", {
    type: "password",
    name: "key",
    required: true,
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    maxlength: 256,
  });
  const keep = h("input", { type: "checkbox", name: "keep" });
  return dialog({
    title: "API key",
    kind: "narrow",
    body: [
      h("p", {}, reason?.code === "FORBIDDEN" ? `${reason.message}. ${reason.details}` : "This action needs an API key."),
      field(
        "Key",
        key,
        "The first key is in the file admin.key in the daemon's state folder. Create more with: pi-orchestrator api-key create",
      ),
      h("label", { class: "check" }, keep, h("span", {}, "Remember until this tab is closed")),
    ],
    submit: {
      label: "Use key",
      work: async () => {
        const entered = key.value.trim();
        const error = await check(entered);
        if (error) {
          key.select();
          throw error;
        }
        return { key: entered, keep: keep.checked };
      },
    },
  });
}
