"""SIGHUP: the configuration is read again; what can change does, the rest is named, and a wrong one changes nothing."""

import contextlib
import signal

import pytest

from tests.support.process import NotifySocket, daemon, write_toml
from tests.support.waiting import eventually

STATUS = "/api/v1/onboarding/auto/status"
NOT_TAKEN = "configuration not reloaded: it is not valid, the old one stays"


@contextlib.asynccontextmanager
async def reloadable(world, folder, **how):
    """A daemon, and `reload(section={...})`, which writes the configuration, signals, and returns what is logged."""
    async with daemon(world, folder, **how) as process:

        async def reload(*, expect="configuration reloaded", text=None, **sections):
            before = len(process.entries(expect))
            if text is None:
                write_toml(folder / "config.toml", world.tree(**sections))
            else:
                (folder / "config.toml").write_text(text)
            process.send(signal.SIGHUP)
            return await process.logged(expect, count=before + 1)

        yield process, reload


async def test_a_valid_change_takes_effect_and_every_changed_key_is_named(world, tmp_path):
    async with reloadable(world, tmp_path) as (process, reload):
        said = await reload(auto_onboard={"max_per_minute": 7, "burst_size": 3, "subnet_allowlist": ["127.9.0.0/16"]})
        assert said["changed"] == [
            "auto_onboard.max_per_minute",
            "auto_onboard.burst_size",
            "auto_onboard.subnet_allowlist",
        ]
        assert said["restart_needed"] == []
        config = (await process.api.get(STATUS)).data["config"]
        assert (config["max_per_minute"], config["burst_size"]) == (7, 3)
        assert config["subnet_allowlist"] == ["127.9.0.0/16"]


async def test_the_log_level_changes_both_ways(world, tmp_path):
    async with reloadable(world, tmp_path) as (process, reload):
        await world.publish("camera/status/%%%", {})
        assert process.entries("status message dropped") == []
        await reload(logging={"level": "debug"})
        await world.publish("camera/status/%%%", {})
        await process.logged("status message dropped")

        # That it was reloaded is told at level info, so not any more: another key shows that it was taken.
        write_toml(tmp_path / "config.toml", world.tree(logging={"level": "error"}, auto_onboard={"burst_size": 9}))
        process.send(signal.SIGHUP)

        async def taken():
            return (await process.api.get(STATUS)).data["config"]["burst_size"] == 9

        await eventually(taken)
        told = process.text()
        await world.broker.stop()  # a warning elsewhere
        await eventually(lambda: _mqtt_is_lost(process))
        assert process.text() == told


async def _mqtt_is_lost(process):
    return (await process.api.get("/readyz")).json["checks"]["mqtt"] is False


async def test_trusted_hosts_change(world, tmp_path):
    async with reloadable(world, tmp_path) as (process, reload):

        async def code(host):
            return (await process.api.get("/api/v1/cameras", headers={"Host": host})).status

        assert await code("cameras.example") == 403
        await reload(http={"trusted_hosts": ["cameras.example"]})
        assert await code("cameras.example") == 200
        await reload()
        assert await code("cameras.example") == 403


@pytest.mark.parametrize("kind", ["in the configuration", "in a file", "in another file"])
async def test_a_new_api_key_is_valid_at_once_and_the_old_one_is_not(world, tmp_path, kind):
    def auth(key, number):
        if kind == "in the configuration":
            return {"api_key": key}
        file = tmp_path / ("key" if kind == "in a file" else f"key-{number}")
        file.write_text(key)
        return {"api_key_file": str(file)}

    async with reloadable(world, tmp_path, auth=auth("the-first-key", 1)) as (process, reload):

        async def code(key):
            return (await process.api.get("/api/v1/keys", headers={"X-API-Key": key})).status

        assert (await code("the-first-key"), await code("the-second-key")) == (200, 401)
        said = await reload(auth=auth("the-second-key", 2))
        assert said["restart_needed"] == []
        assert (await code("the-first-key"), await code("the-second-key")) == (401, 200)
        assert "second-key" not in process.text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[auto_onboard]\nmax_per_minute = 0\nburts_size = 1\n", "did you mean auto_onboard.burst_size?"),
        ("[auto_onboard\n", "this is not TOML"),
        ("[auth]\nmode = 'off'\n[http]\nlisten = ['0.0.0.0:0']\n", "auth.mode"),
        (None, "there is no such file"),
    ],
    ids=["values", "syntax", "combination", "no file"],
)
async def test_an_invalid_configuration_is_refused_whole_and_the_old_one_stays(world, tmp_path, text, problem):
    async with reloadable(world, tmp_path) as (process, reload):
        before = (await process.api.get(STATUS)).data["config"]
        if text is None:
            (tmp_path / "config.toml").unlink()
            process.send(signal.SIGHUP)
            said = await process.logged(NOT_TAKEN)
        else:
            said = await reload(text=text, expect=NOT_TAKEN)
        assert problem in " ".join(said["problems"])
        assert (await process.api.get(STATUS)).data["config"] == before
        # And the next valid one is taken.
        await reload(auto_onboard={"burst_size": 11})
        assert (await process.api.get(STATUS)).data["config"]["burst_size"] == 11


