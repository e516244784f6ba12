"""System: health, logs, support bundle, and host status."""

from __future__ import annotations

from pi_orchestrator.edge_http.api_document import ApiDocument
from pi_orchestrator.features.cameras.feature import Cameras
from pi_orchestrator.features.configuration.feature import ConfigurationFeature
from pi_orchestrator.features.devices.feature import Devices
from pi_orchestrator.features.discovery.feature import Discovery
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.features.system.bundle import SupportBundle
from pi_orchestrator.features.system.health_routes import ROUTES as HEALTH_ROUTES
from pi_orchestrator.features.system.routes import ROUTES as SYSTEM_ROUTES
from pi_orchestrator.http.metrics import MetricsPage
from pi_orchestrator.net.host.reader import HostReader

TAGS = {
    "health": "Health, version, metrics and this document",
    "system": "Host status, logs and the support bundle",
}
ROUTES = (*HEALTH_ROUTES, *SYSTEM_ROUTES)


def build(
    res: Resources,
    *,
    devices: Devices,
    cameras: Cameras,
    discovery: Discovery,
    configuration: ConfigurationFeature,
    page: MetricsPage,
    document: ApiDocument,
) -> Feature:
    """Build the host reader and the support bundle."""
    host = HostReader(clock=res.clock, folder=res.settings.storage.state_dir)
    bundle = SupportBundle(
        clock=res.clock,
        health=res.health,
        database=res.database,
        buffer=res.log_buffer,
        cache=cameras.cache,
        registry=devices.registry,
        cameras=cameras.views,
        devices=discovery.devices,
        metrics_page=page,
        host=host,
        configuration=configuration.service,
    )
    return Feature(provides=(host, bundle, page, document))
