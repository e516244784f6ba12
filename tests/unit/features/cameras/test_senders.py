"""The camera that sent a message, if the message has no `mac` or is unreadable."""

from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from pi_orchestrator.core.sighting import Sighting, Source
from pi_orchestrator.features.cameras.senders import Senders
from pi_orchestrator.features.devices.status_message import Announced, Status
from tests.unit.features.devices.test_names import SHARED, SILENT_S, A, B, Site

NAMELESS = Status(topic_id="esp32cam", mac=None, device_id="esp32cam", state=Announced.ONLINE, topic=SHARED)


@dataclass
class Record:
    """The cameras of the record: MACs by device id."""

    by_id: dict

    def mac_of(self, name):
        return self.by_id.get(name)

    def __contains__(self, mac):
        return mac in self.by_id.values()


class SenderSite(Site):
    """A site on which A is registered as esp32cam."""

    def __init__(self):
        super().__init__()
        self.record = Record({"esp32cam": A})
        self.senders = Senders(clock=self, cache=self.record, registry=self.registry)

    def monotonic(self):
        return self.now

    def prove(self, mac, address):
        sighting = Sighting(mac, Source.ARP, self.now, IPv4Address(address), binds=True)
        self.registry.add_sighting(sighting, self.now)

    def sender(self):
        return "ambiguous" if self.senders.is_ambiguous(NAMELESS) else self.senders.sender(NAMELESS)


@pytest.fixture
def site():
    site = SenderSite()
    site.publish(A)
    return site


def test_invented_mac_on_topic_does_not_hide_registered_camera(site):
    site.publish(B)
    assert site.sender() == A
    assert [conflict.macs for conflict in site.names.conflicts()] == [(A, B)]
    assert site.are_blocked(A) == [True]


def test_invented_mac_gets_no_messages_of_silent_camera(site):
    site.publish(B)
    site.wait(SILENT_S)
    site.publish(B)
    site.wait(1)
    assert site.names.publishers_on(SHARED, "esp32cam") == [B]
    assert site.sender() == A


@pytest.mark.parametrize("shown_by", ["record", "ARP"])
def test_real_second_camera_makes_message_ambiguous(site, shown_by):
    site.publish(B)
    if shown_by == "record":
        site.record.by_id["cam-2"] = B
    else:
        site.prove(B, "192.168.10.9")
    assert site.sender() == "ambiguous"


def test_unregistered_cameras_stay_ambiguous(site):
    site.record.by_id.clear()
    site.publish(B)
    assert site.sender() == "ambiguous"


def test_unreadable_message_belongs_to_publisher_that_it_names(site):
    site.publish(B)
    site.record.by_id["cam-2"] = B
    for mac in (A, B):
        assert site.senders.of_unreadable(SHARED, b'{"mac": "%s", "x": "a"b"}' % mac.encode()) == mac
    assert site.senders.of_unreadable(SHARED, b"{") is None


def test_unreadable_message_that_names_another_mac_is_not_of_publisher(site):
    assert site.senders.of_unreadable(SHARED, b"{") == A
    assert site.senders.of_unreadable(SHARED, b'{"mac": "%s",}' % B.encode()) is None
    assert site.senders.of_unreadable("camera/status/x", b"{") is None
    assert site.senders.of_unreadable("x", b"{") is None
