"""A collector of spans on this machine: what takes OTLP over HTTP at an operator's."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from loopback import listening

#: Longest wait for spans, in seconds.
PATIENCE_S = 30


@dataclass(frozen=True)
class Told:
    """A span as it arrived."""

    name: str
    trace: str
    id: str
    parent: str
    start_ns: int
    end_ns: int
    service: str
    error: str
    attributes: dict[str, str | int | float]


@dataclass
class Collector:
    """Spans that have arrived."""

    url: str = ""
    spans: list[Told] = field(default_factory=list)
    #: Answer to the next requests; 200 takes what they bring.
    status: int = 200
    requests: int = 0
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, is_enough: Callable[[list[Told]], bool]) -> list[Told]:
        """Wait until the spans are enough, and return them."""
        async with self.news:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self.news.wait_for(lambda: is_enough(self.spans))
            except TimeoutError:
                raise AssertionError(f"so far there are {self.spans}") from None
            return list(self.spans)

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        async with self.news:
            self.requests += 1
            if self.status == 200:
                self.spans += told(ExportTraceServiceRequest.FromString(body))
            self.news.notify_all()
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=answer, content_type="application/x-protobuf")


def told(message: ExportTraceServiceRequest) -> list[Told]:
    return [
        Told(
            name=span.name,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            service=values(group.resource.attributes)["service.name"],
            error=span.status.message if span.status.code == 2 else "",
            attributes=values(span.attributes),
        )
        for group in message.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def values(attributes) -> dict:  # type: ignore[no-untyped-def, type-arg]
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector while the block runs."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    async with listening(app) as collector.url:
        yield collector
