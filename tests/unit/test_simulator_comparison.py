import sys
from pathlib import Path

import msgspec
import pytest

from swell.simulator import traces

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rivals.anchors import ANCHORS
from rivals.comparison import RATE, Anchored, Least, Ran, Told, run

SHORT = "short-for-a-test"
STARTS_S = (120.0, 300.0)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of some hours in which a crowd comes."""
    part = traces.named("v3").between(1.75, 1.9)
    made = traces.Trace(SHORT, part.per_s)
    monkeypatch.setitem(traces.TRACES, SHORT, lambda: made)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_policy_pays_more_than_the_least_and_loses_nothing() -> None:
    (ran,) = run(Ran(SHORT, 1, 120.0))
    (least,) = run(Least(SHORT, 1, 120.0))
    assert ran.samples == least.samples
    assert ran.samples / RATE <= least.worker_s * 1.0001 < ran.worker_s
    assert (ran.lost, ran.is_default, ran.curve) == (0.0, True, "late_share")


@pytest.mark.slow
def test_the_policy_is_cheaper_when_it_is_told_that_more_may_be_late() -> None:
    (usual,), (careless,) = run(Ran(SHORT, 1, 300.0)), run(Ran(SHORT, 1, 300.0, 0.4))
    assert careless.knob == 0.4
    assert not careless.is_default
    assert careless.worker_s < usual.worker_s
    assert careless.late > usual.late


def test_an_anchor_is_run_with_every_setting_seed_and_cold_start() -> None:
    anchor = ANCHORS[0]
    told = run(Anchored(SHORT, anchor.name, (1, 2), STARTS_S))
    asked = {(each.curve, each.knob, each.start_s, each.seed) for each in told}
    assert len(told) == len(asked) == len(anchor.settings) * 4
    samples: dict[int, set[float]] = {}
    for each in told:
        samples.setdefault(each.seed, set()).add(each.samples)
    assert [len(each) for each in samples.values()] == [1, 1]
    assert sum(each.is_default for each in told) == 4


def test_what_is_told_can_be_kept_and_read() -> None:
    told = run(Least(SHORT, 1, 120.0))
    assert msgspec.json.decode(msgspec.json.encode(told), type=list[Told]) == told
