"""The support bundle over the API."""

from __future__ import annotations

from pi_orchestrator.features.system.bundle import MEDIA_TYPE, Export, SupportBundle
from pi_orchestrator.http.route import Reply


async def bundle(bundles: SupportBundle) -> Reply[None]:
    """A compressed archive of JSON and text files for finding the cause of a fault, secrets masked.

    It contains the host status, versions, the configuration, the health of each component, the last lines of the log,
    cameras, devices with their evidence, sessions, events, onboarding events, operator actions, the other tables of
    the database, and metrics. Its uncompressed size is at most 16 MiB, that of each file 3 MiB; `manifest.json` lists
    what was omitted. Passwords, keys and their digests are not included, nor tables that may contain them.
    """
    name, content = await bundles.make()
    return Reply(
        encoded=content, media_type=MEDIA_TYPE, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


async def export(bundles: SupportBundle) -> Reply[Export]:
    """Host status, the last 500 lines of the log, and the configuration, secrets masked."""
    return Reply(encoded=await bundles.export())
