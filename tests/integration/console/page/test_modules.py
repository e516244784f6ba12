"""Modules used by every view, in a browser without a daemon: elements, API calls, the stream, the cameras."""

import contextlib
import json
import mimetypes

import pytest

from tests.support.browser import WITHIN_MS
from tests.unit.console.test_page_files import CONSOLE

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Replaces EventSource: a test sends events with `newest().send(...)` and breaks the connection with `.break()`.
FAKE_EVENT_SOURCE = """
    window.opened = [];
    window.EventSource = class extends EventTarget {
        constructor(url) { super(); this.url = url; opened.push(this); }
        close() { this.closed = true; }
        send(type, payload, id = "", fields = {}) {
            if (this.closed) return;
            const data = JSON.stringify({version: "1.0", type, timestamp: "2026-01-11T22:33:20Z", ...fields, payload});
            for (const name of [type, "message"]) this.dispatchEvent(new MessageEvent(name, {data, lastEventId: id}));
        }
        break() { this.dispatchEvent(new Event("error")); }
    };
    window.newest = () => opened.at(-1);
"""
MAC = "24:6F:28:00:00:01"
ENVELOPE = {"success": True, "correlation_id": "x", "timestamp": "2026-01-11T22:33:20Z"}


def camera(number, **fields):
    health = {"wifi_rssi": -55, "free_heap": 1, "heap": 1, "uptime": 1, "uptime_seconds": 1}
    mac = f"24:6F:28:00:{number >> 8:02X}:{number & 255:02X}"
    names = {"id": f"cam-{number}", "device_id": f"cam-{number}", "name": f"cam-{number}", "status": "online"}
    return names | {"mac_address": mac, "ip_address": "192.168.10.9", "health": health} | fields


@contextlib.asynccontextmanager
async def bare_page(chromium, answers):
    """An empty page with the console's modules; `answers(method, path, key)` → (status, JSON) is the API."""
    context = await chromium.browser.new_context()
    context.set_default_timeout(WITHIN_MS)
    requests = []

    async def answer(route):
        method, path = route.request.method, route.request.url.partition("console.test")[2]
        if path == "/":
            await route.fulfill(body="<!doctype html><title>bare</title><body>", content_type="text/html")
        elif (CONSOLE / path.lstrip("/")).is_file():
            kind = mimetypes.guess_type(path)[0]
            await route.fulfill(body=(CONSOLE / path.lstrip("/")).read_bytes(), content_type=kind)
        else:
            requests.append((method, path.partition("?")[0], route.request.headers.get("x-api-key")))
            status, body = answers(method, path.partition("?")[0], route.request.headers.get("x-api-key"))
            await route.fulfill(status=status, body=json.dumps(body), content_type="application/json")

    try:
        page = await context.new_page()
        page.requests = requests
        await page.add_init_script(FAKE_EVENT_SOURCE)
        await page.route("**/*", answer)
        await page.goto("http://console.test/")
        yield page
    finally:
        await context.close()


def empty_answer(method, path, key):
    return 200, ENVELOPE | {"data": {}}


def failed(code, **fields):
    return {
        "success": False,
        "error": {"code": code, "message": f"it is {code}", "retryable": False} | fields,
        "code": code,
    }


async def test_keyed_list_updated_in_place(chromium):
    async with bare_page(chromium, empty_answer) as page:
        seen = await page.evaluate(
            """async () => {
                const { h, keyed } = await import("/dom.js");
                const list = document.body.appendChild(h("ul"));
                const show = (items) => keyed(list, items, ([key]) => key, ([key, text]) => {
                    const input = h("input", {value: key});
                    const label = h("b", {title: text}, text);
                    return {node: h("li", {}, label, input), update: ([, changed]) => (label.textContent = changed)};
                });
                show([["a", "<img src=x onerror=alert(1)>"], ["b", "two"], ["c", "three"]]);
                const [first, last] = [list.firstChild, list.lastChild];
                last.querySelector("input").focus();
                last.querySelector("input").value = "half typed";
                show([["c", "three again"], ["d", "new"], ["a", "<script>"]]);
                const refusals = ["onclick", "style", "srcdoc"].map((name) => {
                    try { h("p", {[name]: "alert(1)"}); return "accepted"; } catch { return "refused"; }
                });
                return {
                    texts: [...list.children].map((row) => row.textContent),
                    kept: [list.lastChild === first, list.firstChild === last],
                    focused: document.activeElement.value,
                    images: list.querySelectorAll("img, script").length,
                    refusals,
                };
            }"""
        )
    assert seen == {
        "texts": ["three again", "new", "<script>"],
        "kept": [True, True],
        "focused": "half typed",
        "images": 0,
        "refusals": ["refused"] * 3,
    }


