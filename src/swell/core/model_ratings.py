"""Ratings of models from votes. Pure.

A vote says that one model in a row is better than the others, or that all are equally good. The
strength of each model is a normal distribution with mean `mu` and deviation `sigma`. Each vote
moves the distributions of the models in its row and makes them narrower. Votes are replayed in
order of time: the same votes in the same order give the same ratings on any machine, and another
order gives slightly different ones.

Source:
    R. C. Weng, C.-J. Lin, "A Bayesian Approximation Method for Online Ranking", Journal of Machine
    Learning Research 12 (2011), algorithm 4 (Plackett-Luce), with ties, as `openskill` does it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from swell.core.comparison import Comparison, Vote

#: Strength of a model before any vote, as in `openskill`.
FIRST_MU: Final = 25.0
FIRST_SIGMA: Final = 25.0 / 3.0

#: 95 % of a normal distribution are within this many deviations of its mean.
WITHIN_95: Final = 1.959963984540054


class Ballot(msgspec.Struct, frozen=True):
    """A vote with names of models."""

    #: At least two different models: those with a result in the row.
    models: tuple[str, ...]
    #: One of them; None for a tie.
    winner: str | None


class Rating(msgspec.Struct, frozen=True, kw_only=True):
    """Strength of a model, and its votes."""

    #: `owner/name:version`.
    model: str
    mu: float = FIRST_MU
    sigma: float = FIRST_SIGMA
    #: Votes on rows with a result of the model.
    votes: int = 0
    wins: int = 0
    ties: int = 0

    @property
    def ordinal(self) -> float:
        """The strength that the model almost certainly exceeds; lists are ordered by it."""
        return self.mu - 3.0 * self.sigma

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval."""
        return self.mu - WITHIN_95 * self.sigma

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval."""
        return self.mu + WITHIN_95 * self.sigma


def ballots_of(comparison: Comparison, votes: Iterable[Vote]) -> list[Ballot]:
    """Return the votes on a comparison with names of models, in the same order.

    Votes on unknown rows, or for models without a result in the row, are left out.
    """
    refs = [model.ref for model in comparison.models]
    shown = [sorted(cell.model for cell in row.shown) for row in comparison.rows]
    ballots = []
    for vote in votes:
        seen = shown[vote.row] if 0 <= vote.row < len(shown) else []
        if len(seen) > 1 and (vote.winner is None or vote.winner in seen):
            winner = None if vote.winner is None else refs[vote.winner]
            ballots.append(Ballot(tuple(refs[each] for each in seen), winner))
    return ballots


def counted(ratings: Mapping[str, Rating], ballots: Sequence[Ballot]) -> dict[str, Rating]:
    """Return the ratings of models after more votes, in this order.

    Raises:
        ImportError: `openskill` is not installed.
    """
    # An extra that only ratings need.
    from openskill.models import PlackettLuce  # noqa: PLC0415

    rater, after = PlackettLuce(mu=FIRST_MU, sigma=FIRST_SIGMA), dict(ratings)
    for ballot in ballots:
        before = [after.get(model) or Rating(model=model) for model in ballot.models]
        teams = [[rater.rating(mu=each.mu, sigma=each.sigma)] for each in before]
        ranks = [1.0 if ballot.winner in (None, each.model) else 2.0 for each in before]
        for rating, (new,) in zip(before, rater.rate(teams, ranks=ranks), strict=True):
            after[rating.model] = Rating(
                model=rating.model,
                mu=new.mu,
                sigma=new.sigma,
                votes=rating.votes + 1,
                wins=rating.wins + (ballot.winner == rating.model),
                ties=rating.ties + (ballot.winner is None),
            )
    return after


def ordered(ratings: Mapping[str, Rating]) -> list[Rating]:
    """Return ratings, best first."""
    return sorted(ratings.values(), key=lambda each: (-each.ordinal, each.model))


def standing(ballots: Iterable[Ballot], model: str) -> tuple[int, int, int]:
    """Return how many votes a model won, tied and lost."""
    winners = [ballot.winner for ballot in ballots if model in ballot.models]
    wins, ties = winners.count(model), winners.count(None)
    return wins, ties, len(winners) - wins - ties


def in_words(rating: Rating, best: Rating) -> str:
    """Return a rating as a sentence, compared with the best one."""
    span = f"95 % sure between {rating.low:.1f} and {rating.high:.1f}"
    votes = f"after {rating.votes} vote{'' if rating.votes == 1 else 's'}"
    if rating.model == best.model:
        return f"{span}, {votes}"
    if rating.high < best.low:
        return f"{span}, {votes}: clearly behind {best.model}"
    return f"{span}, {votes}: no clear difference from {best.model} yet"
