"""Ratings of models, reckoned anew where the voting of a comparison has ended, or one has gone."""

import asyncio
from datetime import datetime

from swell.adoption.votes import Ballot, ballots_of, in_words, rate
from swell.api.comparison_messages import RatingList, RatingView
from swell.registry import Registry

__all__ = ["Ratings"]


class Ratings:
    """What all votes say of models' strengths.

    Args:
        registry: Keeps comparisons and votes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Of those who ask together one reckons.
        self._reckoning = asyncio.Lock()
        #: Which comparisons were counted, and what came of them.
        self._known: tuple[list[tuple[str, datetime]], RatingList] | None = None

    async def find(self) -> RatingList:
        """Return the ratings of all comparisons whose voting has ended."""
        async with self._reckoning:
            closed = await self._registry.closed_comparisons()
            if self._known is None or self._known[0] != closed:
                self._known = (closed, await self._reckon([each for each, _ in closed]))
            return self._known[1]

    async def _reckon(self, comparison_ids: list[str]) -> RatingList:
        """Replay votes: of comparisons in this order, and within one in that of time."""
        ballots: list[Ballot] = []
        count = 0
        for each in comparison_ids:
            # One after the other: a body is large, and others wait meanwhile.
            await asyncio.sleep(0)
            comparison = await self._registry.comparison(each)
            if comparison is not None:
                ballots += ballots_of(comparison, await self._registry.votes(each))
                count += 1
        ratings = await asyncio.to_thread(rate, ballots)
        views = [
            RatingView(
                model=each.model,
                mu=each.mu,
                sigma=each.sigma,
                ordinal=each.ordinal,
                low=each.low,
                high=each.high,
                votes=each.votes,
                wins=each.wins,
                ties=each.ties,
                summary=in_words(each, ratings[0]),
            )
            for each in ratings
        ]
        return RatingList(ratings=views, comparisons=count, votes=len(ballots))
