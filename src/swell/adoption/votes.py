"""From votes to ratings, with how sure they are. Pure.

A vote says that one of the models in a row is better than the others, or that all are as good.
Each model is taken to have a strength of which only a belief is known: a normal distribution with
the mean `mu` and the standard deviation `sigma`. Each vote moves the beliefs about the models that
took part, and makes them narrower. Votes are replayed in the order of time; the same votes in the
same order give the same ratings, on any machine. In another order the numbers differ a little,
since each vote is judged by what was believed before it: that is the price of a method that takes
votes as they come.

Source:
    R. C. Weng, C.-J. Lin, "A Bayesian Approximation Method for Online Ranking", Journal of Machine
    Learning Research 12 (2011), algorithm 4 (Plackett-Luce), with ties, as `openskill` does it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from swell.comparisons import Comparison, Vote

#: What is believed of a model before any vote, as `openskill` does.
FIRST_MU: Final = 25.0
FIRST_SIGMA: Final = 25.0 / 3.0

#: 95 % of a normal distribution lie within so many standard deviations of its mean.
WITHIN_95: Final = 1.959963984540054

#: The ordinal is so many standard deviations below the mean: the strength that is nearly certain.
_BELOW: Final = 3.0


class Ballot(msgspec.Struct, frozen=True):
    """One vote, by the names of the models.

    Args:
        models: That could be seen in its row; at least two, all different.
        winner: One of them; None where all are as good.
    """

    models: tuple[str, ...]
    winner: str | None


class Rating(msgspec.Struct, frozen=True, kw_only=True):
    """What is believed of a model's strength.

    Args:
        model: `owner/name:version`.
        mu: Mean.
        sigma: Standard deviation; > 0.
        votes: In how many it could be seen.
        wins: In how many it was the better one.
        ties: In how many all were as good.
    """

    model: str
    mu: float
    sigma: float
    votes: int
    wins: int
    ties: int

    @property
    def ordinal(self) -> float:
        """The strength that it has nearly certainly, by which models are ordered."""
        return self.mu - _BELOW * self.sigma

    @property
    def low(self) -> float:
        """The lower end of the interval in which its strength lies with 95 %."""
        return self.mu - WITHIN_95 * self.sigma

    @property
    def high(self) -> float:
        """The upper end of the same."""
        return self.mu + WITHIN_95 * self.sigma


def ballots_of(comparison: Comparison, votes: Iterable[Vote]) -> list[Ballot]:
    """Return the votes of a comparison by the names of the models, in their order.

    A vote of a row that is not there, or for a model that could not be seen in it, is left out.
    """
    refs = [model.ref for model in comparison.models]
    shown = [tuple(sorted(cell.model for cell in row.shown)) for row in comparison.rows]
    found = []
    for vote in votes:
        seen = shown[vote.row] if 0 <= vote.row < len(shown) else ()
        if len(seen) > 1 and (vote.winner is None or vote.winner in seen):
            winner = None if vote.winner is None else refs[vote.winner]
            found.append(Ballot(tuple(refs[each] for each in seen), winner))
    return found


class Strength(msgspec.Struct, frozen=True):
    """What is believed of one model, and by how many votes; as in `Rating`."""

    mu: float = FIRST_MU
    sigma: float = FIRST_SIGMA
    votes: int = 0
    wins: int = 0
    ties: int = 0


class League(msgspec.Struct, frozen=True):
    """All that votes have said so far: enough to go on from, however many there were.

    Args:
        models: By their names.
        votes: How many were counted.
    """

    models: dict[str, Strength] = {}
    votes: int = 0

    def ratings(self) -> list[Rating]:
        """Return the ratings, the strongest first."""
        found = [
            Rating(model=name, **msgspec.structs.asdict(each)) for name, each in self.models.items()
        ]
        return sorted(found, key=lambda each: (-each.ordinal, each.model))


def counted(league: League, ballots: Sequence[Ballot]) -> League:
    """Return what is known after votes that came in this order.

    Raises:
        ImportError: `openskill` is not installed.
    """
    # Only whoever asks for ratings needs it.
    from openskill.models import PlackettLuce  # noqa: PLC0415

    judge, models = PlackettLuce(mu=FIRST_MU, sigma=FIRST_SIGMA), dict(league.models)
    for ballot in ballots:
        known = [models.get(model, Strength()) for model in ballot.models]
        teams = [[judge.rating(mu=each.mu, sigma=each.sigma)] for each in known]
        after = judge.rate(teams, ranks=[_rank(ballot, model) for model in ballot.models])
        for model, before, (belief,) in zip(ballot.models, known, after, strict=True):
            models[model] = Strength(
                mu=belief.mu,
                sigma=belief.sigma,
                votes=before.votes + 1,
                wins=before.wins + (ballot.winner == model),
                ties=before.ties + (ballot.winner is None),
            )
    return League(models, league.votes + len(ballots))


def rate(ballots: Sequence[Ballot]) -> list[Rating]:
    """Return the ratings after votes that came in this order, the strongest first.

    Raises:
        ImportError: `openskill` is not installed.
    """
    return counted(League(), ballots).ratings()


def standings(ballots: Sequence[Ballot], models: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return how many votes each model won, shared and lost."""
    return [
        (
            sum(ballot.winner == model for ballot in ballots),
            sum(model in ballot.models and ballot.winner is None for ballot in ballots),
            sum(
                model in ballot.models and ballot.winner not in (None, model) for ballot in ballots
            ),
        )
        for model in models
    ]


def in_words(rating: Rating, best: Rating) -> str:
    """Return what a rating says, and how sure that is.

    Args:
        rating: Of one model.
        best: Of the first in the order.
    """
    span = f"95 % sure between {rating.low:.1f} and {rating.high:.1f}"
    votes = f"after {rating.votes} vote{'' if rating.votes == 1 else 's'}"
    if rating.model == best.model:
        return f"{span}, {votes}"
    if rating.high < best.low:
        return f"{span}, {votes}: clearly behind {best.model}"
    return f"{span}, {votes}: no clear difference from {best.model} yet"


def _rank(ballot: Ballot, model: str) -> float:
    return 1.0 if ballot.winner in (None, model) else 2.0
