"""Votes become ratings, and how sure they are is told."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.comparisons import a_comparison, a_vote
from swell.core.model_ratings import (
    FIRST_MU,
    FIRST_SIGMA,
    Ballot,
    Rating,
    ballots_of,
    counted,
    in_words,
    ordered,
    standing,
)

MODELS = ("a/a:1", "b/b:1", "c/c:1", "d/d:1")


@st.composite
def a_ballot(draw: st.DrawFn) -> Ballot:
    models = draw(st.lists(st.sampled_from(MODELS), min_size=2, max_size=4, unique=True))
    return Ballot(tuple(models), draw(st.sampled_from([None, *models])))


def rate(ballots: Sequence[Ballot]) -> list[Rating]:
    return ordered(counted({}, ballots))


BALLOTS = st.lists(a_ballot(), max_size=30)


def test_who_wins_is_rated_above_who_loses() -> None:
    first, second = rate([Ballot(MODELS[:2], "b/b:1")])
    assert (first.model, first.wins, second.wins) == ("b/b:1", 1, 0)
    assert first.mu > FIRST_MU > second.mu
    assert first.sigma < FIRST_SIGMA > second.sigma


def test_a_tie_between_equals_moves_nobody_and_makes_surer() -> None:
    for rating in rate([Ballot(MODELS[:2], None)]):
        assert rating.mu == FIRST_MU
        assert rating.sigma < FIRST_SIGMA
        assert (rating.wins, rating.ties, rating.votes) == (0, 1, 1)


def test_of_four_the_winner_goes_up_and_the_others_stay_together() -> None:
    ratings = {each.model: each for each in rate([Ballot(MODELS, "c/c:1")])}
    losers = {round(each.mu, 9) for name, each in ratings.items() if name != "c/c:1"}
    assert len(losers) == 1
    assert ratings["c/c:1"].mu > FIRST_MU > losers.pop()


def test_without_votes_there_are_no_ratings() -> None:
    assert rate([]) == []


@pytest.mark.slow
@given(BALLOTS)
@settings(max_examples=50, deadline=None)
def test_whoever_is_asked_again_says_the_same(ballots: list[Ballot]) -> None:
    assert rate(ballots) == rate(list(ballots))


@given(BALLOTS, st.lists(st.integers(0, 30), max_size=4))
@settings(max_examples=50, deadline=None)
def test_votes_that_come_in_parts_give_the_same_numbers_as_all_at_once(
    ballots: list[Ballot], cuts: list[int]
) -> None:
    ratings: dict[str, Rating] = {}
    at = 0
    for cut in [*sorted(cuts), len(ballots)]:
        ratings = counted(ratings, ballots[at:cut])
        at = max(at, cut)
    assert ordered(ratings) == rate(ballots)


@pytest.mark.slow
@given(BALLOTS)
@settings(max_examples=50, deadline=None)
def test_no_vote_makes_less_sure_and_all_are_counted(ballots: list[Ballot]) -> None:
    ratings = rate(ballots)
    assert {each.model for each in ratings} == {m for each in ballots for m in each.models}
    for rating in ratings:
        assert 0 < rating.sigma <= FIRST_SIGMA
        assert rating.low < rating.mu < rating.high
        assert rating.ordinal < rating.mu
        assert rating.wins + rating.ties <= rating.votes
    assert sum(each.wins for each in ratings) == sum(b.winner is not None for b in ballots)


@pytest.mark.slow
@given(BALLOTS, st.permutations(MODELS))
@settings(max_examples=50, deadline=None)
def test_the_names_and_the_order_within_a_row_do_not_count(
    ballots: list[Ballot], names: list[str]
) -> None:
    new = dict(zip(MODELS, names, strict=True))
    renamed = [
        Ballot(
            tuple(new[model] for model in reversed(ballot.models)),
            None if ballot.winner is None else new[ballot.winner],
        )
        for ballot in ballots
    ]
    found = {each.model: (round(each.mu, 6), round(each.sigma, 6)) for each in rate(renamed)}
    assert found == {
        new[each.model]: (round(each.mu, 6), round(each.sigma, 6)) for each in rate(ballots)
    }


@pytest.mark.slow
@given(BALLOTS)
@settings(max_examples=50, deadline=None)
def test_one_more_vote_for_a_model_never_harms_it(ballots: list[Ballot]) -> None:
    ballots = [*ballots, Ballot(MODELS[:2], None)]
    before = {each.model: each.mu for each in rate(ballots)}
    after = {each.model: each.mu for each in rate([*ballots, Ballot(MODELS[:2], MODELS[0])])}
    assert after[MODELS[0]] >= before[MODELS[0]]
    assert after[MODELS[1]] <= before[MODELS[1]]


def test_the_better_model_is_found_and_told_apart() -> None:
    rng = random.Random(7)
    strengths = {"a/a:1": 3.0, "b/b:1": 1.0, "c/c:1": 1.0}
    ballots = []
    for _ in range(150):
        seen = rng.sample(list(strengths), 2)
        (winner,) = rng.choices(seen, [strengths[each] for each in seen])
        ballots.append(Ballot(tuple(seen), winner))
    best, second, third = rate(ballots)
    assert best.model == "a/a:1"
    assert "clearly behind a/a:1" in in_words(third, best) or second.high < best.mu
    assert in_words(best, best) == (
        f"95 % sure between {best.low:.1f} and {best.high:.1f}, after {best.votes} votes"
    )


def test_what_is_not_told_apart_is_said() -> None:
    first, second = rate([Ballot(MODELS[:2], "a/a:1")])
    assert in_words(second, first).endswith("after 1 vote: no clear difference from a/a:1 yet")


def test_what_is_told_apart_is_said() -> None:
    first, second = rate([Ballot(MODELS[:2], "a/a:1")] * 200)
    assert in_words(second, first).endswith("after 200 votes: clearly behind a/a:1")


def test_wins_ties_and_losses_are_counted() -> None:
    ballots = [Ballot(MODELS[:2], "a/a:1"), Ballot(MODELS[:2], None), Ballot(MODELS[1:], "b/b:1")]
    counts = [standing(ballots, model) for model in ("a/a:1", "b/b:1", "x")]
    assert counts == [(1, 1, 0), (1, 1, 1), (0, 0, 0)]


def test_votes_are_for_models_whatever_place_they_had() -> None:
    comparison = a_comparison()
    votes = [a_vote(), a_vote(winner=1), a_vote(winner=None), a_vote(row=7), a_vote(winner=3)]
    pair = ("demo/one:1", "demo/two:7")
    assert ballots_of(comparison, votes) == [
        Ballot(pair, "demo/one:1"),
        Ballot(pair, "demo/two:7"),
        Ballot(pair, None),
    ]