async def test_api_without_key_prompts_once(chromium):
    def answers(method, path, key):
        if path == "/api/v1/plain":
            return 200, [1]
        if path == "/api/v1/full":
            return 409, failed("CONTAINER_HAS_CAMERAS", details="two of them")
        return (200, ENVELOPE | {"data": {"ok": 1}}) if key == "right" else (401, failed("UNAUTHORIZED"))

    async with bare_page(chromium, answers) as page:
        seen = await page.evaluate(
            """async () => {
                const { Api } = await import("/client.js");
                let prompts = 0;
                const summary = (error) => [error.code, error.status, error.message, error.remedy.length > 10];
                const api = new Api({promptForKey: async (check) => {
                    prompts += 1;
                    const wrong = await check("wrong");
                    return (await check("right")) ? null : {key: "right", keep: false, wrong};
                }});
                const background = await api.get("/api/v1/keyed", {background: true}).catch(summary);
                const both = await Promise.all([api.get("/api/v1/keyed"), api.post("/api/v1/keyed", {a: 1})]);
                const again = await api.get("/api/v1/keyed");
                const plain = await api.get("/api/v1/plain");
                const full = await api.delete("/api/v1/full").catch(summary);
                return {background, both, again, plain, full, prompts, kept: sessionStorage.length};
            }"""
        )
    assert seen == {
        "background": ["UNAUTHORIZED", 401, "It is UNAUTHORIZED", True],
        "both": [{"ok": 1}, {"ok": 1}],
        "again": {"ok": 1},
        "plain": [1],
        "full": ["CONTAINER_HAS_CAMERAS", 409, "It is CONTAINER_HAS_CAMERAS", True],
        "prompts": 1,
        "kept": 0,
    }


async def test_api_without_answer_has_remedy(chromium):
    async with bare_page(chromium, lambda *_: (502, "<html>")) as page:
        await page.route("**/api/v1/gone", lambda route: route.abort())
        seen = await page.evaluate(
            """async () => {
                const { Api } = await import("/client.js");
                const api = new Api({promptForKey: async () => null});
                const summary = (error) => [error.code, error.retryable, error.remedy !== ""];
                return [await api.get("/api/v1/gone").catch(summary), await api.get("/api/v1/html").catch(summary)];
            }"""
        )
    assert seen == [["OFFLINE", True, True], ["BAD_ANSWER", False, True]]


# JavaScript: opens `stream` with a fake API, and records its events and states in `received`.
STREAM = """async () => {
    const { Stream } = await import("/stream.js");
    const api = Object.assign(new EventTarget(), {call: async () => { if (window.locked) throw {status: 401}; }});
    window.stream = new Stream({api});
    window.received = [];
    for (const type of ["camera.paired", "error", "log"]) stream.on(type, ({n}) => received.push([type, n]));
    stream.addEventListener("resync", () => received.push(["resync", 0]));
    stream.addEventListener("state", () => received.push(["state", stream.state]));
    stream.reopen();
    newest().send("connection.established", {last_event_id: 7});
}"""


