"""The host guard: which names are this host's, and its bounded cache."""

import pytest
from aiohttp.test_utils import make_mocked_request

from pi_orchestrator.core.errors import ForbiddenError
from pi_orchestrator.http.guard import HostGuard


def request_for(host):
    return make_mocked_request("GET", "/", headers={"Host": host})


@pytest.mark.parametrize("host", ["pi.local", "pi.local:8081", "PI.LOCAL", "127.0.0.1:8081", "[::1]", "farm.example"])
def test_own_name_is_accepted(host):
    HostGuard(trusted_hosts=["Farm.example"], ports=[80]).check(request_for(host))


@pytest.mark.parametrize(
    "host",
    ["", "local", "evillocal", "pi.local.evil.example", "evil.farm.example", "farm.example.evil", "127.0.0.1.evil"],
)
def test_foreign_name_is_refused(host):
    with pytest.raises(ForbiddenError):
        HostGuard(trusted_hosts=["farm.example"], ports=[80]).check(request_for(host))


def test_cache_of_accepted_hosts_is_bounded():
    guard = HostGuard(trusted_hosts=[], ports=[80])
    for number in range(200):
        guard.check(request_for(f"host-{number}.local"))
    assert len(guard._accepted_hosts) <= 64
