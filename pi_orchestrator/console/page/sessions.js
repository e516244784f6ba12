// Provisioning sessions: the open session or the form for a new session, interrupted sessions, allowlist, past sessions.

import { fill, h, keyed } from "./dom.js";
import { count } from "./format.js";
import { sessionPanel } from "./session_live.js";
import { addToAllowlist, sessionForm } from "./session_forms.js";
import { age, button, confirm, empty, problem, section, skeleton, state, toast, toastError } from "./ui.js";

export const title = "Sessions";

const PATH = "/api/v1/provisioning";
const MAX_PAST = 10;

/** Show interrupted sessions, the open session or the form for a new session, the allowlist, and past sessions. */
export function mount(root, context) {
  const { api, stream } = context;
  const main = h("div", { class: "stack" }, skeleton(2, "line"));
  const [interrupted, list, past] = [interruptedSessions(context), allowlist(context), pastSessions(context)];
  fill(root, interrupted.node, main, list.node, past.node);
  let [panel, shown, unmounted] = [null, "", false];
  const show = (session) => {
    const next = session?.id ?? "form";
    if (shown === next) return; // keep the operator's input
    panel?.end();
    shown = next;
    panel = session
      ? sessionPanel(context, session, { onClosed: refresh, onNewSession: () => show(null) })
      : null;
    fill(main, panel ? panel.node : sessionForm(context, { started: (created) => (show(created), refresh()) }));
  };
  const refresh = async () => {
    if (!panel && !api.mayHaveAccess) {
      shown = "";
      fill(main, keyNeeded());
      return;
    }
    try {
      const { sessions } = await api.get(`${PATH}/sessions`, { background: panel !== null });
      if (unmounted) return;
      const open = sessions.find((session) => !session.interrupted);
      // A session that has just closed stays visible, so that the operator can read its result.
      if (open || !panel) show(open ?? null);
      await Promise.all([interrupted.refresh(), list.refresh(), past.refresh()]);
    } catch (error) {
      if (unmounted || panel) return;
      shown = "";
      fill(main, problem(error, refresh));
    }
  };
  const keyNeeded = () => {
    const keyButton = button("Enter a key", { kind: "primary", symbol: "key", onclick: () => api.requestKey() });
    return empty(
      "key",
      "Sessions need an API key",
      "A session sends a network's password to cameras. The first key is in the file admin.key in the daemon's state folder.",
      keyButton,
    );
  };
  api.addEventListener("key", refresh);
  const subscriptions = [
    stream.on("session.status", () => refresh()),
    stream.on("allowlist.changed", () => list.refresh()),
  ];
  stream.addEventListener("resync", refresh);
  interrupted.changed = refresh;
  refresh();
  return () => {
    unmounted = true;
    panel?.end();
    stream.removeEventListener("resync", refresh);
    api.removeEventListener("key", refresh);
    subscriptions.forEach((unsubscribe) => unsubscribe());
  };
}

function interruptedSessions({ api }) {
  const rows = h("ul", { class: "rows" });
  const node = section(
    "Interrupted by a restart",
    h(
      "p",
      { class: "muted" },
      "These sessions can be resumed. Each camera is checked first, so no camera is sent its credentials twice.",
    ),
    rows,
  );
  node.hidden = true;
  const self = { node, changed: () => {} };
  const resume = async (session) => {
    try {
      await api.post(`${PATH}/sessions/${session.id}/resume`);
      toast("Session resumed");
    } catch (error) {
      toastError(error, "Resume");
    }
    self.changed();
  };
  const discard = (session) =>
    confirm({
      title: `Discard the session for ${session.target_ssid || "this network"}?`,
      consequences: [
        "Its password is erased.",
        "Cameras in progress are no longer monitored.",
        "Verified cameras are not changed.",
      ],
      label: "Discard",
      work: async () => {
        await api.delete(`${PATH}/sessions/${session.id}`);
        self.changed();
      },
    });
  self.refresh = async () => {
    const { sessions } = await api.get(`${PATH}/sessions/recoverable`, { background: true });
    node.hidden = !sessions.length;
    keyed(
      rows,
      sessions,
      (session) => session.id,
      (session) => {
        const resumeButton = button("Resume", {
          kind: "primary",
          symbol: "play",
          onclick: () => resumeButton.busy(() => resume(session)),
        });
        const text = h(
          "p",
          {},
          h("strong", {}, session.target_ssid || "Unnamed network"),
          ` · ${session.verified_count} of ${count(session.device_count, "camera")} verified · last change `,
          age(session.updated_at),
        );
        return {
          node: h(
            "li",
            { class: "row spread wrap" },
            text,
            h(
              "div",
              { class: "row" },
              resumeButton,
              button("Discard", { kind: "quiet", symbol: "trash", onclick: () => discard(session) }),
            ),
          ),
        };
      },
    );
  };
  return self;
}

function allowlist(context) {
  const text = h("p", { class: "muted" });
  const addButton = button("Add cameras", {
    symbol: "plus",
    onclick: () => addToAllowlist(context).then((done) => done && refresh()),
  });
  const node = section("Allowlist", text, h("div", {}, addButton));
  node.hidden = true;
  const refresh = async () => {
    const { total, used, available } = await context.api.get(`${PATH}/allowlist/stats`, { background: true });
    node.hidden = false;
    fill(
      text,
      total ? `${count(total, "camera")} on the allowlist: ${used} used, ${available} available. ` : "The allowlist is empty. ",
      "Only cameras on the allowlist are sent credentials. A MAC can be copied: while a camera is off, a device with its MAC is sent the credentials instead.",
    );
  };
  return { node, refresh };
}

function pastSessions({ api }) {
  const rows = h("ul", { class: "rows" });
  const node = section("Past sessions", rows);
  node.hidden = true;
  const refresh = async () => {
    const { sessions } = await api.get(`${PATH}/sessions/history?limit=${MAX_PAST}`, { background: true });
    keyed(
      rows,
      sessions,
      (session) => session.id,
      (session) => ({
        node: h(
          "li",
          { class: "row spread wrap" },
          summary(session),
          state(session.failed_count ? "warning" : session.verified_count ? "verified" : "closed", session.ending),
        ),
      }),
    );
    node.hidden = !sessions.length;
  };
  return { node, refresh };
}

function summary(session) {
  const failed = session.failed_count ? `, ${session.failed_count} failed` : "";
  return h(
    "p",
    {},
    h("strong", {}, session.target_ssid || "Unnamed network"),
    ` · ${session.verified_count} of ${count(session.device_count, "camera")} verified${failed} · `,
    age(session.closed_at),
  );
}
