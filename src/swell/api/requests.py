"""What a request is called, and its line in the log."""

import re
from typing import Final, Literal

import structlog

from swell.api.call import Call, Reply
from swell.clock import Clock
from swell.telemetry import printable, request_id, trace_id_of

_log = structlog.get_logger("swell.requests")

#: What a client may call its request: nothing that could break a line of a log, or fill it.
_SANE: Final = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

#: Status in the log of a request whose client hung up before the answer; never sent.
CLIENT_GONE: Final = 499

#: Longest path in the log, in characters.
_PATH_CHARS: Final = 200

_TASKS: Final = "/v1/tasks/"

#: What stands behind it opens what was shared, and is for nobody who reads logs.
_SHARED: Final = re.compile(r"^(/s/|/v1/shares/)[^/]+")


class Requests:
    """Names the requests of one backend process, and logs them where that is wanted.

    Args:
        clock: The time.
        level: How important their lines are; `off` for none.
    """

    def __init__(self, clock: Clock, level: Literal["off", "debug", "info"]) -> None:
        self._clock = clock
        self._level = level
        self.is_logging = level != "off"

    def enter(self, call: Call) -> None:
        """Begin a request: from now on its id stands in every line of the log about it."""
        call.started_s = self._clock.monotonic_s()
        asked = call.header(b"x-request-id")
        if asked is not None and _SANE.fullmatch(asked):
            call.request_id = asked.decode("ascii")
        request_id.set(call.request_id)

    def log(self, call: Call, route: str) -> None:
        """Log a request that is over. Nothing of its query, headers or body is told.

        Args:
            call: The request.
            route: Its path as the table has it.
        """
        if not self.is_logging:
            return
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
        tell = _log.info if self._level == "info" else _log.debug
        tell("request", **fields)

    async def refuse(self, call: Call, reply: Reply) -> None:
        """Answer a request that no row of the table takes."""
        call.status = reply.status
        await reply.send(call)
        self.log(call, "none")


def plain_path(call: Call) -> str:
    """Return the path for a line of the log: short, and in one line."""
    return printable(_SHARED.sub(r"\1…", call.path)[:_PATH_CHARS])
