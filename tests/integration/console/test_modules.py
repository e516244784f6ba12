"""The parts that every view stands on, in a browser without a daemon: elements, calls, the stream, the cameras."""

import contextlib
import json
import mimetypes

import pytest

from tests.support.browser import WITHIN_MS
from tests.unit.test_console_files import CONSOLE

pytestmark = pytest.mark.asyncio(loop_scope="session")

SOURCE = """
    window.opened = [];
    window.EventSource = class extends EventTarget {
        constructor(url) { super(); this.url = url; opened.push(this); }
        close() { this.closed = true; }
        send(type, payload, id = "") {
            if (this.closed) return;
            const data = JSON.stringify({version: "1.0", type, timestamp: "2026-01-11T22:33:20Z", payload});
            for (const name of [type, "message"]) this.dispatchEvent(new MessageEvent(name, {data, lastEventId: id}));
        }
        break() { this.dispatchEvent(new Event("error")); }
    };
    window.newest = () => opened.at(-1);
"""
MAC = "24:6F:28:00:00:01"
ENVELOPE = {"success": True, "correlation_id": "x", "timestamp": "2026-01-11T22:33:20Z"}


def camera(number, **more):
    health = {"wifi_rssi": -55, "free_heap": 1, "heap": 1, "uptime": 1, "uptime_seconds": 1}
    mac = f"24:6F:28:00:{number >> 8:02X}:{number & 255:02X}"
    known = {"id": f"cam-{number}", "device_id": f"cam-{number}", "name": f"cam-{number}", "status": "online"}
    return known | {"mac_address": mac, "ip_address": "192.168.10.9", "health": health} | more


@contextlib.asynccontextmanager
async def bare_page(chromium, answers):
    """A page with the console's modules and nothing running; `answers(method, path)` → (status, JSON) are the API."""
    context = await chromium.browser.new_context()
    context.set_default_timeout(WITHIN_MS)
    asked = []

    async def answer(route):
        method, path = route.request.method, route.request.url.partition("console.test")[2]
        if path == "/":
            await route.fulfill(body="<!doctype html><title>bare</title><body>", content_type="text/html")
        elif (CONSOLE / path.lstrip("/")).is_file():
            kind = mimetypes.guess_type(path)[0]
            await route.fulfill(body=(CONSOLE / path.lstrip("/")).read_bytes(), content_type=kind)
        else:
            asked.append((method, path.partition("?")[0], route.request.headers.get("x-api-key")))
            status, body = answers(method, path.partition("?")[0], route.request.headers.get("x-api-key"))
            await route.fulfill(status=status, body=json.dumps(body), content_type="application/json")

    try:
        page = await context.new_page()
        page.asked = asked
        await page.add_init_script(SOURCE)
        await page.route("**/*", answer)
        await page.goto("http://console.test/")
        yield page
    finally:
        await context.close()


def nothing(method, path, key):
    return 200, ENVELOPE | {"data": {}}


def failed(code, **more):
    return {
        "success": False,
        "error": {"code": code, "message": f"it is {code}", "retryable": False} | more,
        "code": code,
    }


async def test_lists_change_in_place_and_text_stays_text(chromium):
    async with bare_page(chromium, nothing) as page:
        seen = await page.evaluate(
            """async () => {
                const { h, keyed } = await import("/dom.js");
                const list = document.body.appendChild(h("ul"));
                const show = (items) => keyed(list, items, (one) => one[0], ([key, text]) => {
                    const input = h("input", {value: key});
                    const words = h("b", {title: text}, text);
                    return {node: h("li", {}, words, input), update: ([, now]) => (words.textContent = now)};
                });
                show([["a", "<img src=x onerror=alert(1)>"], ["b", "two"], ["c", "three"]]);
                const [first, last] = [list.firstChild, list.lastChild];
                last.querySelector("input").focus();
                last.querySelector("input").value = "half typed";
                show([["c", "three again"], ["d", "new"], ["a", "<script>"]]);
                const refusals = ["onclick", "style", "srcdoc"].map((name) => {
                    try { h("p", {[name]: "alert(1)"}); return "taken"; } catch { return "refused"; }
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


async def test_a_call_unwraps_asks_for_a_key_once_and_says_what_to_do(chromium):
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
                let asked = 0;
                const told = (error) => [error.code, error.status, error.message, error.remedy.length > 10];
                const api = new Api({askForKey: async (check) => {
                    asked += 1;
                    const wrong = await check("wrong");
                    return (await check("right")) ? null : {key: "right", keep: false, wrong};
                }});
                const background = await api.get("/api/v1/keyed", {background: true}).catch(told);
                const both = await Promise.all([api.get("/api/v1/keyed"), api.post("/api/v1/keyed", {a: 1})]);
                const again = await api.get("/api/v1/keyed");
                const plain = await api.get("/api/v1/plain");
                const full = await api.delete("/api/v1/full").catch(told);
                return {background, both, again, plain, full, asked, kept: sessionStorage.length};
            }"""
        )
    assert seen == {
        "background": ["UNAUTHORIZED", 401, "It is UNAUTHORIZED", True],
        "both": [{"ok": 1}, {"ok": 1}],
        "again": {"ok": 1},
        "plain": [1],
        "full": ["CONTAINER_HAS_CAMERAS", 409, "It is CONTAINER_HAS_CAMERAS", True],
        "asked": 1,
        "kept": 0,
    }