async def test_keys_that_need_a_restart_are_named_until_they_are_as_at_the_start(world, tmp_path):
    async with reloadable(world, tmp_path) as (process, reload):
        said = await reload(mqtt={"port": 1, "client_id": "another"}, auto_onboard={"target_container": "elsewhere"})
        needed = ["auto_onboard.target_container", "mqtt.client_id", "mqtt.port"]
        assert said["restart_needed"] == needed
        assert (await process.api.get("/readyz")).json["checks"]["mqtt"] is True, "the connection stays as it was"
        assert (await process.api.get(STATUS)).data["target_container"] == "auto-onboard"
        assert (await reload(mqtt={"port": 1}, auto_onboard={"burst_size": 4}))["restart_needed"] == ["mqtt.port"]
        assert (await reload())["restart_needed"] == []


async def test_a_reload_does_not_throw_the_kill_switch_back(world, tmp_path):
    async with reloadable(world, tmp_path) as (process, reload):
        await process.api.post("/api/v1/onboarding/auto/disable")
        await reload(auto_onboard={"enabled": True, "burst_size": 12})
        status = (await process.api.get(STATUS)).data
        assert (status["enabled"], status["running"], status["config"]["burst_size"]) == (False, False, 12)


async def test_a_reload_keeps_what_operators_have_set_and_takes_the_rest(world, tmp_path):
    key = "/api/v1/config/auto_onboard.burst_size"
    async with reloadable(world, tmp_path, auto_onboard={"burst_size": 5}) as (process, reload):

        async def burst():
            return (await process.api.get(STATUS)).data["config"]["burst_size"]

        await process.admin.call("PUT", key, json={"value": "7"})
        said = await reload(auto_onboard={"burst_size": 6, "max_per_minute": 60})
        assert (said["changed"], await burst()) == (["auto_onboard.max_per_minute"], 7)
        # Not reloaded yet, so a reset does not go back to it.
        write_toml(tmp_path / "config.toml", world.tree(auto_onboard={"burst_size": 9}))
        item = (await process.admin.post(f"{key}/reset")).data["item"]
        assert (item["value"], item["origin"], await burst()) == ("6", "file", 6)
        await reload(auto_onboard={"burst_size": 9})
        assert await burst() == 9

        # An override that the new file contradicts is named, and nothing changes.
        await process.admin.call("PUT", "/api/v1/config/auth.mode", json={"value": "off"})
        outside = {"http": {"listen": ["0.0.0.0:0"]}, "auto_onboard": {"allow_loopback": False}}
        refused = await reload(expect=NOT_TAKEN, **outside)
        assert "auth.mode: 'off' is refused" in refused["problems"][0]
        assert await burst() == 9


async def test_systemd_is_told_of_a_reload_and_of_its_end_valid_or_not(world, tmp_path):
    async with NotifySocket(tmp_path / "notify") as systemd:
        env = {"NOTIFY_SOCKET": str(systemd.path)}
        async with reloadable(world, tmp_path, env=env) as (process, reload):
            await systemd.received("READY=1")
            await reload(auto_onboard={"burst_size": 2})
            await systemd.received("READY=1", count=2)
            await reload(text="[", expect=NOT_TAKEN)
            await systemd.received("READY=1", count=3)
            told = [line.split("=")[0] for line in systemd.lines if line.split("=")[0] not in ("STATUS", "WATCHDOG")]
            assert told == ["READY", *("RELOADING", "MONOTONIC_USEC", "READY") * 2]


async def test_many_hang_ups_in_a_row_leave_the_last_configuration_in_force(world, tmp_path):
    async with reloadable(world, tmp_path) as (process, _):
        for number in range(1, 31):
            write_toml(tmp_path / "config.toml.new", world.tree(auto_onboard={"burst_size": number}))
            (tmp_path / "config.toml.new").replace(tmp_path / "config.toml")
            process.send(signal.SIGHUP)

        async def last_is_in_force():
            return (await process.api.get(STATUS)).data["config"]["burst_size"] == 30

        await eventually(last_is_in_force)
        assert process.entries(NOT_TAKEN) == []
