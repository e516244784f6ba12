"""The best known address of a device: proved, then claimed, then recorded."""

from ipaddress import IPv4Network

import pytest

from pi_orchestrator.features.devices.best_address import best_address
from tests.unit.features.devices.test_registry import A, B, Site, ip

PROVED, CLAIMED, RECORDED = str(ip(5)), str(ip(6)), "172.16.0.9"
NETWORK, ELSEWHERE = IPv4Network(f"{ip(0)}/24"), IPv4Network("10.99.0.0/24")


@pytest.fixture
def site():
    return Site()


def best(site, **limits):
    return best_address(site.registry, A, recorded=RECORDED, **limits)


def test_unknown_device_has_recorded_address(site):
    assert best(site) == RECORDED
    assert best_address(site.registry, A) is None


def test_best_address_prefers_proved_then_claimed(site):
    site.publish(A, ip=CLAIMED)
    assert best(site) == CLAIMED
    site.answer(A, ip(5))
    assert best(site, within=ELSEWHERE) == PROVED, "a proved address is not filtered"


def test_retained_claim_counts_unless_live_only(site):
    site.retain(A, ip=CLAIMED)
    assert (best(site), best(site, live_only=True)) == (CLAIMED, RECORDED)
    site.publish(A, ip=CLAIMED)
    assert best(site, live_only=True) == CLAIMED


@pytest.mark.parametrize("claim", [CLAIMED, "not an address"])
def test_claim_outside_network_is_ignored(site, claim):
    site.publish(A, ip=claim)
    assert best(site) == claim
    assert best(site, within=NETWORK) == (CLAIMED if claim == CLAIMED else RECORDED)
    assert best(site, within=ELSEWHERE) == RECORDED


def test_claim_held_by_other_device_is_ignored_on_request(site):
    site.answer(B, ip(6))
    site.publish(A, ip=CLAIMED)
    assert (best(site), best(site, within=NETWORK)) == (CLAIMED, CLAIMED)
    assert best(site, within=NETWORK, not_held_by_other=True) == RECORDED