async def test_stream_reconnect_repeats_no_event(chromium):
    async with bare_page(chromium, empty_answer) as page:
        await page.clock.install()
        await page.evaluate(STREAM)
        await page.evaluate("newest().send('camera.paired', {n: 1}, '8')")
        await page.evaluate("newest().send('error', {n: 2}, '9')")  # an event of that name, not a failure
        assert await page.evaluate("[stream.state, opened.length]") == ["open", 1]
        await page.evaluate("newest().break()")
        assert await page.evaluate("[stream.state, opened[0].closed]") == ["waiting", True]
        await page.clock.run_for(2_000)
        assert await page.evaluate("newest().url.split('?')[1].includes('last_event_id=9')")
        await page.evaluate("newest().send('connection.established', {last_event_id: 12})")
        await page.evaluate("newest().break()")  # before any of the announced events
        await page.clock.run_for(2_000)
        assert await page.evaluate("newest().url.includes('last_event_id=9')"), (
            "the last event received, not the last announced"
        )
        await page.evaluate("newest().send('connection.established', {last_event_id: 12})")
        await page.evaluate("newest().send('camera.paired', {n: 3}, '10')")
        received = await page.evaluate("received.filter(([type]) => type !== 'state')")
        await page.clock.run_for(46_000)  # three missed heartbeats
        assert await page.evaluate("stream.state") in ("waiting", "connecting")
        await page.clock.run_for(2_000)
        assert await page.evaluate("newest().url.includes('last_event_id=10')")
    resync = ["resync", 0]
    assert received == [resync, ["camera.paired", 1], ["error", 2], resync, resync, ["camera.paired", 3]]


async def test_stream_requests_log_on_demand_and_stops_when_locked(chromium):
    async with bare_page(chromium, empty_answer) as page:
        await page.clock.install()
        await page.evaluate(STREAM)
        types = "new URL(newest().url, location).searchParams.get('types').split(',')"
        assert "log" not in await page.evaluate(types)
        await page.evaluate("window.release = stream.addType('log'), window.other = stream.addType('log'), 0")
        assert "log" in await page.evaluate(types)
        await page.evaluate("release()")
        assert "log" in await page.evaluate(types), "another view still needs it"
        await page.evaluate("other()")
        assert "log" not in await page.evaluate(types)
        count = await page.evaluate("(window.locked = true, newest().break(), opened.length)")
        await page.wait_for_function("stream.state === 'locked'")
        await page.clock.run_for(60_000)  # longer than any wait: no automatic retry
        assert await page.evaluate("opened.length") == count


async def test_event_flood_causes_few_camera_requests(chromium):
    live = [camera(number) for number in range(200)]

    def answers(method, path, key):
        if path == "/api/v1/cameras/diagnostics":
            return 200, live
        if path in ("/api/v1/espcam/paired", "/api/v1/cameras/unassigned"):
            return 200, ENVELOPE | {"data": {"cameras": [], "total": 0}}
        if path == "/api/v1/containers":
            return 200, ENVELOPE | {"data": {"containers": [{"id": "c", "label": "Shelf"}], "total": 1}}
        return 200, ENVELOPE | {"data": camera(1, name="renamed")}

    async with bare_page(chromium, answers) as page:
        await page.evaluate(STREAM)
        seen = await page.evaluate(
            """async (mac) => {
                const { Api } = await import("/client.js");
                const { Cameras } = await import("/store.js");
                const cameras = new Cameras({api: new Api({promptForKey: async () => null}), stream});
                await cameras.refresh();
                await new Promise(requestAnimationFrame);
                let drawn = 0;
                cameras.addEventListener("change", () => (drawn += 1));
                const macs = cameras.all.map((camera) => camera.mac);
                for (let turn = 0; turn < 5; turn += 1)
                    for (const each of macs) newest().send("camera.status_changed", {mac: each, status: "offline"});
                await new Promise(requestAnimationFrame);
                await new Promise(requestAnimationFrame);
                const flood = drawn;
                const offline = cameras.all.filter((camera) => camera.status === "offline").length;
                newest().send("camera.renamed", {mac});
                await new Promise((done) => setTimeout(done, 600));
                const [label, other, name] = [cameras.label("c"), cameras.label("d"), cameras.find(mac).name];
                return {flood, offline, label, other, name};
            }""",
            MAC,
        )
        paths = [path for _, path, _ in page.requests]
    assert seen == {"flood": 1, "offline": 200, "label": "Shelf", "other": "d", "name": "renamed"}
    assert paths.count("/api/v1/cameras/diagnostics") == 1
    assert [path for path in paths if path.startswith("/api/v1/cameras/24")] == [
        "/api/v1/cameras/24%3A6F%3A28%3A00%3A00%3A01"
    ]


