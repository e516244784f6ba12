// Batch provisioning: the session that is open, with every camera's way through it, and how those before it ended.

import { fill, h, keyed } from "./dom.js";
import { count } from "./format.js";
import { live } from "./session_live.js";
import { addToList, start } from "./session_forms.js";
import { age, button, confirm, empty, problem, section, skeleton, state, toast, toastError } from "./ui.js";

export const title = "Sessions";

const PATH = "/api/v1/provisioning";
const PAST = 10;

/** Show the open session or the form that opens one, what can be recovered, the allowlist, and the past. */
export function mount(root, context) {
  const { api, stream } = context;
  const stage = h("div", { class: "stack" }, skeleton(2, "line"));
  const [lost, list, past] = [recoverable(context), allowlist(context), history(context)];
  fill(root, lost.node, stage, list.node, past.node);
  let [view, shown, over] = [null, "", false];
  const show = (session) => {
    const wanted = session?.id ?? "form";
    if (shown === wanted) return; // what somebody is filling in stays
    view?.end();
    shown = wanted;
    view = session ? live(context, session, { finished: again, again: () => show(null) }) : null;
    fill(stage, view ? view.node : start(context, { started: (made) => (show(made), again()) }));
  };
  const again = async () => {
    if (!view && !api.mayBeKnown) {
      shown = "";
      fill(stage, locked());
      return;
    }
    try {
      const { sessions } = await api.get(`${PATH}/sessions`, { background: view !== null });
      if (over) return;
      const open = sessions.find((one) => !one.interrupted);
      // A session that has just ended stays until somebody has read how.
      if (open || !view) show(open ?? null);
      await Promise.all([lost.look(), list.look(), past.look()]);
    } catch (error) {
      if (over || view) return;
      shown = "";
      fill(stage, problem(error, again));
    }
  };
  const locked = () => {
    const enter = button("Enter a key", { kind: "primary", symbol: "key", onclick: () => api.needKey() });
    return empty(
      "key",
      "Sessions need an API key",
      "They hand out the password of a network. The first key is in the file admin.key in the daemon's state folder.",
      enter,
    );
  };
  api.addEventListener("key", again);
  const ends = [stream.on("session.status", () => again()), stream.on("allowlist.changed", () => list.look())];
  stream.addEventListener("resync", again);
  lost.resumed = again;
  again();
  return () => {
    over = true;
    view?.end();
    stream.removeEventListener("resync", again);
    api.removeEventListener("key", again);
    ends.forEach((end) => end());
  };
}

function recoverable({ api }) {
  const rows = h("ul", { class: "rows" });
  const node = section(
    "Cut off by a restart",
    h(
      "p",
      { class: "muted" },
      "Nothing is lost: each camera is asked how far it had come before anything is sent to it again.",
    ),
    rows,
  );
  node.hidden = true;
  const self = { node, resumed: () => {} };
  const resume = async (session) => {
    try {
      await api.post(`${PATH}/sessions/${session.id}/resume`);
      toast("The session goes on");
    } catch (error) {
      toastError(error, "Resume");
    }
    self.resumed();
  };
  const discard = (session) =>
    confirm({
      title: `Discard the session for ${session.target_ssid || "this network"}?`,
      consequences: [
        "Its password is erased.",
        "Cameras that were under way are not looked after any more.",
        "Cameras that were verified stay as they are.",
      ],
      label: "Discard",
      work: async () => {
        await api.delete(`${PATH}/sessions/${session.id}`);
        self.resumed();
      },
    });
  self.look = async () => {
    const { sessions } = await api.get(`${PATH}/sessions/recoverable`, { background: true });
    node.hidden = !sessions.length;
    keyed(
      rows,
      sessions,
      (one) => one.id,
      (one) => {
        const go = button("Resume", { kind: "primary", symbol: "play", onclick: () => go.busy(() => resume(one)) });
        const text = h(
          "p",
          {},
          h("strong", {}, one.target_ssid || "No network named"),
          ` · ${one.verified_count} of ${count(one.device_count, "camera")} verified · last change `,
          age(one.updated_at),
        );
        return {
          node: h(
            "li",
            { class: "row spread wrap" },
            text,
            h(
              "div",
              { class: "row" },
              go,
              button("Discard", { kind: "quiet", symbol: "trash", onclick: () => discard(one) }),
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
  const add = button("Add cameras", {
    symbol: "plus",
    onclick: () => addToList(context).then((done) => done && look()),
  });
  const node = section("Allowlist", text, h("div", {}, add));
  node.hidden = true;
  const look = async () => {
    const { total, used, available } = await context.api.get(`${PATH}/allowlist/stats`, { background: true });
    node.hidden = false;
    fill(
      text,
      total ? `${count(total, "camera")} on the list: ${used} used, ${available} to come. ` : "Nobody is on the list. ",
      "Only cameras on the list are given a password.",
    );
  };
  return { node, look };
}

function history({ api }) {
  const rows = h("ul", { class: "rows" });
  const node = section("Past sessions", rows);
  node.hidden = true;
  const look = async () => {
    const { sessions } = await api.get(`${PATH}/sessions/history?limit=${PAST}`, { background: true });
    keyed(
      rows,
      sessions,
      (one) => one.id,
      (one) => ({
        node: h(
          "li",
          { class: "row spread wrap" },
          summary(one),
          state(one.failed_count ? "warning" : one.verified_count ? "verified" : "closed", one.ending),
        ),
      }),
    );
    node.hidden = !sessions.length;
  };
  return { node, look };
}

function summary(one) {
  const failed = one.failed_count ? `, ${one.failed_count} failed` : "";
  return h(
    "p",
    {},
    h("strong", {}, one.target_ssid || "No network named"),
    ` · ${one.verified_count} of ${count(one.device_count, "camera")} verified${failed} · `,
    age(one.closed_at),
  );
}
