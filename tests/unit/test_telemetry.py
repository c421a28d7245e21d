"""Traces: what is taken of a client's header, and what a collector gets."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector import collecting
from swell.clock import SystemClock
from swell.errors import InvalidRequest
from swell.telemetry import Span, Trace, about, client_trace, trace_id_of
from swell.tracers.otlp import GROUP, MAX_WAITING, OtlpTracer

PARENT = f"00-{'4b' * 16}-{'00' * 7}0a-01"
AT = datetime(2026, 1, 2, tzinfo=UTC)


def a_tracer(url: str, sample: float = 1.0) -> OtlpTracer:
    return OtlpTracer(url, SystemClock(), sample=sample, service="swell-test", instance="1")


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


async def test_spans_are_sent_in_groups_while_the_process_goes_on() -> None:
    async with collecting() as collector:
        tracer = a_tracer(collector.url)
        for _ in range(2 * GROUP):
            tracer.tell(a_span(tracer.below(PARENT)))
        assert len(await collector.until(lambda spans: len(spans) == 2 * GROUP)) == 2 * GROUP
        assert collector.requests == 2
        await tracer.close()


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


async def test_what_waits_is_bounded() -> None:
    async with collecting() as collector:
        tracer = a_tracer(collector.url)
        for number in range(MAX_WAITING + 5):
            tracer.tell(a_span(tracer.below(PARENT), str(number)))
        await tracer.close()
        assert len(collector.spans) == MAX_WAITING
        assert collector.spans[0].name == "5"


def test_without_an_endpoint_nothing_of_opentelemetry_is_imported() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from swell.clock import SystemClock\n"
        "from swell.config import Settings\n"
        "import swell.wiring, swell.api.app, swell.worker.engine\n"
        "assert swell.wiring.open_tracer(Settings(), SystemClock(), 'x') is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_extra_the_setting_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from swell.clock import SystemClock\n"
        "from swell.config import Settings, TelemetrySettings\n"
        "from swell.errors import InvalidRequest\n"
        "from swell.wiring import open_tracer\n"
        "chosen = TelemetrySettings(endpoint='http://127.0.0.1:4318')\n"
        "try:\n"
        "    open_tracer(Settings(telemetry=chosen), SystemClock(), 'x')\n"
        "except InvalidRequest as error:\n"
        "    assert \"pip install 'swell[telemetry]'\" in error.detail, error.detail\n"
        "else:\n"
        "    sys.exit('it was not refused')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