# JavaScript: makes `cameras` with an API whose requests wait in `requests` until the test answers them.
CAMERAS = """async () => {
    const { Cameras } = await import("/store.js");
    window.requests = [];
    const api = Object.assign(new EventTarget(), {
        get: (path) => new Promise((answer) => requests.push({path, answer})),
    });
    window.cameras = new Cameras({api, stream});
    window.pending = (path) => requests.filter((request) => request.path.includes(path));
    // One turn of the event loop, in which awaiting code continues.
    window.turn = () => new Promise((done) => setTimeout(done));
    window.answerAll = async (live) => {
        for (const {path, answer} of requests.splice(0))
            answer(path.endsWith("diagnostics") ? live : {cameras: [], containers: []});
        await turn();
        for (const {answer} of requests.splice(0)) answer({containers: []});
        await turn();
    };
    window.statuses = () => Object.fromEntries(cameras.all.map((camera) => [camera.id, camera.status]));
}"""


async def test_cameras_old_answer_reverts_nothing(chromium):
    async with bare_page(chromium, empty_answer) as page:
        await page.evaluate(STREAM)
        await page.evaluate(CAMERAS)
        await page.evaluate("cameras.refresh(), 0")
        await page.evaluate("(live) => answerAll(live)", [camera(1), camera(2)])
        # The status changes during a load of all cameras, then during a load of this camera.
        await page.evaluate("cameras.refresh(), 0")
        await page.evaluate("(mac) => newest().send('camera.status_changed', {mac, status: 'offline'})", MAC)
        await page.evaluate("(live) => answerAll(live)", [camera(1), camera(2)])
        assert await page.evaluate("statuses()") == {"cam-1": "offline", "cam-2": "online"}
        await page.evaluate("(mac) => cameras.touch(mac)", MAC)
        await page.wait_for_function("requests.length === 1")
        await page.evaluate("(mac) => newest().send('camera.status_changed', {mac, status: 'online'})", MAC)
        await page.evaluate("(live) => requests.pop().answer(live)", camera(1, status="offline", name="renamed"))
        await page.evaluate("turn()")
        assert await page.evaluate("statuses()") == {"cam-1": "online", "cam-2": "online"}


async def test_refresh_while_loading_loads_once_more(chromium):
    """A camera that is registered during a load may be missing in that answer."""
    async with bare_page(chromium, empty_answer) as page:
        await page.evaluate(STREAM)
        await page.evaluate(CAMERAS)
        await page.evaluate("cameras.refresh(), 0")
        await page.evaluate(
            "(window.both = Promise.all([cameras.refresh(), cameras.refresh({promptForKey: true})]), 0)"
        )
        assert await page.evaluate("pending('diagnostics').length") == 1
        await page.evaluate("(live) => answerAll(live)", [camera(1)])
        assert await page.evaluate("pending('diagnostics').length") == 1, "one more load for both calls"
        await page.evaluate("(live) => answerAll(live)", [camera(1), camera(2)])
        await page.evaluate("both")
        assert await page.evaluate("statuses()") == {"cam-1": "online", "cam-2": "online"}
        assert await page.evaluate("requests.length") == 0


# JavaScript: shows a session whose requests wait in `requests` until the test calls `answer`.
SESSION = """async () => {
    const { sessionPanel } = await import("/session_live.js");
    window.requests = [];
    const api = {get: () => new Promise((answer) => requests.push(answer))};
    const session = {id: "s", state: "active", target_ssid: "Hall", created_at: "2026-01-11T22:33:20Z"};
    const device = (mac, state = "discovered") => ({mac, state, ip: "", progress: 0, rssi: 0, firmware_version: ""});
    window.answer = (request, devices = [], state = "active") => request({
        session: {...session, state},
        devices: devices.map((spec) => device(...spec.split(" "))),
        network_status: {ssid: "", is_active: true, connected_devices: 0},
    });
    window.report = (type, spec) =>
        newest().send(type, {device: device(...spec.split(" "))}, "", {session_id: "s"});
    window.reportSession = (state) => newest().send("session.status", {session: {id: "s", state}});
    const panel = sessionPanel({api, stream}, session, {onClosed: () => {}, onNewSession: () => {}});
    document.body.append(panel.node);
    window.shown = async () => {
        for (let frame = 0; frame < 2; frame += 1) await new Promise(requestAnimationFrame);
        const rows = [...document.querySelectorAll(".candidates > li")];
        return rows.map((row) => ["strong", ".state"].map((part) => row.querySelector(part).textContent).join(" "));
    };
}"""


