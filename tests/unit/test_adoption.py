"""Rollouts without a service: stages, traffic, evidence, verdicts, and how they are stored."""

import asyncio
import itertools
import math
import random
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manual_clock import ManualClock
from sqlite_rig import SqliteRig
from swell.core.errors import Conflict
from swell.core.rollouts.canary_test import (
    BLOCK,
    ODDS,
    Evidence,
    Observation,
    SequentialTest,
    Side,
    judge,
    likelihood_ratio,
    observe,
)
from swell.core.rollouts.rollout_state import (
    Canary,
    Life,
    RollbackRules,
    Stage,
    asked_version,
    canary_queue,
    is_in_canary,
    is_of_canary,
    promote,
    queues_of,
    retire,
    roll_back,
    start_canary,
)
from swell.db import rollouts
from swell.db.registry import Registry

NOW = datetime(2026, 11, 26, tzinfo=UTC)
MODEL = "demo/upper"
SHARES = st.floats(0.0, 1.0)


def a_canary(version: str = "v2", share: float = 0.1, canary_id: str = "c1") -> Canary:
    return Canary(id=canary_id, version=version, share=share, since=NOW)


def with_canary(share: float = 0.1) -> Life:
    return start_canary(Life(model=MODEL, live="v1"), a_canary(share=share), who="anna")


# ---- traffic


@given(st.text(max_size=20), SHARES, SHARES)
def test_whoever_is_in_a_small_canary_is_in_a_larger_one(who: str, one: float, two: float) -> None:
    small, large = sorted((one, two))
    assert is_in_canary(MODEL, who, small) <= is_in_canary(MODEL, who, large)
    assert is_in_canary(MODEL, who, small) == is_in_canary(MODEL, who, small)


@given(st.text(max_size=20))
def test_nobody_is_in_a_canary_without_a_share_and_all_are_in_a_whole_one(who: str) -> None:
    assert not is_in_canary(MODEL, who, 0.0)
    assert is_in_canary(MODEL, who, 1.0)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_the_share_is_kept_and_models_are_split_independently(share: float) -> None:
    users = [f"user-{n}" for n in range(10_000)]
    one = [is_in_canary("demo/a", user, share) for user in users]
    two = [is_in_canary("demo/b", user, share) for user in users]
    assert sum(one) / len(users) == pytest.approx(share, abs=0.02)
    both = sum(a and b for a, b in zip(one, two, strict=True)) / len(users)
    assert both == pytest.approx(share * share, abs=0.02)


VERSIONS = ("v1", "v2", "v3")


@given(st.booleans(), st.booleans(), st.sampled_from(VERSIONS))
def test_each_queue_is_served_by_one_version(has_canary: bool, served: bool, live: str) -> None:
    life = Life(model=MODEL, live=live)
    canary = next(each for each in VERSIONS if each != live)
    if has_canary:
        life = start_canary(life, a_canary(canary), who="")
    by_version = {each: queues_of(life, each, is_canary_served=served) for each in VERSIONS}
    assert [each for each in VERSIONS if MODEL in by_version[each]] == [live]
    if served or not has_canary:
        (part,) = (each for each in VERSIONS if canary_queue(MODEL) in by_version[each])
        assert part == (canary if has_canary else live)
    else:
        assert canary_queue(MODEL) in by_version[live]
    assert all(f"{MODEL}:{each}" in by_version[each] for each in VERSIONS)


def test_queues_say_which_version_is_insisted_on() -> None:
    assert asked_version(MODEL) == asked_version(canary_queue(MODEL)) == ""
    assert asked_version(f"{MODEL}:v1") == "v1"
    assert is_of_canary(canary_queue(MODEL))
    assert not is_of_canary(f"{MODEL}:canary")


# ---- lives


def test_a_version_goes_from_trial_to_canary_to_live_to_retired() -> None:
    life = Life(model=MODEL, live="v1")
    assert life.stage("v2") is Stage.TRIAL
    life = start_canary(life, a_canary(), who="anna")
    assert (life.stage("v1"), life.stage("v2")) == (Stage.LIVE, Stage.CANARY)
    life = promote(life, None, who="anna", at=NOW)
    assert (life.stage("v1"), life.stage("v2")) == (Stage.TRIAL, Stage.LIVE)
    assert (life.canary, life.former) == (None, ("v1",))
    life = retire(life, "v1", who="anna", at=NOW)
    assert (life.stage("v1"), life.former) == (Stage.RETIRED, ())
    assert [each.action for each in life.history] == ["retire", "promote", "canary"]


def test_rolling_back_twice_goes_further_back() -> None:
    life = Life(model=MODEL, live="v1")
    for version in ("v2", "v3"):
        life = promote(life, version, who="", at=NOW)
    life = roll_back(life, who="", at=NOW)
    assert (life.live, life.former) == ("v2", ("v1",))
    life = roll_back(life, who="", at=NOW)
    assert (life.live, life.former) == ("v1", ())
    with pytest.raises(Conflict, match="promote the version that you want"):
        roll_back(life, who="", at=NOW)


