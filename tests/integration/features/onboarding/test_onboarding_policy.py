"""Onboarding policy in the daemon: rules in the contract's order; rejected cameras receive no request."""

import contextlib
import socket

import pytest
from aiohttp import web

from pi_orchestrator.sandbox.server import http_server
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

REJECTED = "rejected_by_policy"
AUTO = "/api/v1/onboarding/auto"


@contextlib.asynccontextmanager
async def counting_server(rig):
    """Record requests to the cameras' port at any address of this machine."""
    reached = []

    async def answer(request):
        reached.append(request.path)
        return web.json_response({})

    sock = socket.create_server(("0.0.0.0", 0))  # a port that is free on every address
    rig.camera_port = sock.getsockname()[1]
    async with http_server(sock, answer):
        yield reached


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"enabled": False}, "NOT_ENABLED"),
        ({"mode": "off"}, "NOT_ENABLED"),
        ({"subnet_allowlist": ["198.51.100.0/24"]}, "SUBNET_NOT_ALLOWED"),
        ({"allow_loopback": False}, "SUBNET_NOT_ALLOWED"),
        ({"deny": ["24:6F:28:00:00:10"]}, "DENIED"),
        ({"deny": ["246f28000010"]}, "DENIED"),
    ],
)
async def test_rejection_is_stored_without_request(rig, sections, code):
    async with rig.camera(1) as camera, rig.daemon(auto_onboard=sections) as running:
        await camera.publish_status()
        await running.wait_until_processed(rig)
        (row,) = await running.onboarding_events(mac=camera.mac)
        assert (row["stage"], row["outcome"], row["error_code"]) == (REJECTED, "failure", code)
        assert row["error_message"]
        assert row["ip_address"] == camera.address
        assert (camera.requests, len(running.app.cameras.cache)) == (0, 0)
        assert (await running.status())["metrics"]["attempts"] == 0


async def test_rules_decide_in_contract_order(rig):
    """A camera that fails every rule is rejected by the first; each fixed rule exposes the next."""
    broken = {
        "enabled": False,
        "mode": "off",
        "subnet_allowlist": ["198.51.100.0/24"],
        "deny": [rig.mac(1)],
        "burst_size": 1,
        "max_per_minute": 1,
    }
    clock = FakeClock()
    async with (
        rig.camera(1) as camera,
        rig.camera(2) as first,
        rig.daemon(clock=clock, auto_onboard=broken) as running,
    ):

        async def rejection(fixed):
            """Correct these rules; return the code of the stored rejection and the first failed rule of `explain`."""
            running.daemon.apply(rig.settings(auto_onboard=broken | fixed))
            await clock.advance(61)
            await camera.publish_status()
            await running.wait_until_processed(rig)
            *_, (stage, code) = await running.onboarding_stages(camera.mac)
            assert stage == REJECTED
            query = {"mac": camera.mac, "ip": camera.address}
            rules = (await running.api.get(f"{AUTO}/policy/explain", params=query)).data["rules"]
            return code, next(rule["rule"] for rule in rules if rule["result"] == "fail")

        fixed = {"mode": "dev"}
        assert await rejection(fixed) == ("NOT_ENABLED", "enabled")
        await running.api.post(f"{AUTO}/enable")
        assert await rejection({}) == ("NOT_ENABLED", "mode")
        assert await rejection(fixed) == ("SUBNET_NOT_ALLOWED", "subnet")
        fixed |= {"subnet_allowlist": [rig.network]}
        assert await rejection(fixed) == ("DENIED", "deny")
        await first.publish_status()
        await eventually(lambda: first.mac in running.app.cameras.cache)  # spends the only token
        running.daemon.apply(rig.settings(auto_onboard=broken | fixed | {"deny": []}))
        await camera.publish_status()
        await running.wait_until_processed(rig)
        assert (await running.onboarding_stages(camera.mac))[-1] == (REJECTED, "ONBOARD_RATE_LIMITED")
        assert camera.requests == 0
        await clock.advance(61)
        await eventually(lambda: camera.mac in running.app.cameras.cache)


# Documentation networks (RFC 5737): even a faulty daemon contacts no real host.
SUBNET = "198.51.100.0/25"
OUTSIDE = [
    "127.0.0.1",  # this machine, by loopback
    "127.8.8.8",
    "169.254.10.5",  # link-local
    "198.51.100.130",  # the next network
    "203.0.113.5",
    "0.0.0.0",
    "198.51.100.0",  # the network's own address
    "198.51.100.127",  # broadcast
    "255.255.255.255",
    "224.0.0.251",  # multicast
    "240.0.0.1",  # reserved
    "::1",
    "::ffff:198.51.100.5",  # IPv4 in IPv6
    "::ffff:127.0.0.1",
    "fe80::1",
    "localhost",  # names
    "camera.local",
    "198.51.100.5.example.org",
    "198.51.100.5:80",  # more than an address
    "198.51.100.5/status?",
    "198.51.100.5@127.0.0.1",
    "127.0.0.1#198.51.100.5",
    "http://198.51.100.5",
    "198.51.100",  # short, octal, hexadecimal and whole-number forms
    "198.051.100.005",
    "0xc6.0x33.0x64.0x05",
    "3325256709",
    "198.51.100.5\r\nHost: 127.0.0.1",
    "198.51.100.\u0665",  # ARABIC-INDIC DIGIT FIVE
    "198.51.100.5" + "0" * 60,
]


