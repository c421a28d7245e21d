"""Exports spans by OTLP over HTTP, with the exporter and the queue of OpenTelemetry's SDK.

Swell does not use the SDK's tracers: they time the code inside a span, and Swell creates a span
when it has ended. A thread of the SDK sends queued spans in groups.
"""

import asyncio
import logging
import random
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from swell.core.errors import InvalidRequest
from swell.core.telemetry import Span, Trace

#: Logger on which the exporter reports failed requests.
_EXPORTER_LOG: Final = logging.getLogger("opentelemetry.exporter.otlp")

#: Length of the queue; beyond it the oldest spans are dropped.
MAX_WAITING: Final = 16_384

#: The most spans per request, and the time between requests with fewer, in seconds.
GROUP: Final = 512
GROUP_WITHIN_S: Final = 0.5

#: Timeout of one request with its retries, and of all requests at the end, in seconds.
SEND_WITHIN_S: Final = 5.0

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class OtlpTracer:
    """Sends spans to a collector.

    Args:
        endpoint: Such as `http://collector:4318`; the path is `/v1/traces` unless it has one.
        sample: Share of sampled traces, 0 to 1.
        service: Name of this kind of process, such as `swell-backend`.
        instance: Name of this process.

    Raises:
        InvalidRequest: The endpoint is not an HTTP URL.
    """

    def __init__(self, endpoint: str, *, sample: float, service: str, instance: str) -> None:
        self._sample = sample
        # Seeded by the system; ids of spans must be unique, not secret.
        self._rng = random.Random()
        self._resource = Resource.create({"service.name": service, "service.instance.id": instance})
        self._scope = InstrumentationScope("swell")
        self._exporter = OTLPSpanExporter(endpoint=_url(endpoint), timeout=SEND_WITHIN_S)
        self._queue = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MAX_WAITING,
            schedule_delay_millis=GROUP_WITHIN_S * 1000,
            max_export_batch_size=GROUP,
        )
        # Report an unreachable collector once per group, without the retries.
        _EXPORTER_LOG.setLevel(logging.ERROR)

    def begin(self, client: str | None) -> Trace | None:
        if client is not None:
            return self.below(client) if client.endswith("01") else None
        if self._rng.random() >= self._sample:
            return None
        return Trace(f"00-{self._id(128):032x}-{self._id(64):016x}-01")

    def below(self, parent: str) -> Trace:
        return Trace(f"{parent[:36]}{self._id(64):016x}-01", parent)

    def tell(self, span: Span) -> None:
        trace, start_ns = span.trace, _nanoseconds(span.start_at)
        self._queue.on_end(
            ReadableSpan(
                span.name,
                context=_context(trace.own),
                parent=None if trace.parent is None else _context(trace.parent, is_remote=True),
                resource=self._resource,
                attributes=span.attributes,
                kind=SpanKind.SERVER if span.is_server else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
                start_time=start_ns,
                # Clocks of two machines may differ, and a clock may be set back.
                end_time=max(start_ns, _nanoseconds(span.end_at)),
                instrumentation_scope=self._scope,
            )
        )

    async def close(self) -> None:
        try:
            async with asyncio.timeout(SEND_WITHIN_S):
                await asyncio.to_thread(self._queue.shutdown)
        except TimeoutError:
            # Wakes the thread if it waits for an unreachable collector.
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _id(self, bits: int) -> int:
        return self._rng.getrandbits(bits) or 1


async def why_refused(endpoint: str) -> str:
    """Send a collector an empty request; return why it refuses it, or an empty text.

    Raises:
        InvalidRequest: The endpoint is not an HTTP URL.
    """
    exporter = OTLPSpanExporter(endpoint=_url(endpoint), timeout=SEND_WITHIN_S)
    last = _LastLine(logging.ERROR)
    propagates = _EXPORTER_LOG.propagate
    _EXPORTER_LOG.addHandler(last)
    _EXPORTER_LOG.propagate = False
    try:
        result = await asyncio.to_thread(exporter.export, [])
    finally:
        _EXPORTER_LOG.removeHandler(last)
        _EXPORTER_LOG.propagate = propagates
        exporter.shutdown()  # type: ignore[no-untyped-call]
    if result is SpanExportResult.SUCCESS:
        return ""
    return last.line or "it does not answer"


class _LastLine(logging.Handler):
    line = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.line = record.getMessage()[:200]


def _url(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(
            f"telemetry.endpoint {endpoint!r}: use the URL of a collector that takes OTLP over "
            "HTTP, such as http://127.0.0.1:4318"
        )
    return endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/v1/traces"


def _context(traceparent: str, *, is_remote: bool = False) -> SpanContext:
    _, trace, span, flags = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote, TraceFlags(int(flags, 16)))


def _nanoseconds(at: datetime) -> int:
    since = at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