def test_another_share_keeps_what_was_found_out_and_another_split_does_not() -> None:
    life = with_canary(0.05)
    later = NOW + timedelta(hours=3)
    asked = msgspec.structs.replace(a_canary(share=0.25, canary_id="c2"), since=later)
    larger = start_canary(life, asked, who="anna")
    assert larger.canary is not None
    assert (larger.canary.id, larger.canary.share, larger.canary.since) == ("c1", 0.25, NOW)
    assert [(each.at, each.share) for each in larger.history] == [(later, 0.25), (NOW, 0.05)]
    by_key = msgspec.structs.replace(a_canary(canary_id="c3"), sticky="key")
    assert start_canary(life, by_key, who="anna").canary == by_key


def test_one_canary_at_a_time() -> None:
    with pytest.raises(Conflict, match="promote it or roll it back first"):
        start_canary(with_canary(), a_canary("v3"), who="")
    with pytest.raises(Conflict, match="roll it back first"):
        retire(with_canary(), "v2", who="", at=NOW)


_STEPS = st.lists(
    st.tuples(st.sampled_from(("canary", "promote", "rollback", "retire")), st.sampled_from("abc")),
    max_size=30,
)


@given(_STEPS)
def test_whatever_is_done_one_version_is_live_and_no_stage_contradicts_another(
    steps: list[tuple[str, str]],
) -> None:
    life = Life(model=MODEL, live="a")
    for what, version in steps:
        try:
            if what == "canary":
                life = start_canary(life, a_canary(version), who="")
            elif what == "promote":
                life = promote(life, version, who="", at=NOW)
            elif what == "rollback":
                life = roll_back(life, who="", at=NOW)
            else:
                life = retire(life, version, who="", at=NOW)
        except Conflict:
            continue
        assert life.live not in life.retired
        assert life.live not in life.former
        assert life.canary is None or life.canary.version not in (life.live, *life.retired)
        assert not set(life.former) & set(life.retired)


# ---- evidence


@given(st.integers(1, 25), st.integers(1, 60), st.integers(0, 85), st.sampled_from(ODDS))
def test_the_ratio_is_one_on_average_where_the_versions_are_equal(
    canary: int, live: int, hits: int, odds: int
) -> None:
    hits = min(hits, canary + live)
    mean = 0.0
    for of_canary in range(max(0, hits - live), min(canary, hits) + 1):
        ways = math.comb(canary, of_canary) * math.comb(live, hits - of_canary)
        chance = ways / math.comb(canary + live, hits)
        mean += chance * likelihood_ratio(odds, canary, of_canary, live, hits - of_canary)
    assert mean == pytest.approx(1.0)


@given(st.sampled_from(ODDS), st.floats(0.01, 1.0))
def test_the_ratio_is_no_larger_where_the_canary_is_better(odds: int, better: float) -> None:
    canary, live, hits = 10, 30, 9
    places = range(min(canary, hits) + 1)
    weights = [math.comb(canary, k) * math.comb(live, hits - k) * better**k for k in places]
    mean = sum(
        weight / sum(weights) * likelihood_ratio(odds, canary, k, live, hits - k)
        for k, weight in zip(places, weights, strict=True)
    )
    assert mean <= 1.0 + 1e-9


@pytest.mark.parametrize("hits", [0, 1, 5000, 10_009, 10_010])
def test_the_ratio_of_a_block_with_a_tiny_share_is_finite(hits: int) -> None:
    for canary, live in ((10, 10_000), (10_000, 10)):
        of_canary = min(canary, hits)
        ratio = likelihood_ratio(64, canary, of_canary, live, hits - of_canary)
        assert 0.0 <= ratio < math.inf


def test_a_block_is_full_by_the_number_of_attempts_alone() -> None:
    for of_canary, of_live in itertools.product((True, False), repeat=2):
        test = SequentialTest()
        ends = [test.add(is_canary=True, is_hit=of_canary) for _ in range(BLOCK)]
        ends += [test.add(is_canary=False, is_hit=of_live) for _ in range(BLOCK)]
        assert ends == [False] * (2 * BLOCK - 1) + [True]
        assert test.block == [0, 0, 0, 0]


@given(st.lists(st.floats(0.0, 1e6), min_size=1))
def test_the_95th_percentile_is_the_smallest_that_so_many_do_not_exceed(
    values: list[float],
) -> None:
    found = Side(recent_s=values).p95_s
    assert found is not None
    assert found in values
    assert sum(each <= found for each in values) >= 0.95 * len(values)
    assert sum(each < found for each in values) < 0.95 * len(values)


def crowd(
    seed: int, n: int, *, share: float = 0.2, fails: tuple[float, float], slower: float = 1.0
) -> tuple[Evidence, int | None, int]:
    """Return the evidence, after how many attempts it was worse, and how many were the canary's."""
    draw, evidence, of_canary = random.Random(seed), Evidence(), 0
    for number in range(1, n + 1):
        is_canary = draw.random() < share
        of_canary += is_canary
        has_failed = draw.random() < fails[0 if is_canary else 1]
        took_s = draw.lognormvariate(0.0, 0.25) * (slower if is_canary else 1.0)
        seen = Observation(is_canary, has_failed, 0.0 if has_failed else took_s)
        if observe(evidence, seen) and judge(evidence, RollbackRules()).verdict == "worse":
            return evidence, number, of_canary
    return evidence, None, of_canary