async def test_session_old_answer_reverts_nothing(chromium):
    """Cameras that join while the first answer is in transit are reported only once, by an event."""
    async with bare_page(chromium, empty_answer) as page:
        await page.evaluate(STREAM)
        await page.evaluate(SESSION)
        await page.evaluate("report('device.discovered', 'A'), report('device.discovered', 'B')")
        await page.evaluate("report('device.state_changed', 'B verified'), reportSession('closed')")
        assert len(await page.evaluate("shown()")) == 2
        await page.evaluate("answer(requests[0], ['B provisioning', 'C'])")
        assert await page.evaluate("shown()") == ["A discovered", "C discovered", "B verified"]
        await page.get_by_text("Closed; the password is erased.").wait_for()


async def test_session_newest_request_wins(chromium):
    async with bare_page(chromium, empty_answer) as page:
        await page.evaluate(STREAM)
        await page.evaluate(SESSION)
        await page.evaluate("report('device.discovered', 'A')")
        await page.evaluate("stream.dispatchEvent(new Event('resync'))")
        await page.evaluate("answer(requests[1], ['A', 'B'])")
        assert await page.evaluate("shown()") == ["A discovered", "B discovered"]
        await page.evaluate("answer(requests[0], [])")
        assert await page.evaluate("shown()") == ["A discovered", "B discovered"]
        # Devices reported before a request are in its answer, or have left the session.
        await page.evaluate("stream.dispatchEvent(new Event('resync'))")
        await page.evaluate("answer(requests[2], ['B'])")
        assert await page.evaluate("shown()") == ["B discovered"]


async def test_dialogue_late_error_is_a_toast(chromium):
    async with bare_page(chromium, empty_answer) as page:
        await page.evaluate(
            """async () => {
                const { h } = await import("/dom.js");
                const { dialog } = await import("/ui.js");
                document.body.append(h("div", {id: "alerts", role: "alert"}), h("div", {id: "messages"}));
                const later = (_, reject) => (window.fail = (message) => reject({message, remedy: "Do it"}));
                const work = () => new Promise(later);
                dialog({title: "Reboot", submit: {label: "Go", work}}).then((result) => (window.ended = [result]));
            }"""
        )
        await page.get_by_role("button", name="Go").click()
        await page.evaluate("fail('It failed')")
        await page.get_by_role("dialog").get_by_text("It failed").wait_for()
        await page.get_by_role("button", name="Go").click()
        await page.keyboard.press("Escape")
        await page.wait_for_function("window.ended?.[0] === null")
        await page.evaluate("fail('It failed later')")
        await page.get_by_role("alert").get_by_text("Reboot: It failed later").wait_for()


async def test_problem_of_camera_not_onboarded_has_remedy(chromium):
    async with bare_page(chromium, lambda *_: (404, {})) as page:
        texts = await page.evaluate(
            """async () => {
                const { problemOf } = await import("/camera_parts.js");
                const failure = (next) => ({failures: 9, remedy: "check its signal", next_attempt_at: next});
                const camera = (next) => ({
                    lastError: "not onboarded: VERIFY_TIMEOUT: no answer",
                    status: "discovered",
                    onboardingFailure: failure(next),
                });
                return ["2026-01-01T00:00:00Z", "2999-01-01T00:00:00Z"].map((next) => problemOf(camera(next)));
            }"""
        )
    assert {text["text"] for text in texts} == {"not onboarded: VERIFY_TIMEOUT: no answer"}
    due, waiting = (text["advice"] for text in texts)
    assert due == "Attempts failed: 9. Next attempt with the camera's next message. Check its signal"
    assert waiting.startswith("Attempts failed: 9. Next attempt at ")