async def test_outside_address_is_rejected(rig):
    subnet = {"ap": {"subnet": SUBNET}}
    rules = {"subnet_allowlist": ["0.0.0.0/0"], "allow_loopback": False}
    async with (
        counting_server(rig) as reached,
        rig.daemon(**subnet, auto_onboard=rules) as running,
        rig.broker.client() as client,
    ):
        for number, address in enumerate(OUTSIDE):
            await rig.announce(number, ip=address, client=client)
        await running.wait_until_processed(rig)
        for number, address in enumerate(OUTSIDE):
            assert await running.onboarding_stages(rig.mac(number)) == [(REJECTED, "SUBNET_NOT_ALLOWED")], address
            explained = await running.api.get(
                f"{AUTO}/policy/explain", params={"mac": rig.mac(number), "ip": address[:64]}
            )
            rules_by_name = {rule["rule"]: rule for rule in explained.data["rules"]}
            assert rules_by_name["subnet"]["code"] == "SUBNET_NOT_ALLOWED", address
        assert reached == []
        assert (await running.status())["metrics"]["rejected_by_policy"] == len(OUTSIDE)


async def test_own_address_is_rejected(rig):
    everything = {"ap": {"subnet": "127.0.0.0/8"}}
    async with (
        counting_server(rig) as reached,
        rig.daemon(**everything, auto_onboard={"subnet_allowlist": ["127.0.0.0/8"]}) as running,
    ):
        await rig.announce(1, ip="127.0.0.1")
        await running.wait_until_processed(rig)
        (row,) = await running.onboarding_events(mac=rig.mac(1))
        assert (row["stage"], row["error_code"]) == (REJECTED, "SUBNET_NOT_ALLOWED")
        assert "this machine" in row["error_message"]
        assert reached == []
        # The same server at another address receives a request, so the check above is valid.
        await rig.announce(2)
        await eventually(lambda: reached == ["/status"])


@pytest.mark.parametrize("ip", [None, "", 3325256709, ["127.0.0.1"], {"v4": "127.0.0.1"}, True])
async def test_missing_address_fails_with_no_address(rig, ip):
    async with rig.daemon() as running:
        await rig.announce(1, ip=ip)
        await running.wait_until_processed(rig)
        assert await running.onboarding_stages(rig.mac(1)) == [("failed", "NO_ADDRESS")]


async def test_address_must_be_in_both_subnets(rig):
    """The access point's network and the subnet allowlist are checked separately."""
    inside, *_ = rig.network.split("/")
    narrow = f"{inside}/28"
    async with rig.daemon(ap={"subnet": narrow}) as running, rig.camera(3) as near, rig.camera(40) as far:
        await near.publish_status()
        await far.publish_status()
        await eventually(lambda: near.mac in running.app.cameras.cache)
        await running.wait_until_processed(rig)
        assert await running.onboarding_stages(far.mac) == [(REJECTED, "SUBNET_NOT_ALLOWED")]
        assert far.requests == 0


async def test_changed_address_is_evaluated_again(rig):
    """The policy is evaluated again when a waiting camera reports another address."""
    clock = FakeClock()
    async with (
        counting_server(rig) as reached,
        rig.daemon(
            clock=clock, ap={"subnet": "127.0.0.0/8"}, auto_onboard={"burst_size": 1, "max_per_minute": 6}
        ) as running,
    ):
        await rig.announce(1)
        await eventually(lambda: reached == ["/status"])
        await rig.announce(2)
        await eventually(lambda: running.app.onboarding.worker.waiting == 1)
        await rig.announce(2, ip="127.0.0.1")
        await running.wait_until_processed(rig)
        await clock.advance(11)
        await eventually(lambda: running.app.onboarding.worker.waiting == 0)
        await running.wait_until_processed(rig)
        assert (await running.onboarding_stages(rig.mac(2)))[-1] == (REJECTED, "SUBNET_NOT_ALLOWED")
        assert reached == ["/status"]


