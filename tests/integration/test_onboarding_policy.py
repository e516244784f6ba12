"""The policy, rule by rule in the contract's order: who is refused, with which code, and that nobody asks them."""

import contextlib

import pytest
from aiohttp import web

from tests.support.clock import FakeClock
from tests.support.waiting import eventually

REJECTED = "rejected_by_policy"
AUTO = "/api/v1/onboarding/auto"


@contextlib.asynccontextmanager
async def counting_server(world):
    """Counts what reaches the cameras' port of this world under any address of this machine."""
    reached = []

    async def answer(request):
        reached.append(request.path)
        return web.json_response({})

    runner = web.ServerRunner(web.Server(answer, access_log=None))
    await runner.setup()
    # A port that is free at every address can only be had by asking for it.
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    world.camera_port = runner.addresses[0][1]
    try:
        yield reached
    finally:
        await runner.cleanup()


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
async def test_a_refused_camera_is_audited_with_its_code_and_never_asked(world, sections, code):
    async with world.camera(1) as camera, world.daemon(auto_onboard=sections) as running:
        await camera.say()
        await running.considered(world)
        (row,) = await running.audit(mac=camera.mac)
        assert (row["stage"], row["outcome"], row["error_code"]) == (REJECTED, "failure", code)
        assert row["error_message"]
        assert row["ip_address"] == camera.address
        assert (camera.requests, len(running.services.roster)) == (0, 0)
        assert (await running.status())["metrics"]["attempts"] == 0


async def test_the_rules_decide_in_the_contracts_order(world):
    """A camera that breaks every rule is refused by the first; each rule that is mended shows the next."""
    broken = {
        "enabled": False,
        "mode": "off",
        "subnet_allowlist": ["198.51.100.0/24"],
        "deny": [world.mac(1)],
        "burst_size": 1,
        "max_per_minute": 1,
    }
    clock = FakeClock()
    async with (
        world.camera(1) as camera,
        world.camera(2) as first,
        world.daemon(clock=clock, auto_onboard=broken) as running,
    ):

        async def refusal(mended):
            """With these rules mended: the code in the audit, and the first rule that explain says fails."""
            running.daemon.apply(world.settings(auto_onboard=broken | mended))
            await clock.advance(61)
            await camera.say()
            await running.considered(world)
            *_, (stage, code) = await running.trail(camera.mac)
            assert stage == REJECTED
            query = {"mac": camera.mac, "ip": camera.address}
            rules = (await running.api.get(f"{AUTO}/policy/explain", params=query)).data["rules"]
            return code, next(rule["rule"] for rule in rules if rule["result"] == "fail")

        mended = {"mode": "dev"}
        assert await refusal(mended) == ("NOT_ENABLED", "enabled")
        await running.api.post(f"{AUTO}/enable")
        assert await refusal({}) == ("NOT_ENABLED", "mode")
        assert await refusal(mended) == ("SUBNET_NOT_ALLOWED", "subnet")
        mended |= {"subnet_allowlist": [world.network]}
        assert await refusal(mended) == ("DENIED", "deny")
        await first.say()
        await eventually(lambda: first.mac in running.services.roster)  # that was the only token
        running.daemon.apply(world.settings(auto_onboard=broken | mended | {"deny": []}))
        await camera.say()
        await running.considered(world)
        assert (await running.trail(camera.mac))[-1] == (REJECTED, "ONBOARD_RATE_LIMITED")
        assert camera.requests == 0
        await clock.advance(61)
        await eventually(lambda: camera.mac in running.services.roster)