@pytest.mark.parametrize("fails", [0.0, 0.02, 0.3])
def test_a_canary_that_is_no_worse_is_kept(fails: float) -> None:
    for seed in range(6):
        evidence, worse_at, _ = crowd(seed, 2000, fails=(fails, fails))
        assert worse_at is None
        assert judge(evidence, RollbackRules()).verdict == "fine"


@pytest.mark.parametrize(("fails", "slower"), [((0.2, 0.01), 1.0), ((0.01, 0.01), 2.0)])
def test_a_worse_canary_is_found_within_200_of_its_attempts(
    fails: tuple[float, float], slower: float
) -> None:
    for seed in range(10):
        _, worse_at, of_canary = crowd(seed, 2000, fails=fails, slower=slower)
        assert worse_at is not None
        assert of_canary <= 200


def test_an_outage_of_both_versions_is_not_the_canarys_fault() -> None:
    draw, evidence = random.Random(7), Evidence()
    for number in range(4000):
        seen = Observation(draw.random() < 0.2, draw.random() < (0.9 if 900 < number < 1400 else 0))
        observe(evidence, seen)
        assert judge(evidence, RollbackRules()).verdict != "worse"


def test_a_difference_that_does_not_matter_rolls_nothing_back() -> None:
    evidence, _, _ = crowd(3, 6000, share=0.5, fails=(0.0, 0.0), slower=1.5)
    assert judge(evidence, RollbackRules(p95_by=50.0)).verdict == "fine"
    assert judge(evidence, RollbackRules()).verdict == "worse"


def test_the_false_alarm_says_how_much_evidence_is_needed() -> None:
    verdict = judge(Evidence(), RollbackRules(false_alarm=0.01))
    assert (verdict.verdict, verdict.needed_evidence) == ("early", 200.0)


# ---- what is kept


def a_registry() -> Registry:
    return SqliteRig(ManualClock()).registry


async def test_evidence_is_stored_for_one_canary_until_it_ends() -> None:
    registry, canary, seen = a_registry(), a_canary(), [Observation(True, False, 1.5)]
    await rollouts.change_life(registry, MODEL, lambda _: with_canary())
    evidence = await rollouts.add_evidence(registry, MODEL, canary, seen)
    assert evidence.canary.attempts == 1
    assert await rollouts.read_evidence(registry, MODEL, canary) == evidence
    assert await rollouts.read_evidence(registry, MODEL, a_canary(canary_id="c2")) == Evidence()
    assert await rollouts.read_evidence(registry, "demo/upper2", canary) == Evidence()

    def end(life: Life | None) -> Life:
        assert life is not None
        return roll_back(life, who="", at=NOW)

    await rollouts.change_life(registry, MODEL, end)
    assert await rollouts.read_evidence(registry, MODEL, canary) == Evidence()


async def test_what_backends_add_at_the_same_time_counts_once_each() -> None:
    registry, canary = a_registry(), a_canary()
    seen = [Observation(True, False, 1.5)] * 7
    adding = [rollouts.add_evidence(registry, MODEL, canary, seen) for _ in range(5)]
    await asyncio.gather(*adding)
    assert (await rollouts.read_evidence(registry, MODEL, canary)).canary.attempts == 35


async def test_observations_count_up_to_the_rollback() -> None:
    seen = [Observation(n % 2 == 0, n % 2 == 0) for n in range(400)]
    rules = (RollbackRules(), RollbackRules(automatic=False))
    attempts = []
    for each in rules:
        canary = msgspec.structs.replace(a_canary(), rollback=each)
        evidence = await rollouts.add_evidence(a_registry(), MODEL, canary, seen)
        assert judge(evidence, each).verdict == "worse"
        attempts.append(evidence.canary.attempts)
    assert attempts[0] < attempts[1] == 200


async def test_of_two_that_change_a_life_neither_is_lost() -> None:
    registry = a_registry()

    def first(life: Life | None) -> Life:
        return life or Life(model=MODEL, live="v1")

    await rollouts.change_life(registry, MODEL, first)
    steps = iter([a_canary(), a_canary(share=0.5)])
    tries = []

    def change(life: Life | None) -> Life:
        assert life is not None
        tries.append(life)
        return start_canary(life, next(steps), who="")

    swap = registry.swap_note

    async def disturbed(name: str, before: bytes | None, value: bytes) -> bool:
        if len(tries) == 1:
            assert before is not None
            life = msgspec.json.decode(before, type=Life)
            other = retire(life, "v0", who="", at=NOW)
            await registry.put_note(name, msgspec.json.encode(other))
        return await swap(name, before, value)

    registry.swap_note = disturbed  # type: ignore[method-assign]
    await rollouts.change_life(registry, MODEL, change)
    life = (await rollouts.read_lives(registry))[MODEL]
    assert life.canary is not None
    assert (life.canary.share, life.retired) == (0.5, ("v0",))
