"""Costs by name add up to the whole, and unassigned costs are shared by use."""

import re
from datetime import date
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.billing.cost_breakdown import By, Cost, added, costs_by
from swell.core.billing.ledger import CostRow, EntryKind, cost_micros

DAY = date(2030, 1, 1)
KINDS = list(EntryKind)


def row(kind: EntryKind, seconds: float, micros: int | None, **fields: object) -> CostRow:
    values = {"day": DAY, "pool": "gpu"} | fields
    return CostRow(kind=kind, seconds=seconds, micros=micros, **values)  # type: ignore[arg-type]


def attempts(seconds: float, micros: int | None, **fields: object) -> CostRow:
    values: dict[str, object] = {"attempts": 1, "images": 1, "model": "own/a"}
    return row(EntryKind.ATTEMPT, seconds, micros, **(values | fields))


def test_idle_time_and_cold_starts_are_shared_by_the_seconds_of_attempts() -> None:
    found = costs_by(
        [
            attempts(30.0, 30_000, images=10),
            attempts(10.0, 10_000, images=5, model="own/b"),
            row(EntryKind.FAILED, 0.0, 0, model="own/b", attempts=1),
            row(EntryKind.IDLE, 40.0, 40_000),
            row(EntryKind.COLD_START, 20.0, 20_000),
        ],
        "model",
    )
    assert set(found) == {"own/a", "own/b"}
    a, b = found["own/a"], found["own/b"]
    assert a.micros == {
        EntryKind.ATTEMPT: 30_000,
        EntryKind.IDLE: 30_000,
        EntryKind.COLD_START: 15_000,
    }
    assert (a.image_micros, a.loaded_image_micros) == (3_000, 7_500)
    assert (b.image_micros, b.loaded_image_micros) == (2_000, 5_000)
    assert (b.whole_s, b.whole_micros, b.attempts, b.images) == (25.0, 25_000, 2, 5)


def test_the_idle_time_of_one_pool_is_not_that_of_another() -> None:
    found = costs_by(
        [
            attempts(1.0, 1_000, pool="cheap"),
            row(EntryKind.IDLE, 9.0, 9_000, pool="cheap"),
            attempts(1.0, 5_000, model="own/b"),
        ],
        "model",
    )
    assert found["own/a"].whole_micros == 10_000
    assert found["own/b"].whole_micros == 5_000


def test_the_least_of_seconds_share_as_any_others_do() -> None:
    rows = [attempts(5e-324, 0), attempts(5e-324, 0, model="own/b"), row(EntryKind.IDLE, 1.5, 15)]
    found = costs_by(rows, "model")
    assert (found["own/a"].whole_s, found["own/b"].whole_s) == (0.75, 0.75)


def test_costs_of_a_pool_without_attempts_are_unassigned() -> None:
    found = costs_by([row(EntryKind.COLD_START, 60.0, 60_000)], "user")
    assert set(found) == {None}
    assert (found[None].whole_micros, found[None].image_micros) == (60_000, None)


def test_images_of_pools_without_a_price_do_not_make_others_cheaper() -> None:
    found = costs_by([attempts(1.0, 1_000), attempts(1.0, None, pool="free")], "model")
    assert found["own/a"].images == 2
    assert found["own/a"].image_micros == 1_000
    free = costs_by([attempts(1.0, None)], "model")["own/a"]
    assert (free.whole_micros, free.image_micros, free.loaded_image_micros) == (None, None, None)


def test_days_and_pools_have_the_costs_charged_to_them() -> None:
    rows = [
        attempts(1.0, 1_000),
        row(EntryKind.IDLE, 2.0, 2_000, day=date(2030, 1, 2)),
        row(EntryKind.WASTED, 3.0, 3_000, pool="other"),
    ]
    by_day = costs_by(rows, "day")
    assert {name: each.whole_micros for name, each in by_day.items()} == {
        "2030-01-01": 4_000,
        "2030-01-02": 2_000,
    }
    by_pool = costs_by(rows, "pool")
    assert {name: each.whole_micros for name, each in by_pool.items()} == {
        "gpu": 3_000,
        "other": 3_000,
    }


_rows = st.lists(
    st.builds(
        CostRow,
        day=st.sampled_from([date(2030, 1, 1), date(2030, 1, 2)]),
        kind=st.sampled_from(KINDS),
        pool=st.sampled_from(["a", "b"]),
        model=st.sampled_from(["m", "n", ""]),
        key_id=st.sampled_from(["k", "l"]),
        user=st.sampled_from(["", "u", "v"]),
        attempts=st.integers(0, 9),
        images=st.integers(0, 9),
        seconds=st.floats(-10, 1e6),
        micros=st.one_of(st.none(), st.integers(-100, 10**9)),
    ),
    max_size=30,
)


@pytest.mark.slow
@given(_rows, st.sampled_from(get_args(By)))
def test_every_grouping_adds_up_to_the_whole(rows: list[CostRow], by: By) -> None:
    whole = added(costs_by(rows, by).values())
    assert whole.attempts == sum(each.attempts for each in rows if _counts(each, by))
    assert whole.whole_micros == _sum_micros(rows)
    assert whole.whole_s == pytest.approx(sum(each.seconds for each in rows), abs=1e-3)
    for kind in KINDS:
        paid = [r.micros for r in rows if r.kind is kind and r.micros is not None]
        assert whole.micros.get(kind, 0) == sum(paid)


def _counts(each: CostRow, by: By) -> bool:
    # Only attempts have attempts; the shares of the rest have none.
    return by in ("day", "pool") or each.kind in (EntryKind.ATTEMPT, EntryKind.FAILED)


def _sum_micros(rows: list[CostRow]) -> int | None:
    paid = [each.micros for each in rows if each.micros is not None]
    return sum(paid) if paid else None


def test_nothing_added_up_is_nothing() -> None:
    assert added([]) == Cost()


def test_the_hour_in_the_documents_adds_up() -> None:
    page = (Path(__file__).parents[2] / "docs" / "what-it-costs.md").read_text()
    table = page.partition("### An hour that adds up")[2].partition("By its attempts")[0]
    told = {
        kind: (int(seconds.replace(",", "")), int(micros.replace(",", "")))
        for kind, seconds, micros in re.findall(r"\| (\w+) \| ([\d,]+) \| ([\d,]+) \|", table)
    }
    whole = told.pop("together")
    rows = [
        row(EntryKind(kind), float(seconds), micros, images=2_000 if kind == "attempt" else 0)
        for kind, (seconds, micros) in told.items()
    ]
    assert {each.kind for each in rows} == set(EntryKind)
    assert all(cost_micros(each.seconds, 720_000) == each.micros for each in rows)
    [cost] = costs_by(rows, "pool").values()
    assert (cost.whole_s, cost.whole_micros) == whole
    assert (cost.image_micros, cost.loaded_image_micros) == (240, 360)
    assert "= 240 micros" in page
    assert "= 360 micros" in page