# Addresses of the documentation networks, so that not even a broken daemon would bother a stranger.
SUBNET = "198.51.100.0/25"
OUTSIDE = [
    "127.0.0.1",  # the Pi itself, by loopback
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


async def test_an_announced_address_must_be_a_plain_host_of_the_camera_network(world):
    subnet = {"ap": {"subnet": SUBNET}}
    rules = {"subnet_allowlist": ["0.0.0.0/0"], "allow_loopback": False}
    async with (
        counting_server(world) as reached,
        world.daemon(**subnet, auto_onboard=rules) as running,
        world.broker.client() as client,
    ):
        for number, address in enumerate(OUTSIDE):
            await world.announce(number, ip=address, client=client)
        await running.considered(world)
        for number, address in enumerate(OUTSIDE):
            assert await running.trail(world.mac(number)) == [(REJECTED, "SUBNET_NOT_ALLOWED")], address
            explained = await running.api.get(
                f"{AUTO}/policy/explain", params={"mac": world.mac(number), "ip": address[:64]}
            )
            verdicts = {rule["rule"]: rule for rule in explained.data["rules"]}
            assert verdicts["subnet"]["code"] == "SUBNET_NOT_ALLOWED", address
        assert reached == []
        assert (await running.status())["metrics"]["rejected_by_policy"] == len(OUTSIDE)


async def test_the_pis_own_address_is_no_camera_even_where_loopback_is_allowed(world):
    everything = {"ap": {"subnet": "127.0.0.0/8"}}
    async with (
        counting_server(world) as reached,
        world.daemon(**everything, auto_onboard={"subnet_allowlist": ["127.0.0.0/8"]}) as running,
    ):
        await world.announce(1, ip="127.0.0.1")
        await running.considered(world)
        (row,) = await running.audit(mac=world.mac(1))
        assert (row["stage"], row["error_code"]) == (REJECTED, "SUBNET_NOT_ALLOWED")
        assert "this machine" in row["error_message"]
        assert reached == []
        # The same server at another address of that network is asked: the count above means something.
        await world.announce(2)
        await eventually(lambda: reached == ["/status"])


@pytest.mark.parametrize("ip", [None, "", 3325256709, ["127.0.0.1"], {"v4": "127.0.0.1"}, True])
async def test_a_camera_that_gives_no_address_fails_with_no_address(world, ip):
    async with world.daemon() as running:
        await world.announce(1, ip=ip)
        await running.considered(world)
        assert await running.trail(world.mac(1)) == [("failed", "NO_ADDRESS")]


async def test_both_subnets_must_hold_the_address(world):
    """The access point's network and the allowlist are two rules: neither stands in for the other."""
    inside, *_ = world.network.split("/")
    narrow = f"{inside}/28"
    async with world.daemon(ap={"subnet": narrow}) as running, world.camera(3) as near, world.camera(40) as far:
        await near.say()
        await far.say()
        await eventually(lambda: near.mac in running.services.roster)
        await running.considered(world)
        assert await running.trail(far.mac) == [(REJECTED, "SUBNET_NOT_ALLOWED")]
        assert far.requests == 0


async def test_an_address_that_changes_while_the_camera_waits_is_judged_again(world):
    """A place in line, gained with a good address, is no ticket to any other."""
    clock = FakeClock()
    async with (
        counting_server(world) as reached,
        world.daemon(
            clock=clock, ap={"subnet": "127.0.0.0/8"}, auto_onboard={"burst_size": 1, "max_per_minute": 6}
        ) as running,
    ):
        await world.announce(1)
        await eventually(lambda: reached == ["/status"])
        await world.announce(2)
        await eventually(lambda: running.services.onboarding.waiting == 1)
        await world.announce(2, ip="127.0.0.1")
        await running.considered(world)
        await clock.advance(11)
        await eventually(lambda: running.services.onboarding.waiting == 0)
        await running.considered(world)
        assert (await running.trail(world.mac(2)))[-1] == (REJECTED, "SUBNET_NOT_ALLOWED")
        assert reached == ["/status"]


async def test_a_repeat_of_the_same_rejection_within_a_minute_is_counted_and_not_written(world):
    clock = FakeClock()
    async with world.daemon(clock=clock, auto_onboard={"deny": [world.mac(1)]}) as running:
        for _ in range(5):
            await world.announce(1)
        await running.considered(world)
        assert await running.trail(world.mac(1)) == [(REJECTED, "DENIED")]
        assert (await running.status())["metrics"]["rejected_by_policy"] == 5

        await clock.advance(59)
        await world.announce(1)
        await running.considered(world)
        assert len(await running.trail(world.mac(1))) == 1

        await clock.advance(2)
        await world.announce(1)
        await running.considered(world)
        rows = await running.audit(mac=world.mac(1))
        assert len(rows) == 2
        assert "5 repeats" in rows[-1]["error_message"]
        assert (await running.status())["metrics"]["rejected_by_policy"] == 7


async def test_another_rejection_of_the_same_camera_is_written_at_once(world):
    async with world.daemon(auto_onboard={"deny": [world.mac(1)]}) as running:
        await world.announce(1, ip="203.0.113.5")
        await world.announce(1)
        await running.considered(world)
        assert await running.trail(world.mac(1)) == [(REJECTED, "SUBNET_NOT_ALLOWED"), (REJECTED, "DENIED")]


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
async def test_explain_gives_every_rules_verdict_and_does_nothing(world, sections, query, failing):
    clock = FakeClock()
    query = query | ({"ip": world.address(1)} if query.get("ip") == "GOOD" else {})
    async with (
        world.camera(9) as known,
        world.camera(1) as camera,
        world.daemon(clock=clock, auto_onboard={"burst_size": 1, "max_per_minute": 60}) as running,
    ):
        await known.say()
        await eventually(lambda: known.mac in running.services.roster)
        if sections.get("enabled") is False:
            await running.api.post(f"{AUTO}/disable")
        limits = {"burst_size": 1, "max_per_minute": 60}
        running.daemon.apply(world.settings(auto_onboard=limits | sections))
        if "rate" not in failing:
            await clock.advance(5)
            # That the camera was found and is online is stored by now or soon, and is no doing of what is asked here.
            stored = "SELECT 1 FROM presence, events WHERE type = 'device.found'"
            await eventually(lambda: world.rows(stored))
        before, metrics = world.tables(), await running.status()
        answer = await running.api.get(f"{AUTO}/policy/explain", params=query)
        assert answer.status == 200
        rules = answer.data["rules"]
        assert [rule["rule"] for rule in rules] == [
            *("enabled", "mode", "subnet", "deny", "already_onboarded", "rate"),
        ]
        assert {rule["rule"]: rule["code"] for rule in rules if rule["result"] == "fail"} == failing
        assert all(rule["why"] for rule in rules)
        assert answer.data["allowed"] is (not failing)
        assert (world.tables(), await running.status()) == (before, metrics)
        assert camera.requests == 0
        assert running.services.registry.get(camera.mac) is None


async def test_explain_refuses_what_is_no_mac(world):
    async with world.daemon() as running:
        for mac in ("", "nonsense", "FF:FF:FF:FF:FF:FF", "01:00:5E:00:00:01", "00:00:00:00:00:00"):
            answer = await running.api.get(f"{AUTO}/policy/explain", params={"mac": mac})
            assert (answer.status, answer.json["code"]) == (400, "VALIDATION_FAILED"), mac
            assert "mac" in answer.json["error"]["details"]
