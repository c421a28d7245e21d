"""Contract of telemetry: traces from request to artifact, and context of log lines.

A process exports a span when it has ended, with both times. So no span is open anywhere, and a
process that dies leaves no span without a parent: only its last spans are missing. The parent of
the next span travels as a `traceparent`, with the task in the store and with the lease to the
worker. A task without one is not traced, and costs nothing.

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

#: Id of the current request, for log lines; empty outside of requests.
request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")

#: Version, trace, parent, flags. Later versions may add fields behind these.
_TRACEPARENT: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?"
)


class Trace(msgspec.Struct, frozen=True):
    """The `traceparent` of a new span, and that of its parent, if it has one."""

    own: str
    parent: str | None = None


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """An operation that has ended."""

    name: str
    trace: Trace
    start_at: datetime
    end_at: datetime
    attributes: dict[str, str | int | float] = {}
    #: The reason of a failure; empty for a success.
    error: str = ""
    #: Whether it answers a request from outside.
    is_server: bool = False


class Tracer(Protocol):
    """Exports spans to a collector.

    Guarantees:
        No method waits, fails or grows without bound: unsent spans are dropped after a time.
    """

    def begin(self, client: str | None) -> Trace | None:
        """Return the first span of a request's trace, or its next span in the client's trace.

        None if it is not sampled: the client decides, or else the share of sampled requests.

        Args:
            client: `client_trace` of the request.
        """
        ...

    def below(self, parent: str) -> Trace:
        """Return a new child span."""
        ...

    def tell(self, span: Span) -> None:
        """Export a span."""
        ...

    async def close(self) -> None:
        """Send queued spans, for some seconds at most. Idempotent."""
        ...


def client_trace(header: bytes | None) -> str | None:
    """Return a client's `traceparent` in normal form; None if it is invalid."""
    found = None if header is None else _TRACEPARENT.fullmatch(header.strip())
    if found is None:
        return None
    version, trace, parent, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace, 16) or not int(parent, 16):
        return None
    sampled = int(flags, 16) & 1
    return f"00-{trace.decode()}-{parent.decode()}-{sampled:02x}"


def trace_id_of(traceparent: str) -> str:
    """Return the trace id of a `traceparent`: 32 hexadecimal digits."""
    return traceparent[3:35]


def about(task_id: str, attempt: int, traceparent: str | None = None) -> dict[str, str | int]:
    """Return the fields of a log line about a task."""
    fields: dict[str, str | int] = {"task_id": task_id, "attempt": attempt}
    if traceparent is not None:
        fields["trace_id"] = trace_id_of(traceparent)
    return fields


def printable(text: str) -> str:
    """Return an untrusted text with all characters escaped that are not printable.

    So it cannot break a log line or control a terminal.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
