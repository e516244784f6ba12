"""The host guard's memory."""

from aiohttp.test_utils import make_mocked_request

from pi_orchestrator.http.guard import HostGuard


def test_cache_of_accepted_hosts_is_bounded():
    guard = HostGuard(trusted_hosts=[], ports=[80])
    for number in range(200):
        guard.check(make_mocked_request("GET", "/", headers={"Host": f"host-{number}.local"}))
    assert len(guard._accepted_hosts) <= 64
