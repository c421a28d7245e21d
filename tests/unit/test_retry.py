"""How long to wait before the next attempt."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.retry import RetryPolicy

policies = st.builds(
    RetryPolicy,
    base_s=st.floats(0.01, 100),
    cap_s=st.floats(1, 10_000),
    floor_s=st.floats(0, 1),
)


@given(policies, st.integers(1, 10_000), st.integers(0, 2**32))
def test_a_delay_lies_between_the_floor_and_the_cap(
    policy: RetryPolicy, attempt: int, seed: int
) -> None:
    delay_s = policy.delay_s(attempt, random.Random(seed))
    assert policy.floor_s <= delay_s <= max(policy.floor_s, policy.cap_s)


@given(policies, st.integers(1, 50), st.integers(0, 2**32))
def test_a_delay_never_exceeds_its_step_of_the_exponential(
    policy: RetryPolicy, attempt: int, seed: int
) -> None:
    delay_s = policy.delay_s(attempt, random.Random(seed))
    assert delay_s <= max(policy.floor_s, policy.base_s * 2 ** (attempt - 1))


@given(st.integers(0, 2**32))
def test_the_same_random_numbers_give_the_same_delays(seed: int) -> None:
    one, two = random.Random(seed), random.Random(seed)
    delays = [RetryPolicy().delay_s(attempt, one) for attempt in range(1, 10)]
    assert delays == [RetryPolicy().delay_s(attempt, two) for attempt in range(1, 10)]


def test_delays_of_many_failures_at_once_are_spread_out() -> None:
    rng = random.Random(1)
    delays = [RetryPolicy(base_s=8).delay_s(1, rng) for _ in range(1_000)]
    assert sum(delay < 4 for delay in delays) == pytest.approx(500, abs=100)
