from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.autoscaler.policy_settings import PolicySettings
from swell.core.errors import InvalidInput
from swell.simulator import launch, traces
from swell.simulator.drawing import bars, svg
from swell.simulator.machines import Workers
from swell.simulator.pools import MODEL, Pool
from swell.simulator.runs import Asked, Chart, Told, run
from swell.simulator.scenarios import azure_conv
from swell.simulator.speeds import fixed
from swell.simulator.traces import Trace


def pool(name: str = "workers", **fields: Any) -> Workers:
    own = {"start_s": 60.0, "hour_micros": 720_000} | fields
    return Workers(pool=Pool(name=name, **own), speeds={MODEL: fixed(2.0)}, told_start_s=60.0)


def steady(per_s: float, minutes: int = 60) -> Trace:
    return Trace("steady", np.full(minutes, per_s))


def both(demand: Trace, *pools: Workers, spread: float = 0.0) -> tuple[Told, Told]:
    asked = {"demand": demand, "pools": pools or (pool(),), "spread": spread}
    return run(Asked(level="tasks", **asked)), run(Asked(level="fluid", **asked))  # type: ignore


@pytest.mark.slow
def test_both_levels_say_the_same_of_a_steady_crowd() -> None:
    single, flows = both(steady(10.0))
    assert single.level == "tasks"
    assert flows.level == "fluid"
    assert single.worker_s == pytest.approx(flows.worker_s, rel=0.1)
    assert single.cost_micros == pytest.approx(single.worker_s * 200, rel=0.001)
    for told in (single, flows):
        assert told.lost == told.left == 0
        assert sum(told.kinds.values()) == pytest.approx(told.worker_s, rel=1e-6)
        assert told.kinds["attempt"] == pytest.approx(told.samples * 2.0, rel=0.02)


@pytest.mark.slow
def test_tasks_are_told_apart_as_long_as_they_are_few() -> None:
    assert run(Asked(demand=steady(1.0), pools=[pool()])).level == "tasks"
    assert run(Asked(demand=steady(200.0), pools=[pool(start_s=30.0)])).level == "fluid"


def test_a_smaller_quota_makes_people_wait_and_tells_how_many_can_be_let_in() -> None:
    enough, short = (
        run(Asked(demand=steady(10.0), pools=pools, level="fluid"))
        for pools in ([pool()], launch.capped([pool()], 10))
    )
    assert enough.late < 0.05
    assert short.peak == 10
    assert short.late > 0.5
    # Ten workers draw five of ten samples a second.
    assert 0.2 < short.admitted < 0.6
    assert short.told_wait_s > 600


@pytest.mark.slow
def test_whoever_has_no_patience_is_refused_where_there_are_too_few_workers() -> None:
    few = launch.capped([pool()], 10)
    told = run(Asked(demand=steady(10.0, 20), pools=few, spread=0.0, patience_s=30.0))
    assert told.refused + told.expired > told.tasks / 4
    assert told.p99_s <= 30.0
    assert told.lost == told.left == 0
    with pytest.raises(InvalidInput, match="use a smaller scale"):
        run(Asked(demand=steady(10.0), pools=few, patience_s=30.0, level="fluid"))


@pytest.mark.slow
def test_a_picture_costs_what_was_paid_for_those_that_were_drawn() -> None:
    few = [pool(most=3)]
    told = run(Asked(demand=azure_conv(), pools=few, spread=0.0, patience_s=5.0))
    assert told.refused + told.expired > told.tasks / 2
    assert told.drawn == told.samples - told.refused - told.expired
    # One draws 1,800 in an hour at best.
    assert 720_000 / 1_800 <= told.image_micros < 1.2 * 720_000 / 1_800


def test_a_budget_of_the_day_is_kept_at_the_price_of_waiting() -> None:
    # An hour of 20 workers costs 14 $.
    wanted = PolicySettings(day_budget_micros=5_000_000)
    free, bound = (
        run(Asked(demand=steady(10.0), pools=[pool()], settings=each, level="fluid"))
        for each in (PolicySettings(), wanted)
    )
    assert free.cost_micros > 14_000_000
    assert bound.left > free.left
    assert bound.late > free.late


@given(mosts=st.lists(st.integers(0, 50), min_size=1, max_size=5), most=st.integers(0, 200))
def test_capped_pools_have_no_more_than_so_many_together(mosts: list[int], most: int) -> None:
    pools = [pool(f"p{place}", most=each) for place, each in enumerate(mosts)]
    found = launch.capped(pools, most)
    assert sum(each.pool.most for each in found) == min(most, sum(mosts))
    assert all(a.pool.most <= b for a, b in zip(found, mosts, strict=True))


def test_quotas_of_spot_machines_keep_to_the_policys_share_of_a_place() -> None:
    told = run(Asked(demand=steady(10.0), pools=[pool()], level="fluid"))
    quotas = launch.quotas_of_prices(told, PolicySettings(location_share=0.5), 10.0, "L4")
    whole = told.peak * 10 * launch.SPARE
    assert quotas
    for each in quotas:
        share = 0.5 if each.is_spot else 1.0
        assert whole * share <= each.workers < whole * share + 1
        assert each.places == (2 if each.is_spot else 1)
    assert [each.hour_micros for each in quotas] == sorted(each.hour_micros for each in quotas)
    assert launch.quotas_of_prices(told, PolicySettings(), 1.0, "no such GPU") == []


@pytest.mark.slow
def test_pools_that_are_used_first_are_those_that_are_cheap() -> None:
    pools = [pool("dear", hour_micros=900_000), pool("cheap", hour_micros=300_000, most=5)]
    told = run(Asked(demand=steady(10.0, 180), pools=pools, level="fluid"))
    assert told.peaks["cheap"] == 5
    named = launch.quotas_of_pools(told, pools, 2.0)
    assert [(each.name, each.workers) for each in named][1] == ("cheap", 12)


def test_a_day_has_as_many_people_in_the_evening_as_was_said() -> None:
    found = traces.day(120_000, 120.0)
    assert found.per_s.max() == pytest.approx(1000.0)
    assert int(found.per_s.argmax()) == 20 * 60
    assert len(found.per_s) == 1440


def test_the_hour_of_azure_is_all_of_its_requests() -> None:
    # 59 minutes that are whole, of 19,366 requests.
    assert azure_conv().per_s.sum() * 60 == pytest.approx(19_366 - 37, abs=0.5)


def test_bars_show_the_most_as_the_highest_and_nothing_as_nothing() -> None:
    assert bars([0.0, 1.0, 8.0, 0.001]) == " ▁█▁"
    assert bars([0.0, 0.0]) == "  "
    assert bars([]) == ""


def test_a_drawing_is_text_that_cannot_be_markup() -> None:
    chart = Chart([1.0, 2.0], [1.0, 1.0], [1.0, 2.0], [0.0, 0.0])
    drawn = svg("<b>", chart, 3600.0)
    assert "&lt;b&gt;" in drawn
    assert drawn.count("<polyline") == 4
