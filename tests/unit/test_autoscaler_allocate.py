"""Which pools draw for which models: as cheap as the exact optimum, or nearly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.autoscaler.allocate import Slot, allocate, cost

prices = st.sampled_from([0.5, 1.0, 1.5, 2.0, 5.0])
speeds = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0])


@st.composite
def problems(draw: st.DrawFn, most: int = 4) -> tuple[list[float], list[Slot]]:
    models = draw(st.integers(1, most))
    needs = [draw(st.sampled_from([0.0, 1.0, 7.0, 20.0])) for _ in range(models)]
    slots = [
        Slot(draw(prices), draw(st.sampled_from([0, 3, 10, 1000])), [draw(speeds) for _ in needs])
        for _ in range(draw(st.integers(1, most)))
    ]
    return needs, slots


def drawn(workers: list[list[float]], slots: list[Slot], model: int) -> float:
    return sum(row[model] * slot.rates[model] for row, slot in zip(workers, slots, strict=True))


@pytest.mark.slow
@given(problems())
@settings(max_examples=500)
def test_no_slot_has_more_than_its_room_and_no_model_more_than_it_needs(
    problem: tuple[list[float], list[Slot]],
) -> None:
    needs, slots = problem
    workers = allocate(needs, slots)
    for row, slot in zip(workers, slots, strict=True):
        assert sum(row) <= slot.room + 1e-6
        assert all(each >= -1e-9 for each in row)
    for model, need in enumerate(needs):
        assert drawn(workers, slots, model) <= need + 1e-6


@pytest.mark.slow
@given(problems())
@settings(max_examples=500)
def test_nothing_is_left_that_could_be_drawn(problem: tuple[list[float], list[Slot]]) -> None:
    needs, slots = problem
    workers = allocate(needs, slots)
    for model, need in enumerate(needs):
        if drawn(workers, slots, model) < need - 1e-6:
            for row, slot in zip(workers, slots, strict=True):
                assert slot.rates[model] == 0.0 or sum(row) >= slot.room - 1e-6


def exact(needs: list[float], slots: list[Slot]) -> tuple[float, float]:
    """Return what is not met and what the rest costs at best, by linear programming."""
    optimize = pytest.importorskip("scipy.optimize")
    n = len(slots) * len(needs)
    dear = 1e4
    costs = [slot.price for slot in slots for _ in needs] + [dear] * len(needs)
    room = [
        [1.0 if at // len(needs) == place else 0.0 for at in range(n)] + [0.0] * len(needs)
        for place in range(len(slots))
    ]
    met = [
        [
            -slots[at // len(needs)].rates[model] if at % len(needs) == model else 0.0
            for at in range(n)
        ]
        + [-1.0 if other == model else 0.0 for other in range(len(needs))]
        for model in range(len(needs))
    ]
    found = optimize.linprog(
        costs, [*room, *met], [*(float(slot.room) for slot in slots), *(-each for each in needs)]
    )
    unmet = float(sum(found.x[n:]))
    return unmet, float(found.fun) - dear * unmet


@pytest.mark.slow
def test_it_is_nearly_as_cheap_as_the_exact_optimum() -> None:
    ratios, unmet = [], []

    @given(problems())
    @settings(max_examples=400, derandomize=True, database=None)
    def compare(problem: tuple[list[float], list[Slot]]) -> None:
        needs, slots = problem
        workers = allocate(needs, slots)
        missing, least = exact(needs, slots)
        short = sum(need - drawn(workers, slots, model) for model, need in enumerate(needs))
        unmet.append((short - missing) / max(sum(needs), 1.0))
        if abs(short - missing) < 1e-6 and least > 1e-6:
            ratios.append(cost(workers, slots) / least)

    compare()
    assert len(ratios) > 150
    assert max(ratios) <= 1.3
    assert sum(ratios) / len(ratios) <= 1.005
    assert sum(unmet) / len(unmet) <= 0.01


def test_a_full_pool_draws_what_saves_most_there() -> None:
    # Both like the first pool best, but only the second model has nowhere else to go cheaply.
    slots = [
        Slot(1.0, 10, [1.0, 1.0]),
        Slot(1.1, 1000, [1.0, 0.0]),
        Slot(5.0, 1000, [0.0, 1.0]),
    ]
    workers = allocate([10.0, 10.0], slots)
    assert workers[0] == pytest.approx([0.0, 10.0])
    assert workers[1] == pytest.approx([10.0, 0.0])


def test_fifty_models_in_twenty_pools_take_a_few_milliseconds() -> None:
    slots = [
        Slot(1.0 + place, 30, [0.1 + (model * 7 + place * 3) % 11 / 10 for model in range(50)])
        for place in range(20)
    ]
    workers = allocate([3.0] * 50, slots)
    assert sum(drawn(workers, slots, model) for model in range(50)) == pytest.approx(150.0)
