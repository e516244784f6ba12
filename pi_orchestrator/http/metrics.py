"""The Prometheus page, collected from the components when it is requested."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from pi_orchestrator.core.metrics import Metric


class MetricsPage(Collector):
    """Collects on demand from `sources`, in their order; `namespace` prefixes the metrics of the process."""

    def __init__(self, sources: Sequence[Callable[[], Iterable[Metric]]], *, namespace: str) -> None:
        self._sources = sources
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._process = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace=namespace, registry=self._process)

    async def render(self) -> bytes:
        """The whole page."""
        # Process metrics are read from /proc, and files are not read on the event loop.
        process = await asyncio.to_thread(generate_latest, self._process)
        return generate_latest(self._registry) + process

    def collect(self) -> Iterator[Family]:
        """Every metric family of the sources."""
        for source in self._sources:
            for metric in source():
                yield _family(metric)


def _family(metric: Metric) -> Family:
    if metric.kind == "info":
        values = dict(zip(metric.labels, metric.samples[0][0], strict=True))
        return InfoMetricFamily(metric.name, metric.help, values)
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, number in metric.samples:
        family.add_metric(labels, number)
    return family
