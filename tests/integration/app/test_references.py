"""The pages in docs/reference/ match the code."""

import asyncio
import shutil
import sys

from tests.support.process import ROOT, environment


async def references(*args, root=ROOT):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, root / "scripts" / "references.py", *args),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(PYTHONPATH=str(root)),
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_pages_match_the_code():
    assert await references("--check") == (0, "")


async def test_changed_page_is_named(tmp_path):
    for name in ("scripts", "docs", "pi_orchestrator"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "docs" / "reference" / "errors.md"
    page.write_text(page.read_text().replace("404", "405"))
    code, out = await references("--check", root=tmp_path)
    assert (code, out) == (1, "docs/reference/errors.md differs from the code; run scripts/references.py\n")
