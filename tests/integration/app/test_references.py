"""The pages in docs/reference/ match the code."""

import shutil
import sys

from tests.support.process import ROOT, command


async def references(*args, root=ROOT):
    script = root / "scripts" / "references.py"
    code = f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')"
    done = await command(*args, program=(sys.executable, "-c", code))
    return done.code, done.out + done.err


async def test_pages_match_the_code():
    assert await references("--check") == (0, "")


async def test_changed_page_is_named(tmp_path):
    for name in ("scripts", "docs/reference"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = tmp_path / "docs" / "reference" / "errors.md"
    page.write_text(page.read_text().replace("404", "405"))
    code, out = await references("--check", root=tmp_path)
    assert (code, out) == (1, "docs/reference/errors.md differs from the code; run scripts/references.py\n")
