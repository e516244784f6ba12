"""Every route, fuzzed from its own document against a daemon that runs by itself."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from tests.support.api import DOCUMENT
from tests.support.process import daemon, environment
from tests.support.waiting import eventually

KEY = "fuzzing-key-0123456789"
SECONDS = 90
EXAMPLES = 40
OPERATIONS = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
STREAMS = [one["operationId"] for one in OPERATIONS if "text/event-stream" in str(one["responses"])]
"""A fuzzer waits for the end of an answer; their parameters are tested in test_streams.py."""
MAY_FAIL = [one["operationId"] for one in OPERATIONS if one["responses"].keys() & {"502", "503", "504"}]
"""What asks cameras, radios or other programs; everybody else has to answer."""
IMPORT = "allowlist_import_csv"
STARTS = ("sessions_start", "sessions_start_discovery")
SETS = ("config_change", "config_change_bare", "pairing_replace")
# Whoever tries wrong keys on so many routes is soon told 429 instead of 401: see test_auth.
CHECKS = ("--exclude-checks", "ignored_auth")
WITHOUT_5XX = ("--exclude-checks", "ignored_auth,not_a_server_error,positive_data_acceptance")
ANY_TEXT = ("--exclude-checks", "ignored_auth,positive_data_acceptance")


def schemathesis():
    """The program that belongs to this Python."""
    found = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")
    assert found, "schemathesis is not installed: pip install -e '.[dev]'"
    return found


def excluding(*operations):
    return [word for name in operations for word in ("--exclude-operation-id", name)]


def including(*operations):
    return [word for name in operations for word in ("--include-operation-id", name)]


async def fuzz(url, folder, *more):
    """Run it against a daemon; (exit code, what it says)."""
    process = await asyncio.create_subprocess_exec(
        schemathesis(),
        "run",
        f"{url}/openapi.json",
        "--header",
        f"X-API-Key:{KEY}",
        "--checks=all",
        "--generation-deterministic",
        f"--max-examples={EXAMPLES}",
        "--request-timeout=10",
        "--no-color",
        "--continue-on-failure",
        *more,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(HOME=str(folder)),
        cwd=folder,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        pytest.fail(f"the fuzzer was not done after {SECONDS} s")
    return process.returncode, out.decode()


@pytest.mark.timeout(SECONDS + 30)
async def test_no_route_breaks_and_every_answer_is_as_documented(world, tmp_path):
    async with daemon(world, tmp_path, auth={"api_key": KEY}, logging={"format": "json"}) as process, world.fleet(3):

        async def paired():
            return (await process.api.get("/api/v1/espcam/paired")).data["total"] == 3

        await eventually(paired)
        # No schema can say what a CSV file is, how many bytes a text has, that a password is needed with another
        # network, what each key of the configuration takes, which command has a resolution, or that a camera is not
        # replaced by itself.
        for which in (
            (*excluding(*MAY_FAIL, *STREAMS, IMPORT, *STARTS, *SETS), *CHECKS),
            (*including(*MAY_FAIL), *WITHOUT_5XX),
            (*including(IMPORT, *STARTS, *SETS), *ANY_TEXT),
        ):
            code, said = await fuzz(process.api.url, tmp_path, *which)
            assert code == 0, said
            print(said)
        assert process.entries("request failed") == []
        assert process.entries("worker failed") == []
        assert "Traceback" not in process.text()
        assert await process.stop() == 0
