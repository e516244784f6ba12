"""What pictures and commands are made of: every part between the broker and the routes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pi_orchestrator.clock import Clock
from pi_orchestrator.domain.command import RESPONSE_TOPICS
from pi_orchestrator.domain.mac import Mac
from pi_orchestrator.domain.registry import Registry
from pi_orchestrator.events import Hub
from pi_orchestrator.net.espcam import EspCamClient
from pi_orchestrator.net.mqtt import MqttLink
from pi_orchestrator.net.neighbours import Neighbours
from pi_orchestrator.settings import Settings
from pi_orchestrator.storage.cameras import Roster
from pi_orchestrator.storage.database import Database
from pi_orchestrator.workers.capture_record import CaptureRecord
from pi_orchestrator.workers.captures import Captures
from pi_orchestrator.workers.care import CareWorker
from pi_orchestrator.workers.commands import Commands
from pi_orchestrator.workers.exchanges import Exchanges
from pi_orchestrator.workers.identity import Verifier
from pi_orchestrator.workers.reboots import Reboots
from pi_orchestrator.workers.remedies import Remedies
from pi_orchestrator.workers.whereabouts import Whereabouts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The parts that answers are made from, and the worker that looks after cameras."""

    exchanges: Exchanges
    captures: Captures
    commands: Commands
    reboots: Reboots
    remedies: Remedies
    care: CareWorker


def build_pictures(
    settings: Settings,
    *,
    clock: Clock,
    hub: Hub,
    database: Database,
    link: MqttLink,
    registry: Registry,
    roster: Roster,
    neighbours: Neighbours,
    verifier: Verifier,
    espcam: EspCamClient,
    is_provisioning: Callable[[Mac], bool],
) -> Pictures:
    """Every part, and answers of cameras routed to it."""
    exchanges = Exchanges(mqtt=link, registry=registry, roster=roster)
    for topic in RESPONSE_TOPICS:
        link.route(topic, exchanges.on_response)
    whereabouts = Whereabouts(
        ap_subnet=settings.ap.subnet,
        target_subnets=settings.provisioning.target_subnets,
        allow_loopback=settings.auto_onboard.allow_loopback,
        registry=registry,
        roster=roster,
        neighbours=neighbours,
        verifier=verifier,
    )
    commands = Commands(clock=clock, exchanges=exchanges, whereabouts=whereabouts)
    remedies = Remedies(
        auto_reboot=settings.cameras.auto_reboot, reboot_after=settings.cameras.reboot_after, clock=clock
    )
    reboots = Reboots(
        clock=clock,
        database=database,
        registry=registry,
        commands=commands,
        whereabouts=whereabouts,
        espcam=espcam,
        remedies=remedies,
        is_taken=is_provisioning,
    )
    record = CaptureRecord(clock=clock, database=database)
    captures = Captures(
        cache_s=settings.cameras.capture_cache_s,
        images_kept_mb=settings.cameras.images_kept_mb,
        clock=clock,
        registry=registry,
        mqtt=link,
        exchanges=exchanges,
        whereabouts=whereabouts,
        espcam=espcam,
        record=record,
        reboots=reboots,
        remedies=remedies,
    )
    care = CareWorker(
        clock=clock,
        hub=hub,
        database=database,
        registry=registry,
        roster=roster,
        captures=captures,
        reboots=reboots,
        remedies=remedies,
        record=record,
    )
    return Pictures(
        exchanges=exchanges, captures=captures, commands=commands, reboots=reboots, remedies=remedies, care=care
    )
