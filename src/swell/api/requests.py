"""Request ids, and the log of requests."""

import itertools
import re
import secrets
from typing import Final, Literal

import structlog

from swell.api.call import Call, Receive, Reply, Scope, Send
from swell.clock import Clock
from swell.telemetry import printable, request_id, trace_id_of

_log = structlog.get_logger("swell.requests")

#: Request ids that clients may set: nothing that could break or fill a line of the log.
_SANE: Final = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

#: Status in the log if the client hung up before the answer; never sent.
CLIENT_GONE: Final = 499

#: Longest path in the log, in characters.
_PATH_CHARS: Final = 200

_TASKS: Final = "/v1/tasks/"

#: The tokens of share links are secrets, which the log leaves out.
_SHARED: Final = re.compile(r"^(/s/|/v1/shares/)[^/]+")


class Requests:
    """Gives requests their ids, and logs them if the settings say so.

    Args:
        clock: The time.
        level: The level of their log lines; `off` for none.
    """

    def __init__(self, clock: Clock, level: Literal["off", "debug", "info"]) -> None:
        self._clock = clock
        self._level = level
        self.is_logging = level != "off"
        self._prefix = f"req_{secrets.token_hex(5)}"
        self._numbers = itertools.count(1)

    def begin(self, scope: Scope, receive: Receive, send: Send) -> Call:
        """Return a new request; its id is in every line of the log about it."""
        call = Call(scope, receive, send, self.new_id())
        call.started_s = self._clock.monotonic_s()
        asked = call.headers.get(b"x-request-id")
        if asked is not None and _SANE.fullmatch(asked):
            call.request_id = asked.decode("ascii")
        request_id.set(call.request_id)
        return call

    def new_id(self) -> str:
        """Return an id for a request: random per process, then a number."""
        return f"{self._prefix}{next(self._numbers):08x}"

    def log(self, call: Call, route: str) -> None:
        """Log a finished request, without its query, headers and body.

        Args:
            call: The request.
            route: The path of its operation, with parameters in braces.
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
        """Answer a request that no operation takes."""
        call.status = reply.status
        await reply.send(call)
        self.log(call, "none")


def plain_path(call: Call) -> str:
    """Return the path for a line of the log: short, and in one line."""
    return printable(_SHARED.sub(r"\1…", call.path)[:_PATH_CHARS])
