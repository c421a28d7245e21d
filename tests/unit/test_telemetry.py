"""Traces: what is taken of a client's header, and what a collector gets."""

import itertools
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from api_harness import a_world, failed
from hypothesis import given
from hypothesis import strategies as st

from collector import collecting
from conformance.factories import a_failure
from manual_clock import ManualClock
from swell.core.errors import InvalidRequest
from swell.core.telemetry import Span, Trace, about, client_trace, trace_id_of
from swell.net.otlp_exporter import GROUP, MAX_WAITING, OtlpTracer
from swell.protocol.worker_messages import LeasedTask
from swell.server.tasks.task_traces import Traces
from swell.worker.inflight import InflightTasks
from swell.worker.task_spans import TaskTraces

PARENT = f"00-{'4b' * 16}-{'00' * 7}0a-01"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def a_tracer(url: str, sample: float = 1.0) -> OtlpTracer:
    return OtlpTracer(url, sample=sample, service="swell-test", instance="1")


def a_span(trace: Trace, name: str = "run", **fields: object) -> Span:
    values: dict = {"name": name, "trace": trace, "start_at": AT, "end_at": AT}  # type: ignore[type-arg]
    return Span(**(values | fields))


# ---- what a client says


def test_a_client_s_trace_is_gone_on_with() -> None:
    assert client_trace(PARENT.encode()) == PARENT
    assert client_trace(f" {PARENT[:-2]}00 ".encode()) == f"{PARENT[:-2]}00"
    assert trace_id_of(PARENT) == "4b" * 16


def test_what_a_later_version_adds_is_left_out() -> None:
    assert client_trace(f"cc{PARENT[2:-2]}03-what=ever".encode()) == PARENT


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"00",
        PARENT[:-1].encode(),
        PARENT.upper().encode(),
        f"ff{PARENT[2:]}".encode(),
        f"{PARENT}-more".encode(),
        f"00-{'0' * 32}-{'0a' * 8}-01".encode(),
        f"00-{'4b' * 16}-{'0' * 16}-01".encode(),
        f"{PARENT}\n".encode() + b"x",
    ],
)
def test_a_header_that_is_no_trace_says_nothing(header: bytes) -> None:
    assert client_trace(header) is None


@given(st.binary(max_size=80))
def test_no_header_breaks_the_reader(header: bytes) -> None:
    found = client_trace(header)
    assert found is None or len(found) == 55


def test_a_line_about_a_task_names_its_trace_where_it_has_one() -> None:
    assert about("t", 2) == {"task_id": "t", "attempt": 2}
    assert about("t", 2, PARENT)["trace_id"] == "4b" * 16


# ---- the tracer


async def test_a_trace_begins_where_none_was_and_goes_on_where_one_is() -> None:
    tracer = a_tracer("http://127.0.0.1:1")
    fresh = tracer.begin(None)
    assert fresh is not None
    assert fresh.parent is None
    assert client_trace(fresh.own.encode()) == fresh.own
    below = tracer.begin(PARENT)
    assert below is not None
    assert (below.parent, trace_id_of(below.own)) == (PARENT, "4b" * 16)
    assert below.own != PARENT
    await tracer.close()


async def test_a_client_s_decision_is_kept_and_others_are_a_share() -> None:
    never, half = a_tracer("http://127.0.0.1:1", 0.0), a_tracer("http://127.0.0.1:1", 0.5)
    assert never.begin(None) is None
    assert never.begin(PARENT) is not None
    assert half.begin(f"{PARENT[:-2]}00") is None
    assert 300 < sum(half.begin(None) is not None for _ in range(1000)) < 700


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_an_endpoint_that_cannot_be_one_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidRequest, match=r"telemetry\.endpoint"):
        a_tracer(endpoint)


