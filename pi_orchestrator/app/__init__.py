"""The composition root: the only place that builds things, and the life of what is built."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pi_orchestrator.app.daemon import RELOADABLE, Daemon
    from pi_orchestrator.app.life import run, running
    from pi_orchestrator.app.survey import build_scanner, surveying

__all__ = ["RELOADABLE", "Daemon", "build_scanner", "run", "running", "surveying"]

_HOMES = {
    "RELOADABLE": "daemon",
    "Daemon": "daemon",
    "run": "life",
    "running": "life",
    "build_scanner": "survey",
    "surveying": "survey",
}


def __getattr__(name: str) -> object:
    # Commands that scan without a daemon must not load all of it: half a second here, some on a Pi.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
