"""Settings changed during kill -9, on a full disk or in a read-only folder: the old value or the new one is kept."""

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import aiohttp

from pi_orchestrator.settings.overrides import render
from tests.support.process import UNPRIVILEGED, daemon

IDLE = "cameras.idle_after_s"
CONFIG = "/api/v1/config"
NO_BROKER_WAIT = {"connected": False}

# The program, which kills itself during a change of a setting. KILL_AT is `partial`: the override file is written but
# not yet renamed; `written`: it is renamed, but the change is not applied; `applied`: the change is applied.
SELF_KILLING_DAEMON = (
    sys.executable,
    "-c",
    """
import os, signal, sys
from pathlib import Path
from pi_orchestrator.app.daemon import Daemon
replace, apply, place = Path.replace, Daemon.apply, os.environ["KILL_AT"]
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def dying_replace(self, target):
    if self.name == "overrides.partial":
        die()
    return replace(self, target)
def dying_apply(self, settings):
    if place == "written":
        die()
    apply(self, settings)
    die()
if place == "partial":
    Path.replace = dying_replace
else:
    Daemon.apply = dying_apply
from pi_orchestrator.app.main import main
sys.exit(main())
""",
)


async def item(process, key=IDLE):
    sections = (await process.api.get(CONFIG)).data["sections"]
    (found,) = [item for section in sections for item in section["items"] if item["key"] == key]
    return found["value"], found["origin"]


async def put(process, value, key=IDLE):
    return await process.admin.call("PUT", f"{CONFIG}/{key}", json={"value": value})


async def test_kill_during_change_keeps_old_or_new_value(rig, tmp_path):
    rig.state_dir.mkdir()
    (rig.state_dir / "overrides.json").write_bytes(render({IDLE: "50"}))

    @contextlib.asynccontextmanager
    async def killed(place):
        async with daemon(
            rig, tmp_path, command=SELF_KILLING_DAEMON, env={"KILL_AT": place}, **NO_BROKER_WAIT
        ) as process:
            with contextlib.suppress(aiohttp.ClientError):
                yield process
            assert await process.ended() == -signal.SIGKILL

    async with killed("partial") as process:
        await put(process, "60")
    async with killed("written") as process:
        assert await item(process) == ("50", "override")
        assert (rig.state_dir / "overrides.partial").exists(), "killed while writing"
        await put(process, "60")
    async with killed("applied") as process:
        assert await item(process) == ("60", "override")
        await process.admin.post(f"{CONFIG}/{IDLE}/reset")
    async with daemon(rig, tmp_path, **NO_BROKER_WAIT) as process:
        assert await item(process) == ("120", "default")
        assert (await put(process, "60")).status == 200
        assert {file.name for file in rig.state_dir.glob("overrides*")} == {"overrides.json"}


async def test_full_disk_refuses_change(rig, tmp_path):
    """On a file system that only the daemon sees."""
    rig.state_dir.mkdir()
    inside = '/bin/mount -t tmpfs -o size=4m none "$STATE_DIR" && exec "$@"'
    as_root = () if os.geteuid() == 0 else ("--map-root-user",)
    prefix = (shutil.which("unshare") or "unshare", *as_root, "--mount", "sh", "-c", inside, "sh")
    env = {"STATE_DIR": str(rig.state_dir)}
    auth = {"api_key": "configured-key-0123"}
    async with daemon(rig, tmp_path, prefix=prefix, env=env, auth=auth, **NO_BROKER_WAIT) as process:
        process.admin.key = auth["api_key"]
        folder = Path(f"/proc/{process.pid}/root{rig.state_dir}")
        assert (await put(process, "60")).status == 200
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        refused = await put(process, "x.example," * 500, "http.trusted_hosts")
        assert (refused.status, refused.json["code"]) == (500, "DATABASE_ERROR")
        assert refused.json["error"]["message"] == "the override file cannot be written: no space left on device"
        assert refused.json["error"]["details"] == f"nothing was changed; check {rig.state_dir}"
        assert await item(process, "http.trusted_hosts") == ("", "default")
        assert json.loads((folder / "overrides.json").read_text())["overrides"] == {IDLE: "60"}
        assert not (folder / "overrides.partial").exists()
        filler.unlink()
        assert (await put(process, "x.example", "http.trusted_hosts")).status == 200


async def test_read_only_folder_refuses_change(rig, tmp_path):
    async with daemon(rig, tmp_path, prefix=UNPRIVILEGED, **NO_BROKER_WAIT) as process:
        assert (await put(process, "60")).status == 200
        rig.state_dir.chmod(0o500)
        try:
            refused = await put(process, "61")
            assert (refused.status, refused.json["code"]) == (500, "DATABASE_ERROR")
            assert refused.json["error"]["message"] == "the override file cannot be written: permission denied"
            assert await item(process) == ("60", "override")
        finally:
            rig.state_dir.chmod(0o700)
        assert (await put(process, "61")).status == 200
