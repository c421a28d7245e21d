"""All of a machine's time is charged once, if reports are lost, repeated or late."""

import random
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.core.billing.cost_breakdown import shared
from swell.core.billing.idle_time import Life, paid_micros, paid_s, remainder
from swell.core.billing.ledger import Charged, EntryKind, LedgerEntry, cost_micros
from swell.core.billing.price_history import Step, price_at

AT = datetime(2030, 1, 1, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return AT + timedelta(seconds=seconds)


def a_life(**fields: object) -> Life:
    values = {"account": "a", "pool": "p", "launched_at": AT, "heard_at": AT}
    return Life(**(values | fields))  # type: ignore[arg-type]


class Ledger:
    """Entries by their ids, as every registry keeps them."""

    def __init__(self) -> None:
        self.entries: dict[str, LedgerEntry] = {}

    def charge(self, *entries: LedgerEntry) -> None:
        for each in entries:
            self.entries.setdefault(each.id, each)

    @property
    def charged(self) -> Charged:
        seconds = sum(each.seconds for each in self.entries.values())
        return Charged(
            seconds=seconds, micros=sum(each.micros or 0 for each in self.entries.values())
        )

    def kinds(self) -> dict[EntryKind, float]:
        found: dict[EntryKind, float] = {}
        for each in self.entries.values():
            found[each.kind] = found.get(each.kind, 0.0) + each.seconds
        return found


def attempt(n: int, seconds: float, price: int | None) -> LedgerEntry:
    return LedgerEntry(
        id=f"task-{n}",
        at=AT,
        kind=EntryKind.FAILED if n % 5 == 0 else EntryKind.ATTEMPT,
        pool="p",
        seconds=round(seconds, 6),
        micros=cost_micros(seconds, price),
        account="a",
    )


def rest(life: Life, charged: Charged, until: datetime) -> list[LedgerEntry]:
    return remainder(life, charged, until, name="end", at=until)


def settle(ledger: Ledger, life: Life, until: datetime, name: str) -> None:
    ledger.charge(*remainder(life, ledger.charged, until, name=name, at=until))


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    price=st.one_of(st.none(), st.integers(0, 20_000_000)),
    lanes=st.integers(1, 5),
    least_billed_s=st.sampled_from([0.0, 60.0, 3600.0]),
    lost=st.floats(0, 1),
    told_twice=st.floats(0, 1),
    changes=st.integers(0, 6),
)
def test_the_ledger_adds_up_to_the_bill_of_any_life(
    seed: int,
    price: int | None,
    lanes: int,
    least_billed_s: float,
    lost: float,
    told_twice: float,
    changes: int,
) -> None:
    """A worker boots, runs attempts in shares of its device, is settled now and then, and ends."""
    rng, ledger = random.Random(seed), Ledger()
    moments = sorted(rng.uniform(-500, 6000) for _ in range(changes if price is not None else 0))
    steps = tuple(Step(after(at), rng.randint(0, 20_000_000)) for at in moments)

    def now_micros(at_s: float) -> int | None:
        return None if price is None else price_at(steps, after(at_s), price)

    launch_micros = rng.choice([0, 777]) if price is not None else 0
    cold_s, lived_s = rng.uniform(0, 900), rng.uniform(0, 5000)
    life = a_life(
        hour_micros=price,
        steps=steps,
        launch_micros=launch_micros,
        least_billed_s=least_billed_s,
        said_goodbye=rng.random() < 0.5,
    )
    cold = attempt(0, cold_s, now_micros(cold_s))
    kind = EntryKind.COLD_START
    micros = None if cold.micros is None else cold.micros + launch_micros
    ledger.charge(msgspec.structs.replace(cold, id="a-ready", kind=kind, micros=micros))
    device_s, number, worked_s, at_s = 0.0, 0, 0.0, cold_s
    while at_s < cold_s + lived_s:
        # For a while nothing is done, then some attempts share the device.
        at_s += rng.choice([0.0, rng.uniform(0, 200)])
        step_s = rng.uniform(0, 100)
        at_s += step_s
        device_s += step_s
        for _ in range(lanes):
            number += 1
            entry = attempt(number, step_s / lanes, now_micros(at_s))
            if rng.random() >= lost:
                worked_s += entry.seconds
                ledger.charge(entry)
                if rng.random() < told_twice:
                    ledger.charge(entry)
        if rng.random() < 0.3:
            settle(ledger, life, after(at_s), f"idle-{number}")
    ended = msgspec.structs.replace(
        life, ended_at=after(at_s), heard_at=after(at_s - rng.uniform(0, 30))
    )
    settle(ledger, ended, after(at_s), "end-1")
    settle(ledger, ended, after(at_s), "end-2")

    billed_s = max(at_s, least_billed_s)
    whole = ledger.charged
    assert whole.seconds == pytest.approx(billed_s, abs=1e-4)
    assert whole.seconds == pytest.approx(paid_s(ended, after(at_s)), abs=1e-4)
    if price is None:
        assert all(each.micros is None for each in ledger.entries.values())
    else:
        assert whole.micros == paid_micros(ended, after(at_s))
        if not steps:
            assert whole.micros == round(paid_s(ended, after(at_s)) * price / 3600) + launch_micros
    kinds = ledger.kinds()
    assert kinds[EntryKind.COLD_START] == pytest.approx(cold_s, abs=1e-5)
    own = kinds.get(EntryKind.ATTEMPT, 0.0) + kinds.get(EntryKind.FAILED, 0.0)
    assert own == pytest.approx(worked_s, abs=1e-4)
    # Time without an owner is idle or wasted, and never negative.
    left = kinds.get(EntryKind.IDLE, 0.0) + kinds.get(EntryKind.WASTED, 0.0)
    assert left >= -1e-4
    assert all(each.seconds >= -1e-4 for each in ledger.entries.values())