async def test_spans_arrive_with_their_times_and_parents() -> None:
    async with collecting() as collector:
        tracer = a_tracer(collector.url)
        trace = tracer.below(PARENT)
        end_at = AT + timedelta(seconds=1.5)
        tracer.tell(a_span(trace, end_at=end_at, attributes={"n": 3}, error="model_error"))
        # An end before the start: another machine's clock.
        tracer.tell(a_span(tracer.below(trace.own), "load", end_at=AT - timedelta(seconds=9)))
        await tracer.close()
        run, load = collector.spans
        assert (run.name, run.trace, run.parent) == ("run", "4b" * 16, f"{'00' * 7}0a")
        assert run.end_ns - run.start_ns == 1_500_000_000
        assert run.start_ns == int(AT.timestamp()) * 1_000_000_000
        assert (run.service, run.error, run.attributes) == ("swell-test", "model_error", {"n": 3})
        assert (load.parent, load.end_ns - load.start_ns) == (run.id, 0)


@pytest.mark.slow
async def test_spans_are_sent_in_groups_while_the_process_goes_on() -> None:
    async with collecting() as collector:
        tracer = a_tracer(collector.url)
        for _ in range(2 * GROUP):
            tracer.tell(a_span(tracer.below(PARENT)))
        assert len(await collector.until(lambda spans: len(spans) == 2 * GROUP)) == 2 * GROUP
        assert collector.requests == 2
        await tracer.close()


@pytest.mark.slow
async def test_a_collector_that_is_away_costs_spans_and_nothing_else() -> None:
    async with collecting() as collector:
        tracer = a_tracer(collector.url)
        collector.status = 400
        tracer.tell(a_span(tracer.below(PARENT)))
        async with collector.news:
            await collector.news.wait_for(lambda: collector.requests > 0)
        collector.status = 200
        tracer.tell(a_span(tracer.below(PARENT), "after"))
        await tracer.close()
        assert [span.name for span in collector.spans] == ["after"]


@pytest.mark.slow
async def test_what_waits_is_bounded() -> None:
    async with collecting() as collector:
        tracer = a_tracer(collector.url)
        # The first group may be under way.
        last = MAX_WAITING + 2 * GROUP
        for number in range(last + 1):
            tracer.tell(a_span(tracer.below(PARENT), str(number)))
        await tracer.close()
        assert MAX_WAITING <= len(collector.spans) <= MAX_WAITING + GROUP
        assert collector.spans[-1].name == str(last)


@pytest.mark.slow
def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from swell.core.clock import SystemClock\n"
        "from swell.settings.load import Settings\n"
        "import swell.bootstrap.tracing, swell.server.app, swell.worker.worker_loop\n"
        "assert swell.bootstrap.tracing.open_tracer(Settings(), 'x') is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_without_the_extra_the_setting_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from swell.core.clock import SystemClock\n"
        "from swell.settings.backend_settings import TelemetrySettings\n"
        "from swell.settings.load import Settings\n"
        "from swell.core.errors import InvalidRequest\n"
        "from swell.bootstrap.tracing import open_tracer\n"
        "chosen = TelemetrySettings(endpoint='http://127.0.0.1:4318')\n"
        "try:\n"
        "    open_tracer(Settings(telemetry=chosen), 'x')\n"
        "except InvalidRequest as error:\n"
        "    assert \"pip install 'swell[telemetry]'\" in error.detail, error.detail\n"
        "else:\n"
        "    sys.exit('it was not refused')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- who tells what


