"""A built dashboard in a real browser: views as paths, hashed assets, its own Content-Security-Policy."""

import gzip
import os
import time

import pytest

from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

INDEX = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dashboard</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/assets/index-Bq81kd0A.css">
<script>document.documentElement.dataset.theme = "set by an inline script"</script>
<script type="module" crossorigin src="/assets/index-DiwrgTda.js"></script></head>
<body><div id="root"></div></body></html>"""
SCRIPT = """
const root = document.getElementById("root");
const link = (path) => `<a href="${path}">${path}</a>`;
async function show() {
    const { Part } = await import("./part-K3_d8sQx.js");
    const answer = await fetch("/api/v1/cameras").then((answer) => answer.json());
    root.innerHTML = `<style>h1 { font-weight: 400 }</style><h1 style="color: rgb(1, 2, 3)">${location.pathname}</h1>
        ${link("/cameras")} ${link("/cameras/24:6F:28:44:CB:60")} <p>${Part} ${answer.data.count}</p>`;
    const source = new EventSource("/api/v1/events");
    source.onmessage = () => { document.title = "streaming"; source.close(); };
}
addEventListener("click", (event) => {
    if (!event.target.href) return;
    event.preventDefault();
    history.pushState({}, "", event.target.href);
    show();
});
addEventListener("popstate", show);
show();
"""


def build(folder):
    files = {
        "index.html": INDEX.encode(),
        "assets/index-DiwrgTda.js": SCRIPT.encode(),
        "assets/index-DiwrgTda.js.gz": gzip.compress(SCRIPT.encode()),
        "assets/part-K3_d8sQx.js": b'export const Part = "a part that is loaded later";',
        "assets/index-Bq81kd0A.css": b"h1 { text-transform: uppercase }",
    }
    (folder / "assets").mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
        os.utime(folder / name, (time.time() - 3600,) * 2)
    return folder


async def test_dashboard_works_and_loads_once(rig, chromium, tmp_path):
    folder = build(tmp_path / "dashboard")
    async with rig.daemon(connected=False, http={"dashboard_dir": str(folder)}) as running:
        async with chromium.page(f"{running.daemon.url}/settings/network") as page:
            responses = []
            page.on("response", lambda response: responses.append((response.url.rpartition("/")[2], response)))
            await page.wait_for_text("/settings/network")
            assert await page.evaluate("document.documentElement.dataset.theme") == "set by an inline script"
            heading = page.locator("h1")
            assert await heading.evaluate("(it) => getComputedStyle(it).textTransform") == "uppercase"
            assert await heading.evaluate("(it) => getComputedStyle(it).color") == "rgb(1, 2, 3)"
            await page.wait_for_text("a part that is loaded later 0")
            await page.wait_for_function("document.title === 'streaming'")

            await page.get_by_role("link", name="24:6F").click()
            await page.wait_for_text("/cameras/24:6F:28:44:CB:60")
            await page.reload()
            await page.wait_for_text("/cameras/24:6F:28:44:CB:60")
            await page.go_back()
            await page.wait_for_text("/settings/network")

            # A reload requests the page again; its assets come from the cache.
            scripts = [response for name, response in responses if name == "index-DiwrgTda.js"]
            assert scripts
            headers = await scripts[0].all_headers()
            assert headers["content-encoding"] == "gzip"
            assert "immutable" in headers["cache-control"]
            sizes = [(await script.request.sizes())["responseBodySize"] for script in scripts]
            assert sum(size > 0 for size in sizes) <= 1, sizes

        async with chromium.page(f"{running.daemon.url}/") as page:
            # Injected scripts do not run: the policy allows the dashboard's own scripts only.
            page.expect("Content Security Policy")
            await page.wait_for_text("a part that is loaded later")
            await page.evaluate(
                """() => {
                    document.body.insertAdjacentHTML("beforeend", "<img src=/x onerror='window.ran = 1'>");
                    const script = document.createElement("script");
                    script.textContent = "window.ran = 2";
                    document.body.append(script);
                }"""
            )
            page.expect("404")
            for fault in ("inline event handler", "inline script", "404"):
                await eventually(
                    lambda fault=fault: any(fault in text for text in page.messages), what=f"{fault} is refused"
                )
            assert await page.evaluate("window.ran") is None


async def test_console_page_has_own_policy(rig, chromium):
    async with (
        rig.daemon(connected=False) as running,
        chromium.page(running.daemon.url) as page,
    ):
        await page.wait_for_text("Pi Orchestrator")
        policy = await page.evaluate("fetch('/').then((answer) => answer.headers.get('Content-Security-Policy'))")
        assert policy.startswith("default-src 'none'")
