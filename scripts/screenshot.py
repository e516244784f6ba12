#!/usr/bin/env python3
"""Make docs/page.jpg: the console page of a demo with simulated cameras, in Debian's Chromium.

usage: scripts/screenshot.py [FILE]     (default: docs/page.jpg)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import cast

from playwright.async_api import async_playwright

ROOT = Path(__file__).parents[1]
CAMERAS = 12
SIZE = {"width": 1280, "height": 640}
WAIT_S = 60


async def take(file: Path) -> None:
    """Start a demo, wait for its cameras, and save the page."""
    chromium = shutil.which("chromium")
    if not chromium:
        sys.exit("error: chromium is missing\n  sudo apt install chromium")
    async with asyncio.timeout(WAIT_S), async_playwright() as playwright:
        with tempfile.TemporaryDirectory() as folder:
            demo = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "pi_orchestrator", "demo", "--count", str(CAMERAS), "--port", "0"),
                *("--state-dir", folder),
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            try:
                url = await _address(demo)
                browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = await browser.new_page(viewport=SIZE)  # type: ignore[arg-type]  # a ViewportSize
                await page.goto(url)
                await page.get_by_text("online", exact=True).nth(CAMERAS - 1).wait_for()
                for button in await page.get_by_role("button", name="Capture").all():
                    await button.click()
                await page.locator("article img, li img").nth(3).wait_for()  # at least four pictures
                await page.wait_for_timeout(2000)  # messages disappear, images fade in
                await page.evaluate("scrollTo(0, 0)")
                await page.screenshot(path=file, type="jpeg", quality=70)
                await browser.close()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    demo.terminate()
                await demo.communicate()


async def _address(demo: asyncio.subprocess.Process) -> str:
    async for line in cast("asyncio.StreamReader", demo.stdout):
        if found := re.search(rb"page +(http://\S+)", line):
            return found[1].decode()
    sys.exit("error: the demo has ended")


def main() -> None:
    """Parse the arguments and take the picture."""
    parser = argparse.ArgumentParser(description="Save a picture of the page with simulated cameras.")
    parser.add_argument("file", nargs="?", type=Path, default=ROOT / "docs" / "page.jpg")
    asyncio.run(take(parser.parse_args().file))


if __name__ == "__main__":
    main()