class Recorder:
    """A tracer that keeps what it is told."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}
        self._ids = itertools.count(1)

    def begin(self, client: str | None) -> Trace | None:
        return None if client is None else self.below(client)

    def below(self, parent: str) -> Trace:
        return Trace(f"{parent[:36]}{next(self._ids):016x}-01", parent)

    def tell(self, span: Span) -> None:
        assert span.name not in self.spans, "each once"
        self.spans[span.name] = span

    async def close(self) -> None:
        self.spans = {}


def seconds(span: Span) -> float:
    return (span.end_at - span.start_at).total_seconds()


async def test_the_backend_tells_its_part_with_the_times_of_the_task() -> None:
    async with a_world() as world:
        recorder = Recorder()
        world.service.traces = Traces(recorder, world.clock)
        worker = await world.register()
        await world.create()
        assert recorder.spans == {}, "a client without a trace, and no sample"
        [quiet] = (await world.lease(worker))["tasks"]
        assert "traceparent" not in quiet
        body = {"model": "demo/upper", "input": {"text": "a"}}
        headers = {"traceparent": PARENT, "x-request-id": "r"}
        task = (await world.anna("POST", "/v1/tasks", body, headers=headers)).json
        accept = recorder.spans["accept"]
        assert (accept.trace.parent, accept.is_server) == (PARENT, True)
        assert accept.attributes["swell.request.id"] == "r"
        assert accept.attributes["swell.task.id"] == task["id"]
        world.clock.advance(4)
        [lease] = (await world.lease(worker))["tasks"]
        assert lease["traceparent"] == recorder.spans["lease"].trace.own
        assert seconds(recorder.spans["queued"]) == 4
        assert recorder.spans["queued"].trace.parent == accept.trace.own
        world.clock.advance(2)
        await world.report(worker, settlements=[failed(lease, retryable=False)])
        assert recorder.spans["delivered"].error == "model_error"
        assert recorder.spans["delivered"].attributes["swell.task.state"] == "failed"
        assert set(recorder.spans) == {"accept", "queued", "lease", "delivered"}


async def test_a_repeat_of_a_request_is_not_accepted_twice() -> None:
    async with a_world() as world:
        recorder = Recorder()
        world.service.traces = Traces(recorder, world.clock)
        await world.register()
        body = {"model": "demo/upper", "input": {"text": "a"}}
        headers = {"traceparent": PARENT, "idempotency-key": "k"}
        for _ in range(2):
            await world.anna("POST", "/v1/tasks", body, headers=headers)
        assert set(recorder.spans) == {"accept"}


async def test_a_batch_has_one_trace() -> None:
    async with a_world() as world:
        recorder = Recorder()
        world.service.traces = Traces(recorder, world.clock)
        worker = await world.register()
        body = {"tasks": [{"model": "demo/upper", "input": {"text": "a"}}] * 3}
        await world.anna("POST", "/v1/tasks/batch", body, headers={"traceparent": PARENT})
        assert recorder.spans["accept"].attributes["swell.tasks"] == 3
        recorder.tell = lambda span: None  # type: ignore[method-assign]
        leases = (await world.lease(worker))["tasks"]
        assert {trace_id_of(lease["traceparent"]) for lease in leases} == {"4b" * 16}
        assert len({lease["traceparent"] for lease in leases}) == 3


async def test_a_worker_tells_its_part_and_what_it_waited_for() -> None:
    clock, recorder = ManualClock(), Recorder()
    traces = TaskTraces(clock, "gpu-1")
    traces.tracer = recorder
    task = a_lease(PARENT)
    desk = InflightTasks(2, traces)
    held = desk.hold(task, "key", clock.monotonic_s())
    clock.advance(1)
    traces.fetched(task, 0.0)
    clock.advance(7)
    traces.ran(task, run_s=4, load_s=3)
    clock.advance(2)
    traces.stored(task, encode_s=1.5, upload_s=0.5)
    desk.settle(held, a_failure())
    desk.take()
    clock.advance(0.25)
    desk.told()
    took = {name: seconds(span) for name, span in recorder.spans.items()}
    assert took == {
        **{"fetch": 1.0, "run": 7.0, "load": 3.0, "encode": 1.5, "upload": 0.5, "report": 0.25}
    }
    spans = recorder.spans
    assert spans["load"].trace.parent == spans["run"].trace.own
    assert spans["load"].start_at == spans["run"].start_at
    assert spans["encode"].end_at == spans["upload"].start_at
    assert spans["report"].error == "model_error"
    assert {spans[name].trace.parent for name in ("fetch", "run", "encode", "report")} == {PARENT}
    assert spans["run"].attributes["swell.worker.name"] == "gpu-1"
    # What was told is not told again.
    desk.told()


async def test_of_a_task_without_a_trace_a_worker_tells_nothing() -> None:
    clock, recorder = ManualClock(), Recorder()
    traces = TaskTraces(clock, "gpu-1")
    traces.tracer = recorder
    task = a_lease(None)
    traces.fetched(task, 0.0)
    traces.ran(task, 1.0, 1.0)
    traces.stored(task, 1.0, 1.0)
    traces.settled(task)
    assert recorder.spans == {}


def a_lease(traceparent: str | None) -> LeasedTask:
    return LeasedTask(
        task_id="a" * 32,
        attempt=1,
        token="t",
        model="demo/upper",
        version="1",
        input=msgspec.Raw(b"{}"),
        traceparent=traceparent,
    )
