"""What is expected to be asked for: level, growth, noise, and crowds that begin."""

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swell.autoscaler.forecast import NOISE, Forecast, follow, forecast, remember
from swell.autoscaler.outlook import Demand

counts = st.floats(0.0, 1e6)


def demand(*tens: float, minutes: tuple[float, ...] = ()) -> Demand:
    return Demand(model="demo/picture", tens=tens, minutes=minutes)


def followed(rates: list[float], known: Forecast | None = None, begin: float = 0.0) -> Forecast:
    """What is expected after so many samples per second in each ten seconds."""
    for place, rate in enumerate(rates):
        known = follow(known, demand(10.0 * rate), begin + 10.0 * (place + 1))
    assert known is not None
    return known


def noisy(rate: float, n: int, spread: float = 0.1, seed: int = 1) -> list[float]:
    """A rate with noise that lasts ten minutes, and chance."""
    chance = random.Random(seed)
    kept, noise, rates = math.exp(-1 / 60), 0.0, []
    for _ in range(n):
        noise = kept * noise + chance.gauss(0, spread * math.sqrt(1 - kept * kept))
        mean = 10.0 * rate * math.exp(noise)
        rates.append(max(0.0, chance.gauss(mean, math.sqrt(mean))) / 10.0)
    return rates


def test_nothing_is_expected_where_nothing_was_seen() -> None:
    assert follow(None, demand(), 100.0) is None


def test_a_steady_rate_is_expected_to_go_on() -> None:
    mean, spread = followed(noisy(40.0, 3000)).log_rate(600.0)
    assert math.exp(mean) == pytest.approx(40.0, rel=0.15)
    assert spread == pytest.approx(0.1, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.05, 0.2])
def test_how_loud_noise_is_is_learnt(spread: float) -> None:
    assert NOISE == 0.1
    found = followed(noisy(100.0, 6000, spread)).noise
    assert 0.6 * spread < found < 1.5 * spread


def test_what_is_further_ahead_is_less_sure() -> None:
    found = followed(noisy(40.0, 1000))
    spreads = [found.log_rate(ahead)[1] for ahead in (0.0, 60.0, 300.0, 1200.0)]
    assert spreads == sorted(spreads)


def test_days_are_followed() -> None:
    rates = [40.0 * math.exp(0.2 * place / 360) for place in range(2000)]
    ahead = followed(rates).log_rate(600.0)[0]
    assert ahead == pytest.approx(math.log(rates[-1]) + 0.2 / 6, abs=0.02)


def test_a_crowd_is_noticed_within_two_minutes_and_growth_expected_but_not_for_ever() -> None:
    calm = noisy(60.0, 2000)
    crowd = [60.0 * 1.26 ** (place / 6) for place in range(12)]
    found = followed(calm + crowd)
    assert found.is_crowd
    now = crowd[-1]
    assert 1.8 * now < math.exp(found.log_rate(600.0)[0]) < 3.6 * now


@pytest.mark.slow
def test_noise_is_no_crowd() -> None:
    known: Forecast | None = None
    crowds = 0
    for place, rate in enumerate(noisy(60.0, 6000)):
        known = follow(known, demand(10.0 * rate), 10.0 * (place + 1))
        crowds += known is not None and known.is_crowd
    assert crowds <= 6


def test_growth_that_has_ended_is_not_expected_any_more() -> None:
    crowd = [60.0 * 1.26 ** (place / 6) for place in range(60)]
    flat = [crowd[-1]] * 30
    found = followed(noisy(60.0, 2000) + crowd + flat)
    assert math.exp(found.log_rate(600.0)[0]) < 1.35 * crowd[-1]


@pytest.fixture(scope="module")
def steady() -> Forecast:
    return followed(noisy(40.0, 1500))


@given(count=counts)
def test_one_count_moves_it_within_bounds(steady: Forecast, count: float) -> None:
    after = follow(steady, demand(count), steady.at + 10.0)
    assert after is not None
    moved = after.log_rate(300.0)[0] - steady.log_rate(300.0)[0]
    assert -0.5 < moved < 1.0


@pytest.mark.slow
@given(st.lists(counts, min_size=1, max_size=40))
@settings(max_examples=150)
def test_whatever_comes_it_stays_finite_and_survives_json(tens: list[float]) -> None:
    found = followed([each / 10.0 for each in tens])
    mean, spread = found.log_rate(600.0)
    assert math.isfinite(mean)
    assert spread >= 0.0
    memory = msgspec.json.decode(msgspec.json.encode(remember(found)))
    assert forecast(memory) == found


@given(st.lists(counts, min_size=3, max_size=3), st.lists(counts, min_size=16, max_size=16))
def test_the_same_moment_counts_once(tens: list[float], minutes: list[float]) -> None:
    seen = demand(*tens, minutes=tuple(minutes))
    once = follow(None, seen, 1000.0)
    assert follow(once, seen, 1000.0) == once
    assert follow(once, seen, 1003.0) == once


def test_what_was_missed_is_made_up_from_minutes() -> None:
    before = followed(noisy(40.0, 1000))
    seen = demand(800.0, 800.0, 800.0, minutes=(2400.0,) * 3 + (4800.0,) * 13)
    after = follow(before, seen, before.at + 900.0)
    assert after is not None
    assert math.exp(after.log_rate(0.0)[0]) == pytest.approx(80.0, rel=0.1)


def test_a_long_silence_lets_it_fall() -> None:
    before = followed(noisy(4.0, 1000))
    known: Forecast | None = before
    for minute in range(1, 61):
        seen = demand(0.0, 0.0, 0.0, minutes=(0.0,) * 16)
        known = follow(known, seen, before.at + 60.0 * minute)
    assert known is not None
    assert known.rate < 0.2


def test_what_begins_and_takes_hours_is_followed_before_it_is_over() -> None:
    # Ten times as much within two hours.
    ramp = [60.0 * 10.0 ** (place / 720) for place in range(240)]
    found = followed(noisy(60.0, 2000) + ramp)
    ahead = math.exp(found.log_rate(600.0)[0])
    assert ahead == pytest.approx(60.0 * 10.0 ** (300 / 720), rel=0.12)
    assert not found.is_crowd