async def test_repeated_rejection_is_only_counted(rig):
    clock = FakeClock()
    async with rig.daemon(clock=clock, auto_onboard={"deny": [rig.mac(1)]}) as running:
        for _ in range(5):
            await rig.announce(1)
        await running.wait_until_processed(rig)
        assert await running.onboarding_stages(rig.mac(1)) == [(REJECTED, "DENIED")]
        assert (await running.status())["metrics"]["rejected_by_policy"] == 5

        await clock.advance(59)
        await rig.announce(1)
        await running.wait_until_processed(rig)
        assert len(await running.onboarding_stages(rig.mac(1))) == 1

        await clock.advance(2)
        await rig.announce(1)
        await running.wait_until_processed(rig)
        rows = await running.onboarding_events(mac=rig.mac(1))
        assert len(rows) == 2
        assert "5 repeats" in rows[-1]["error_message"]
        assert (await running.status())["metrics"]["rejected_by_policy"] == 7


async def test_rejection_for_another_reason_is_stored_immediately(rig):
    async with rig.daemon(auto_onboard={"deny": [rig.mac(1)]}) as running:
        await rig.announce(1, ip="203.0.113.5")
        await rig.announce(1)
        await running.wait_until_processed(rig)
        assert await running.onboarding_stages(rig.mac(1)) == [(REJECTED, "SUBNET_NOT_ALLOWED"), (REJECTED, "DENIED")]


@pytest.mark.parametrize(
    ("sections", "query", "failing"),
    [
        ({}, {"mac": "246f28000010", "ip": "GOOD"}, {}),
        ({"enabled": False}, {"mac": "24:6F:28:00:00:10", "ip": "GOOD"}, {"enabled": "NOT_ENABLED"}),
        ({"mode": "off"}, {"mac": "24:6F:28:00:00:10", "ip": "GOOD"}, {"mode": "NOT_ENABLED"}),
        ({}, {"mac": "24:6F:28:00:00:10"}, {"subnet": "NO_ADDRESS"}),
        ({}, {"mac": "24:6F:28:00:00:10", "ip": "203.0.113.5"}, {"subnet": "SUBNET_NOT_ALLOWED"}),
        ({"deny": ["246F28000010"]}, {"mac": "24:6f:28:00:00:10", "ip": "GOOD"}, {"deny": "DENIED"}),
        ({}, {"mac": "24-6F-28-00-00-90", "ip": "GOOD"}, {"already_onboarded": "ALREADY_ONBOARDED"}),
        (
            {"burst_size": 1, "max_per_minute": 1},
            {"mac": "24:6F:28:00:00:10", "ip": "GOOD"},
            {"rate": "ONBOARD_RATE_LIMITED"},
        ),
        (
            {"enabled": False, "mode": "off", "deny": ["246F28000010"]},
            {"mac": "246F28000010", "ip": "localhost"},
            {"enabled": "NOT_ENABLED", "mode": "NOT_ENABLED", "subnet": "SUBNET_NOT_ALLOWED", "deny": "DENIED"},
        ),
    ],
)
async def test_explain_has_no_side_effects(rig, sections, query, failing):
    clock = FakeClock()
    query = query | ({"ip": rig.address(1)} if query.get("ip") == "GOOD" else {})
    async with (
        rig.camera(9) as registered,
        rig.camera(1) as camera,
        rig.daemon(clock=clock, auto_onboard={"burst_size": 1, "max_per_minute": 60}) as running,
    ):
        await registered.publish_status()
        await eventually(lambda: registered.mac in running.app.cameras.cache)
        if sections.get("enabled") is False:
            await running.api.post(f"{AUTO}/disable")
        limits = {"burst_size": 1, "max_per_minute": 60}
        running.daemon.apply(rig.settings(auto_onboard=limits | sections))
        if "rate" not in failing:
            await clock.advance(5)
            # Wait until presence and `device.found` of the registered camera are stored: `explain` writes neither.
            stored = "SELECT 1 FROM presence, events WHERE type = 'device.found'"
            await eventually(lambda: rig.rows(stored))
        before, metrics = rig.tables(), await running.status()
        answer = await running.api.get(f"{AUTO}/policy/explain", params=query)
        assert answer.status == 200
        rules = answer.data["rules"]
        assert [rule["rule"] for rule in rules] == [
            *("enabled", "mode", "subnet", "deny", "already_onboarded", "rate"),
        ]
        assert {rule["rule"]: rule["code"] for rule in rules if rule["result"] == "fail"} == failing
        assert all(rule["why"] for rule in rules)
        assert answer.data["allowed"] is (not failing)
        assert (rig.tables(), await running.status()) == (before, metrics)
        assert camera.requests == 0
        assert running.app.devices.registry.get(camera.mac) is None


async def test_explain_refuses_invalid_mac(rig):
    async with rig.daemon() as running:
        for mac in ("", "nonsense", "FF:FF:FF:FF:FF:FF", "01:00:5E:00:00:01", "00:00:00:00:00:00"):
            answer = await running.api.get(f"{AUTO}/policy/explain", params={"mac": mac})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED"), mac
            assert "mac" in answer.json["error"]["details"]
