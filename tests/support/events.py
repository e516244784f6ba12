"""Events of any type and payload, for tests of storage and streams."""

from pi_orchestrator.core.events import StoredEvent


class RawEvent:
    """An event of any type; see `core.events.Event.row`."""

    def __init__(self, type_, payload, *, mac=None, session_id=None):
        self._row = StoredEvent(type_, payload, mac=mac, session_id=session_id)

    def row(self):
        return self._row
