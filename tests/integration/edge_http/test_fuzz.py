"""Every route, fuzzed from the OpenAPI document against a daemon process."""

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

from pi_orchestrator.app.build import ROUTES
from pi_orchestrator.core.error_codes import ErrorCode
from pi_orchestrator.http.route import STREAM
from tests.support.process import daemon, environment
from tests.support.sampling import Scale, repeats
from tests.support.waiting import eventually

KEY = "fuzzing-key-0123456789"
TIME_LIMIT_S = 300
"""Time limit of a fuzzer."""
# Related operations are fuzzed together: one creates what another one uses.
GROUPS = {
    "provisioning": {"provisioning", "allowlist"},
    "cameras": {"cameras", "captures", "containers", "pairing"},
    "network": {"network", "discovery", "onboarding"},
}
TAGS = {route.tag for route in ROUTES}
GROUPS["everything else"] = TAGS.difference(*GROUPS.values())
# The sample of a quick run is so small that one fuzzer for all groups takes less time than one for each.
RUNS = GROUPS if Scale.slow else {"all": TAGS}
# A fuzzer waits for the end of an answer; the parameters of streams are tested in test_streams.py.
STREAMS = {route.operation_id for route in ROUTES if route.shape is STREAM}
# If a camera is offline or the network is missing, these return the 5xx that they document. One of any other is a bug.
MAY_FAIL = {
    route.operation_id
    for route in ROUTES
    if route.tag != "provisioning" and any(ErrorCode[code].status >= 500 for code in route.errors)
}
# These refuse input that fits their schema, as their description says. No schema can say what a CSV file is, how many
# bytes a text has, that a network other than the configured one needs a password, what values a setting takes, that
# only one command has a resolution, or that a camera cannot replace itself.
DOCUMENTED_IN_TEXT = {
    *("allowlist_import_csv", "sessions_start", "sessions_start_discovery"),
    *("config_change", "config_change_bare", "commands_command", "pairing_replace"),
}


def schemathesis():
    """The path of the program: beside this Python, or on PATH."""
    found = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or shutil.which("schemathesis")
    assert found, "schemathesis is not installed: pip install -e '.[dev]'"
    return found


def configuration(operations):
    """The fuzzer's configuration: all checks, but for exemptions of some operations."""
    # After many wrong keys the answer is 429 instead of 401: see test_auth.
    lines = ["[checks]", "ignored_auth.enabled = false"]
    for operation in operations:
        exempt = ["not_a_server_error"] if operation in MAY_FAIL else []
        exempt += ["positive_data_acceptance"] if operation in DOCUMENTED_IN_TEXT else []
        lines += ["[[operations]]", f'include-operation-id = "{operation}"'] if exempt else []
        lines += [f"checks.{check}.enabled = false" for check in exempt]
    return "\n".join(lines)


async def fuzz(url, folder, operations):
    """Fuzz these operations of a daemon; return (exit code, output)."""
    config = folder / "schemathesis.toml"
    config.write_text(configuration(operations))
    process = await asyncio.create_subprocess_exec(
        schemathesis(),
        f"--config-file={config}",
        "run",
        f"{url}/openapi.json",
        *(f"--include-operation-id={operation}" for operation in operations),
        "--header",
        f"X-API-Key:{KEY}",
        "--generation-deterministic",
        f"--max-examples={repeats(2, slow=60)}",
        *([] if Scale.slow else ["--phases=examples,coverage,fuzzing"]),  # without this option: stateful sequences too
        "--request-timeout=10",
        "--no-color",
        "--continue-on-failure",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(HOME=str(folder)),
        cwd=folder,
    )
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        pytest.fail(f"the fuzzer was not done after {TIME_LIMIT_S} s")
    return process.returncode, out.decode()


def test_operations_documented_in_text_exist():
    assert {route.operation_id for route in ROUTES} >= DOCUMENTED_IN_TEXT


@pytest.mark.timeout(2 * TIME_LIMIT_S)
@pytest.mark.parametrize("tags", RUNS.values(), ids=RUNS)
async def test_answers_are_as_documented(rig, tmp_path, tags):
    async with daemon(rig, tmp_path, auth={"api_key": KEY}, logging={"format": "json"}) as process, rig.fleet(3):

        async def paired():
            return (await process.api.get("/api/v1/espcam/paired")).data["total"] == 3

        await eventually(paired)
        operations = sorted({route.operation_id for route in ROUTES if route.tag in tags} - STREAMS)
        code, output = await fuzz(process.api.url, tmp_path, operations)
        assert code == 0, output
        assert f"Tested: {len(operations)}\n" in output, output
        assert process.entries("request failed") == []
        assert process.entries("worker failed") == []
        assert "Traceback" not in process.text()
        assert await process.stop() == 0
