"""Metrics as data: features return them, `http.metrics` renders the Prometheus page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric with its samples; each sample is the values of `labels`, in the same order, and a number.

    A counter's name is without `_total`, which the page adds. An `info` has its data in
    its labels; its number is always 1.
    """

    kind: Literal["counter", "gauge", "info"]
    name: str
    help: str
    labels: tuple[str, ...]
    samples: tuple[tuple[tuple[str, ...], float], ...]


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter without labels."""
    return Metric("counter", name, help_text, (), (((), float(value)),))


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge without labels."""
    return Metric("gauge", name, help_text, (), (((), float(value)),))


def counters(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter for each value of a label."""
    return Metric("counter", name, help_text, (label,), _samples(values.items()))


def gauges(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge for each value of a label."""
    return Metric("gauge", name, help_text, (label,), _samples(values.items()))


def info(name: str, help_text: str, values: Mapping[str, str]) -> Metric:
    """Values that are constant while the process runs."""
    return Metric("info", name, help_text, tuple(values), ((tuple(values.values()), 1.0),))


def _samples(values: Iterable[tuple[str, float]]) -> tuple[tuple[tuple[str, ...], float], ...]:
    return tuple(((str(name),), float(number)) for name, number in values)
