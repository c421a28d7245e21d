"""What operators did: who, what, when, from where, and what came of it."""

from collections.abc import Mapping
from typing import Any, Final

import structlog

from swell.core.clock import Clock
from swell.core.records import AuditEntry
from swell.core.task import new_id
from swell.core.telemetry import printable
from swell.db.registry import Registry
from swell.server.request import Call

_log = structlog.get_logger("swell.audit")

#: Seconds between two entries for the same refused action of one key, so that repeated attempts
#: do not fill the log.
_DENIED_EVERY_S: Final = 60.0
_MAX_DENIED: Final = 1000

#: Longest text of others that is kept.
_MAX_TEXT: Final = 200

_DENIED: Final = 403


class Audit:
    """Writes the audit log."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        #: (key, action) → when a refusal was written down, in monotonic seconds.
        self._denied: dict[tuple[str, str], float] = {}

    async def note(self, call: Call, action: str, status: int) -> None:
        """Write down what a caller did, before it is answered; without a known key nothing.

        Args:
            call: The request.
            action: Such as `keys.create`.
            status: Of its answer.
        """
        key = call.key
        if key is None or (status == _DENIED and not self._is_new(key.id, action)):
            return
        target = printable((call.target or _named(call.params))[:_MAX_TEXT])
        client = call.scope.get("client") or ("",)
        await self._record(
            key_id=key.id,
            key_name=printable(key.name),
            address=printable(str(client[0])[:_MAX_TEXT]),
            action=action,
            target=target,
            status=status,
            detail=printable(call.about[:_MAX_TEXT]),
            request_id=call.request_id,
        )
        _log.info("operator", action=action, target=target, status=status, key_id=key.id)

    async def note_own(self, action: str, target: str, detail: str) -> None:
        """Write down what the backend did on its own."""
        await self._record(action=action, target=target, status=200, detail=detail)

    async def _record(self, **fields: Any) -> None:
        now = self._clock.now()
        await self._registry.record([AuditEntry(id=new_id(now), at=now, **fields)])

    def _is_new(self, key_id: str, action: str) -> bool:
        now_s = self._clock.monotonic_s()
        last_s = self._denied.get((key_id, action))
        if last_s is not None and now_s - last_s < _DENIED_EVERY_S:
            return False
        if len(self._denied) >= _MAX_DENIED:
            self._denied.clear()
        self._denied[key_id, action] = now_s
        return True


def _named(params: Mapping[str, str]) -> str:
    """Return what a path names: an id, or a model; empty if nothing."""
    if "owner" in params:
        return f"{params['owner']}/{params['name']}"
    return params.get("id", "")
