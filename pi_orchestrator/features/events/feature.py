"""Events: the two event streams, and the sources of all streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pi_orchestrator.core.metrics import Metric, counter, gauge
from pi_orchestrator.core.supervisor import Worker
from pi_orchestrator.edge_http.feeds import FeedSources
from pi_orchestrator.edge_http.stream_sources import StoredEvents, StreamWorker
from pi_orchestrator.features.events import routes
from pi_orchestrator.features.events.snapshots import Snapshots
from pi_orchestrator.features.feature import Feature, Resources
from pi_orchestrator.http.sse import EventStreams
from pi_orchestrator.settings import Settings

ROUTES = routes.ROUTES
TAGS = {"streams": "Streams of events"}


@dataclass(frozen=True, kw_only=True)
class Events(Feature):
    """Parts for the HTTP API."""

    streams: EventStreams
    worker: StreamWorker
    snapshots: Snapshots


def build(res: Resources) -> Events:
    """Build the streams."""
    streams = EventStreams(clock=res.clock, unnamed_copy=res.settings.http.sse_unnamed_copy)
    events = StoredEvents(res.database)
    worker = StreamWorker(streams=streams, events=events, bus=res.bus, buffer=res.log_buffer)
    snapshots = Snapshots()
    sources = FeedSources(
        clock=res.clock,
        events=events,
        buffer=res.log_buffer,
        lines=worker.lines,
        lines_among_events=worker.lines_among_events,
    )

    def reload(settings: Settings) -> None:
        streams.unnamed_copy = settings.http.sse_unnamed_copy

    return Events(
        streams=streams,
        worker=worker,
        snapshots=snapshots,
        provides=(snapshots, sources),
        workers=(Worker("streams", worker.run),),
        metrics=lambda: _metrics(streams),
        reloadable=frozenset({"http.sse_unnamed_copy"}),
        reload=reload,
    )


def _metrics(streams: EventStreams) -> Iterator[Metric]:
    yield gauge("piorch_stream_clients", "Open event streams.", streams.client_count)
    yield counter("piorch_stream_events", "Events sent, counted once per client.", streams.sent)
    yield counter("piorch_stream_dropped", "Clients disconnected because they were too slow.", streams.dropped)
