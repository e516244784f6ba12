"""F1: first load of the console page with an empty browser cache, compared with one file of the same size."""

import contextlib
import statistics

from tests.bench.environment import api, daemon, wait_until_connected
from tests.bench.process import child
from tests.bench.report import Row
from tests.support import browser
from tests.support.waiting import eventually

ROUNDS = 7
BARE = "bare aiohttp with one page of the same size in bytes, in the same browser"

# Runs before the page's scripts; records when the first card appears.
WATCH = """
new MutationObserver((_, watch) => {
  if (document.querySelector(".cards > .card")) { window.firstCard = performance.now(); watch.disconnect(); }
}).observe(document, { childList: true, subtree: true });
"""
PAINTED = 'performance.getEntriesByName("first-contentful-paint")[0]?.startTime'


async def first_load(env):
    async with env.rig_with_cameras("page") as rig, daemon(rig) as running, browser.opened() as chromium:
        await wait_until_connected(running)
        async with api(running) as get:
            if not (await get("/api/v1/cameras"))["data"]["cameras"]:
                raise RuntimeError("the daemon has no camera to show")
        size = round((await _load(chromium, f"{running.url}/", cards=True))["bytes"])
        file = env.path("page") / "page.html"
        file.write_text(f"<!doctype html><title>Page</title><p>Page</p><!--{'x' * (size - 200)}-->")
        async with child("tests.bench.bare", "http", file) as bare:
            url = f"http://127.0.0.1:{await bare.next_line()}/page"
            ours, reference = [], []
            for _ in range(ROUNDS):
                ours.append(await _load(chromium, f"{running.url}/", cards=True))
                reference.append(await _load(chromium, url))
    rows = []
    for measure, key, reference_key, unit in (
        ("console page: bytes", "bytes", "bytes", "KiB"),
        ("… requests", "requests", "requests", ""),
        ("… first contentful paint", "paint", "paint", "ms"),
        ("… first camera card", "card", "paint", "ms"),
    ):
        median = statistics.median(load[key] for load in ours)
        reference_median = statistics.median(load[reference_key] for load in reference)
        scale = 1024 if unit == "KiB" else 1
        rows.append(
            Row("F1", measure, unit, median / scale, reference_median / scale, median / reference_median, note=BARE)
        )
    return rows


async def _load(chromium, url, *, cards=False):
    """Bytes, requests, first paint (ms) and, if `cards`, first card (ms), in a new profile."""
    context = await chromium.browser.new_context(viewport=browser.DESKTOP)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(context.close)
        page = await context.new_page()
        await page.add_init_script(WATCH)
        devtools = await context.new_cdp_session(page)
        await devtools.send("Network.enable")
        sizes, requests = {}, set()
        devtools.on("Network.requestWillBeSent", lambda event: requests.add(event["requestId"]))
        # Streams never finish loading, so their bytes are counted as they arrive.
        devtools.on("Network.dataReceived", lambda event: _add(sizes, event["requestId"], event["encodedDataLength"]))
        devtools.on(
            "Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]})
        )
        await page.goto(url)
        # Polled by the test: the page's content security policy forbids waiting inside it.
        card = await eventually(lambda: page.evaluate("window.firstCard")) if cards else 0.0
        paint = await eventually(lambda: page.evaluate(PAINTED))
        return {"bytes": sum(sizes.values()), "requests": len(requests), "paint": paint, "card": card}


def _add(sizes, request, count):
    sizes[request] = sizes.get(request, 0) + count
