"""The log of requests."""

import re
from typing import Final, Literal

import structlog

from swell.core.clock import Clock
from swell.core.telemetry import printable, trace_id_of
from swell.server.request import Call

_log = structlog.get_logger("swell.requests")

#: Longest path in the log, in characters.
_PATH_CHARS: Final = 200

_TASKS: Final = "/v1/tasks/"

#: The tokens of share links are secrets, which the log leaves out.
_SHARED: Final = re.compile(r"^(/s/|/v1/shares/)[^/]+")


class RequestLog:
    """Writes a line for each request.

    Args:
        clock: The time.
        level: The level of the lines.
    """

    def __init__(self, clock: Clock, level: Literal["debug", "info"]) -> None:
        self._clock = clock
        self._write = _log.info if level == "info" else _log.debug

    def write(self, call: Call, route: str) -> None:
        """Log a finished request, without its query, headers and body.

        Args:
            call: The request.
            route: The path of its operation, with parameters in braces.
        """
        fields: dict[str, object] = {
            "method": str(call.scope["method"])[:20],
            "path": plain_path(call),
            "route": route,
            "status": call.status,
            "took_ms": round((self._clock.monotonic_s() - call.started_s) * 1000, 2),
        }
        if call.key is not None:
            fields["key_id"] = call.key.id
        client = call.scope.get("client")
        if client is not None:
            fields["address"] = client[0]
        if route.startswith(_TASKS + "{id}"):
            fields["task_id"] = printable(call.params["id"][:40])
        elif call.task_id:
            fields["task_id"] = call.task_id
        if call.trace is not None:
            fields["trace_id"] = trace_id_of(call.trace.own)
        self._write("request", **fields)


def plain_path(call: Call) -> str:
    """Return the path for a line of the log: short, and in one line."""
    return printable(_SHARED.sub(r"\1…", call.path)[:_PATH_CHARS])
