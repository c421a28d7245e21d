"""Contract of telemetry: traces from request to artifact, and whom a line of the log is about.

A span is told when it is over, with its times, by whichever process knows both. So nothing is kept
open anywhere, and a process that dies leaves no span without a parent: what it had not told is
missing, and that is all. Where a trace goes on travels as a `traceparent`, with the task in the
store and with the lease to the worker. A task without one is not traced, and costs nothing.

    accept ──┬── queued
             ├── lease ──┬── fetch
             │           ├── run ── load
             │           ├── encode
             │           ├── upload
             │           └── report
             └── delivered

Source:
    W3C Trace Context, Level 1, section 3.2.
"""

import re
from contextvars import ContextVar
from datetime import datetime
from typing import Final, Protocol

import msgspec

#: The request that the current code works for; empty outside of any. Lines of the log tell it.
request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")

#: Version, trace, parent, flags. Later versions may add fields behind these.
_TRACEPARENT: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?"
)


class Trace(msgspec.Struct, frozen=True):
    """Where a new span stands: its own `traceparent`, and that of its parent, if it has one."""

    own: str
    parent: str | None = None


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Something that took time, told when it is over."""

    name: str
    trace: Trace
    start_at: datetime
    end_at: datetime
    attributes: dict[str, str | int | float] = {}
    #: Why it failed; empty where it did not.
    error: str = ""
    #: Whether it answers a request from outside.
    is_server: bool = False


class Tracer(Protocol):
    """Takes spans to whoever keeps traces.

    Guarantees:
        Nothing here waits, fails or grows without bound: what cannot be sent in time is dropped.
    """

    def begin(self, client: str | None) -> Trace | None:
        """Return where a request's trace begins or, below the client's own, goes on.

        None where it is not sampled: a client's decision is kept, and for the others it is a share.

        Args:
            client: `client_trace` of the request.
        """
        ...

    def below(self, parent: str) -> Trace:
        """Return a new place below this one."""
        ...

    def tell(self, span: Span) -> None:
        """Take a span that is over."""
        ...

    async def close(self) -> None:
        """Send what waits, for some seconds at most. Idempotent."""
        ...


def client_trace(header: bytes | None) -> str | None:
    """Return a client's `traceparent` as we go on with it; None where it says nothing usable."""
    found = None if header is None else _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace, 16) or not int(parent, 16):
        return None
    sampled = int(flags, 16) & 1
    return f"00-{trace.decode()}-{parent.decode()}-{sampled:02x}"


def trace_id_of(traceparent: str) -> str:
    """Return the trace that a `traceparent` belongs to: 32 hexadecimal digits."""
    return traceparent[3:35]


def about(task_id: str, attempt: int, traceparent: str | None = None) -> dict[str, str | int]:
    """Return the fields of a line of the log that is about a task."""
    fields: dict[str, str | int] = {"task_id": task_id, "attempt": attempt}
    if traceparent is not None:
        fields["trace_id"] = trace_id_of(traceparent)
    return fields


def printable(text: str) -> str:
    """Return a text of others in one line of what can be seen: anything else as its escape.

    Neither a terminal nor a reader of a log takes it for more than a text then.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