async def test_a_call_that_gets_no_answer_or_somebody_elses_says_so(chromium):
    async with bare_page(chromium, lambda *_: (502, "<html>")) as page:
        await page.route("**/api/v1/gone", lambda route: route.abort())
        seen = await page.evaluate(
            """async () => {
                const { Api } = await import("/client.js");
                const api = new Api({askForKey: async () => null});
                const told = (error) => [error.code, error.retryable, error.remedy !== ""];
                return [await api.get("/api/v1/gone").catch(told), await api.get("/api/v1/html").catch(told)];
            }"""
        )
    assert seen == [["OFFLINE", True, True], ["BAD_ANSWER", False, True]]


STREAM = """async () => {
    const { Stream } = await import("/stream.js");
    const api = Object.assign(new EventTarget(), {call: async () => { if (window.locked) throw {status: 401}; }});
    window.stream = new Stream({api});
    window.told = [];
    for (const type of ["camera.paired", "error", "log"]) stream.on(type, (payload) => told.push([type, payload.n]));
    stream.addEventListener("resync", () => told.push(["resync", 0]));
    stream.addEventListener("state", () => told.push(["state", stream.state]));
    stream.reopen();
    newest().send("connection.established", {last_event_id: 7});
}"""


async def test_the_stream_comes_back_where_it_was_and_hears_each_event_once(chromium):
    async with bare_page(chromium, nothing) as page:
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
        await page.evaluate("newest().break()")  # before any of what was announced
        await page.clock.run_for(2_000)
        assert await page.evaluate("newest().url.includes('last_event_id=9')"), "not what was only announced"
        await page.evaluate("newest().send('connection.established', {last_event_id: 12})")
        await page.evaluate("newest().send('camera.paired', {n: 3}, '10')")
        told = await page.evaluate("told.filter(([what]) => what !== 'state')")
        await page.clock.run_for(46_000)  # three heartbeats that did not come
        assert await page.evaluate("stream.state") in ("waiting", "connecting")
        await page.clock.run_for(2_000)
        assert await page.evaluate("newest().url.includes('last_event_id=10')")
    resync = ["resync", 0]
    assert told == [resync, ["camera.paired", 1], ["error", 2], resync, resync, ["camera.paired", 3]]


async def test_the_stream_asks_for_lines_of_the_log_while_they_are_wanted_and_stops_where_a_key_is_missing(chromium):
    async with bare_page(chromium, nothing) as page:
        await page.clock.install()
        await page.evaluate(STREAM)
        types = "new URL(newest().url, location).searchParams.get('types').split(',')"
        assert "log" not in await page.evaluate(types)
        await page.evaluate("window.release = stream.want('log'), window.other = stream.want('log'), 0")
        assert "log" in await page.evaluate(types)
        await page.evaluate("release()")
        assert "log" in await page.evaluate(types), "somebody else wants them still"
        await page.evaluate("other()")
        assert "log" not in await page.evaluate(types)
        count = await page.evaluate("(window.locked = true, newest().break(), opened.length)")
        await page.wait_for_function("stream.state === 'locked'")
        await page.clock.run_for(60_000)  # longer than any wait: it does not knock again by itself
        assert await page.evaluate("opened.length") == count


async def test_a_flood_of_events_costs_few_calls_and_few_frames(chromium):
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
                const cameras = new Cameras({api: new Api({askForKey: async () => null}), stream});
                await cameras.refresh();
                await new Promise(requestAnimationFrame);
                let drawn = 0;
                cameras.addEventListener("change", () => (drawn += 1));
                const macs = cameras.all.map((one) => one.mac);
                for (let turn = 0; turn < 5; turn += 1)
                    for (const one of macs) newest().send("camera.status_changed", {mac: one, status: "offline"});
                await new Promise(requestAnimationFrame);
                await new Promise(requestAnimationFrame);
                const flood = drawn;
                const offline = cameras.all.filter((one) => one.status === "offline").length;
                newest().send("camera.renamed", {mac});
                await new Promise((done) => setTimeout(done, 600));
                const [label, other, name] = [cameras.label("c"), cameras.label("d"), cameras.find(mac).name];
                return {flood, offline, label, other, name};
            }""",
            MAC,
        )
        asked = [path for _, path, _ in page.asked]
    assert seen == {"flood": 1, "offline": 200, "label": "Shelf", "other": "d", "name": "renamed"}
    assert asked.count("/api/v1/cameras/diagnostics") == 1
    assert [path for path in asked if path.startswith("/api/v1/cameras/24")] == [
        "/api/v1/cameras/24%3A6F%3A28%3A00%3A00%3A01"
    ]


async def test_a_dialogue_shows_what_failed_and_what_fails_after_it_was_dismissed_is_told_elsewhere(chromium):
    async with bare_page(chromium, nothing) as page:
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
