"""The composition root: the only place that builds things, and the life of what is built."""

from pi_orchestrator.app.daemon import RELOADABLE, Daemon
from pi_orchestrator.app.life import run, running
from pi_orchestrator.app.parts import build_scanner

__all__ = ["RELOADABLE", "Daemon", "build_scanner", "run", "running"]
