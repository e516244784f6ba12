"""SIGHUP: reloadable settings are applied, other changed settings are logged, an invalid file changes nothing."""

import contextlib
import signal

import pytest

from pi_orchestrator.settings.overrides import render
from tests.support.process import NotifySocket, daemon, write_toml
from tests.support.waiting import eventually

STATUS = "/api/v1/onboarding/auto/status"
NOT_RELOADED = "configuration not valid, reload skipped"


@contextlib.asynccontextmanager
async def reloadable(rig, folder, **options):
    """A daemon, and `reload(section={...})`, which writes the configuration, signals, and returns the log entry."""
    async with daemon(rig, folder, **options) as process:

        async def reload(*, expect="configuration reloaded", text=None, **sections):
            before = len(process.entries(expect))
            if text is None:
                write_toml(folder / "config.toml", rig.tree(**sections))
            else:
                (folder / "config.toml").write_text(text)
            process.send(signal.SIGHUP)
            return await process.logged(expect, count=before + 1)

        yield process, reload


async def test_reload_applies_and_names_changed_settings(rig, tmp_path):
    async with reloadable(rig, tmp_path) as (process, reload):
        log_entry = await reload(
            auto_onboard={"max_per_minute": 7, "burst_size": 3, "subnet_allowlist": ["127.9.0.0/16"]}
        )
        assert log_entry["changed"] == [
            "auto_onboard.max_per_minute",
            "auto_onboard.burst_size",
            "auto_onboard.subnet_allowlist",
        ]
        assert log_entry["restart_needed"] == []
        config = (await process.api.get(STATUS)).data["config"]
        assert (config["max_per_minute"], config["burst_size"]) == (7, 3)
        assert config["subnet_allowlist"] == ["127.9.0.0/16"]


async def test_log_level_is_lowered_and_raised(rig, tmp_path):
    async with reloadable(rig, tmp_path) as (process, reload):
        await rig.publish("camera/status/%%%", {})
        assert process.entries("status message dropped") == []
        await reload(logging={"level": "debug"})
        await rig.publish("camera/status/%%%", {})
        await process.logged("status message dropped")

        # The reload is logged at level info, which is now suppressed: another setting shows that it was applied.
        write_toml(tmp_path / "config.toml", rig.tree(logging={"level": "error"}, auto_onboard={"burst_size": 9}))
        process.send(signal.SIGHUP)

        async def is_reloaded():
            return (await process.api.get(STATUS)).data["config"]["burst_size"] == 9

        await eventually(is_reloaded)
        log = process.text()
        await rig.broker.stop()  # logged as a warning, which is suppressed
        await eventually(lambda: _mqtt_is_lost(process))
        assert process.text() == log


async def _mqtt_is_lost(process):
    return (await process.api.get("/readyz")).json["checks"]["mqtt"] is False


async def test_trusted_hosts_are_reloaded(rig, tmp_path):
    async with reloadable(rig, tmp_path) as (process, reload):

        async def status_for(host):
            return (await process.api.get("/api/v1/cameras", headers={"Host": host})).status

        assert await status_for("cameras.example") == 403
        await reload(http={"trusted_hosts": ["cameras.example"]})
        assert await status_for("cameras.example") == 200
        await reload()
        assert await status_for("cameras.example") == 403


@pytest.mark.parametrize("kind", ["in the configuration", "in a file", "in another file"])
async def test_reload_replaces_api_key(rig, tmp_path, kind):
    def auth(key, number):
        if kind == "in the configuration":
            return {"api_key": key}
        file = tmp_path / ("key" if kind == "in a file" else f"key-{number}")
        file.write_text(key)
        return {"api_key_file": str(file)}

    async with reloadable(rig, tmp_path, auth=auth("the-first-key", 1)) as (process, reload):

        async def status_for(key):
            return (await process.api.get("/api/v1/keys", headers={"X-API-Key": key})).status

        assert (await status_for("the-first-key"), await status_for("the-second-key")) == (200, 401)
        log_entry = await reload(auth=auth("the-second-key", 2))
        assert log_entry["restart_needed"] == []
        assert (await status_for("the-first-key"), await status_for("the-second-key")) == (401, 200)
        assert "second-key" not in process.text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[auto_onboard]\nmax_per_minute = 0\nburts_size = 1\n", "did you mean auto_onboard.burst_size?"),
        ("[auto_onboard\n", "not valid TOML"),
        ("[auth]\nmode = 'off'\n[http]\nlisten = ['0.0.0.0:0']\n", "auth.mode"),
        (None, "file not found"),
    ],
    ids=["values", "syntax", "combination", "no file"],
)
async def test_reload_of_invalid_configuration_is_refused(rig, tmp_path, text, problem):
    async with reloadable(rig, tmp_path) as (process, reload):
        before = (await process.api.get(STATUS)).data["config"]
        if text is None:
            (tmp_path / "config.toml").unlink()
            process.send(signal.SIGHUP)
            log_entry = await process.logged(NOT_RELOADED)
        else:
            log_entry = await reload(text=text, expect=NOT_RELOADED)
        assert problem in " ".join(log_entry["problems"])
        assert (await process.api.get(STATUS)).data["config"] == before
        # The next valid configuration is applied.
        await reload(auto_onboard={"burst_size": 11})
        assert (await process.api.get(STATUS)).data["config"]["burst_size"] == 11