def test_idle_time_is_the_remainder() -> None:
    life = a_life(hour_micros=3_600_000)
    [idle] = rest(life, Charged(seconds=60.0, micros=60_000), after(100))
    assert (idle.kind, idle.seconds, idle.micros) == (EntryKind.IDLE, 40.0, 40_000)
    assert rest(life, Charged(seconds=100.0, micros=100_000), after(100)) == []


def test_a_machine_costs_the_price_in_force_at_each_moment_of_its_life() -> None:
    steps = (Step(after(-50), 3_600_000), Step(after(40), 7_200_000), Step(after(100), 1))
    life = a_life(hour_micros=9, steps=steps, launch_micros=7)
    assert paid_micros(life, after(60)) == 40_000 + 40_000 + 7
    # An attempt of 10 s was charged before the price was known to have risen.
    [idle] = rest(life, Charged(seconds=10.0, micros=10_000), after(60))
    assert (idle.seconds, idle.micros) == (50.0, 70_007)
    # Minimum billing has the price at the end, even if it changes later.
    ended = msgspec.structs.replace(
        life, ended_at=after(80), heard_at=after(80), least_billed_s=120.0
    )
    assert paid_micros(ended, after(9999)) == 40_000 + 160_000 + 7
    minimum, idle = rest(ended, Charged(), after(80))
    assert (minimum.seconds, minimum.micros, idle.micros) == (40.0, 80_000, 120_007)


def test_nothing_is_left_where_attempts_were_charged_ahead() -> None:
    life = a_life(hour_micros=3_600_000)
    assert rest(life, Charged(seconds=101.0, micros=101_000), after(100)) == []


def test_overcharges_are_corrected_at_the_end() -> None:
    life = a_life(hour_micros=3_600_000, ended_at=after(100))
    [back] = rest(life, Charged(seconds=130.0, micros=130_000), after(100))
    assert (back.kind, back.outcome) == (EntryKind.IDLE, "correction")
    assert (back.seconds, back.micros) == (-30.0, -30_000)


def test_the_least_that_is_billed_is_waste_of_its_own() -> None:
    life = a_life(hour_micros=3_600_000, least_billed_s=60.0, ended_at=after(10))
    parts = rest(life, Charged(seconds=4.0, micros=4_000), after(10))
    told = [(each.kind, each.outcome, each.seconds, each.micros) for each in parts]
    assert told == [
        (EntryKind.WASTED, "minimum", 50.0, 50_000),
        (EntryKind.IDLE, "", 6.0, 6_000),
    ]


def test_the_silence_of_one_that_did_not_take_its_leave_is_wasted() -> None:
    life = a_life(said_goodbye=False, heard_at=after(80), ended_at=after(100))
    parts = rest(life, Charged(seconds=70.0), after(100))
    told = [(each.kind, each.outcome, each.seconds, each.micros) for each in parts]
    assert told == [(EntryKind.WASTED, "silent", 20.0, None), (EntryKind.IDLE, "", 10.0, None)]


def test_silence_is_not_charged_beside_attempts_that_took_all_of_it() -> None:
    life = a_life(said_goodbye=False, heard_at=after(80), ended_at=after(100))
    assert rest(life, Charged(seconds=100.0), after(100)) == []


def test_the_remainder_absorbs_rounding_errors() -> None:
    life = a_life(hour_micros=1_000_000, ended_at=after(100))
    ledger = Ledger()
    for n in range(1000):
        ledger.charge(attempt(n, 0.1, 1_000_000))
    assert ledger.charged.micros != round(100 * 1_000_000 / 3600)
    settle(ledger, life, after(100), "end")
    assert ledger.charged.micros == round(100 * 1_000_000 / 3600)


@given(
    st.integers(-(10**12), 10**12),
    st.lists(st.floats(0, 1e9), min_size=1, max_size=40).filter(lambda weights: sum(weights) > 0),
)
def test_parts_add_up_to_the_whole(whole: int, weights: list[float]) -> None:
    parts = shared(whole, weights)
    assert sum(parts) == whole
    total = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert part == pytest.approx(whole * weight / total, abs=1.0 + 1e-6 * abs(whole))