async def test_reload_names_settings_that_need_restart(rig, tmp_path):
    async with reloadable(rig, tmp_path) as (process, reload):
        log_entry = await reload(
            mqtt={"port": 1, "client_id": "another"}, auto_onboard={"target_container": "elsewhere"}
        )
        needed = ["auto_onboard.target_container", "mqtt.client_id", "mqtt.port"]
        assert log_entry["restart_needed"] == needed
        assert (await process.api.get("/readyz")).json["checks"]["mqtt"] is True, "the connection is unchanged"
        assert (await process.api.get(STATUS)).data["target_container"] == "auto-onboard"
        assert (await reload(mqtt={"port": 1}, auto_onboard={"burst_size": 4}))["restart_needed"] == ["mqtt.port"]
        assert (await reload())["restart_needed"] == []


async def test_retired_settings_are_logged_and_ignored(rig, tmp_path):
    rig.state_dir.mkdir()
    overrides = rig.state_dir / "overrides.json"
    overrides.write_bytes(render({"auto_onboard.queue_limit": "10", "auto_onboard.burst_size": "7"}))
    config, env = tmp_path / "config.toml", {"PIORCH_STORAGE__BACKUPS_KEPT": "2"}
    async with reloadable(rig, tmp_path, env=env, mqtt={"keepalive_s": 20}) as (process, reload):

        def logged():
            entries = process.entries("setting has no effect")
            assert {entry["level"] for entry in entries} <= {"warning"}
            assert all(entry["reason"] for entry in entries)
            return [(entry["key"], entry["origin"]) for entry in entries]

        at_start = [
            ("mqtt.keepalive_s", f"file {config}"),
            ("storage.backups_kept", "environment PIORCH_STORAGE__BACKUPS_KEPT"),
            ("auto_onboard.queue_limit", f"override {overrides}"),
        ]
        assert logged() == at_start
        log_entry = await reload(provisioning={"breaker_failures": 0}, auto_onboard={"max_per_minute": 7})
        assert (log_entry["changed"], log_entry["restart_needed"]) == (["auto_onboard.max_per_minute"], [])
        assert logged()[3:] == [("provisioning.breaker_failures", f"file {config}"), *at_start[1:]]
        status = (await process.api.get(STATUS)).data["config"]
        assert (status["max_per_minute"], status["burst_size"]) == (7, 7)
        assert (await process.api.get("/readyz")).json["ready"] is True

        # An unknown key beside a retired setting is still refused, and the retired settings are not logged again.
        log_entry = await reload(expect=NOT_RELOADED, mqtt={"keepalive_s": 20, "keepaliv": 20})
        assert len(log_entry["problems"]) == 1
        assert log_entry["problems"][0].startswith("mqtt.keepaliv: unknown key")
        assert len(logged()) == 6


async def test_reload_keeps_kill_switch(rig, tmp_path):
    async with reloadable(rig, tmp_path) as (process, reload):
        await process.api.post("/api/v1/onboarding/auto/disable")
        await reload(auto_onboard={"enabled": True, "burst_size": 12})
        status = (await process.api.get(STATUS)).data
        assert (status["enabled"], status["running"], status["config"]["burst_size"]) == (False, False, 12)


async def test_reload_keeps_overrides(rig, tmp_path):
    key = "/api/v1/config/auto_onboard.burst_size"
    async with reloadable(rig, tmp_path, auto_onboard={"burst_size": 5}) as (process, reload):

        async def burst():
            return (await process.api.get(STATUS)).data["config"]["burst_size"]

        await process.admin.call("PUT", key, json={"value": "7"})
        log_entry = await reload(auto_onboard={"burst_size": 6, "max_per_minute": 60})
        assert (log_entry["changed"], await burst()) == (["auto_onboard.max_per_minute"], 7)
        # This file is not reloaded yet, so a reset does not use it.
        write_toml(tmp_path / "config.toml", rig.tree(auto_onboard={"burst_size": 9}))
        item = (await process.admin.post(f"{key}/reset")).data["item"]
        assert (item["value"], item["origin"], await burst()) == ("6", "file", 6)
        await reload(auto_onboard={"burst_size": 9})
        assert await burst() == 9

        # An override in conflict with the new file is named, and nothing changes.
        await process.admin.call("PUT", "/api/v1/config/auth.mode", json={"value": "off"})
        outside = {"http": {"listen": ["0.0.0.0:0"]}, "auto_onboard": {"allow_loopback": False}}
        refused = await reload(expect=NOT_RELOADED, **outside)
        assert "auth.mode: 'off' is refused" in refused["problems"][0]
        assert await burst() == 9


async def test_reload_notifies_systemd(rig, tmp_path):
    async with NotifySocket(tmp_path / "notify") as systemd:
        env = {"NOTIFY_SOCKET": str(systemd.path)}
        async with reloadable(rig, tmp_path, env=env) as (process, reload):
            await systemd.received("READY=1")
            await reload(auto_onboard={"burst_size": 2})
            await systemd.received("READY=1", count=2)
            await reload(text="[", expect=NOT_RELOADED)
            await systemd.received("READY=1", count=3)
            notifications = [
                line.split("=")[0] for line in systemd.lines if line.split("=")[0] not in ("STATUS", "WATCHDOG")
            ]
            assert notifications == ["READY", *("RELOADING", "MONOTONIC_USEC", "READY") * 2]


async def test_many_reloads_apply_last_configuration(rig, tmp_path):
    async with reloadable(rig, tmp_path) as (process, _):
        for number in range(1, 31):
            write_toml(tmp_path / "config.toml.new", rig.tree(auto_onboard={"burst_size": number}))
            (tmp_path / "config.toml.new").replace(tmp_path / "config.toml")
            process.send(signal.SIGHUP)

        async def last_is_applied():
            return (await process.api.get(STATUS)).data["config"]["burst_size"] == 30

        await eventually(last_is_applied)
        assert process.entries(NOT_RELOADED) == []
