"""Ratings of models from all comparisons with ended voting.

The votes of an ended comparison never change. They count in the order of the ends of
voting, so newly ended ones are added to the ratings so far. All votes are counted again if a
comparison was deleted, or one turns up that ended earlier.
"""

import asyncio
from datetime import datetime

from swell.adoption.votes import Rating, ballots_of, counted, in_words, ordered
from swell.api.comparison_messages import RatingList, RatingView
from swell.api.views import project
from swell.db.registry import Registry


class Ratings:
    """Counts votes when ratings are requested."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Simultaneous requests count once.
        self._counting = asyncio.Lock()
        #: Comparisons counted so far: (id, end of voting), in order of the latter.
        self._counted: list[tuple[str, datetime]] = []
        self._ratings: dict[str, Rating] = {}
        self._votes = 0

    async def find(self) -> RatingList:
        """Return the ratings, best first."""
        async with self._counting:
            closed = await self._registry.closed_comparisons()
            if closed[: len(self._counted)] != self._counted:
                self._counted, self._ratings, self._votes = [], {}, 0
            for each in closed[len(self._counted) :]:
                await self._count(each[0])
                self._counted.append(each)
            ratings = ordered(self._ratings)
            views = [
                project(RatingView, each, summary=in_words(each, ratings[0])) for each in ratings
            ]
            return RatingList(ratings=views, comparisons=len(self._counted), votes=self._votes)

    async def _count(self, comparison_id: str) -> None:
        comparison = await self._registry.comparison(comparison_id)
        if comparison is not None:
            ballots = ballots_of(comparison, await self._registry.votes(comparison_id))
            self._ratings = await asyncio.to_thread(counted, self._ratings, ballots)
            self._votes += len(ballots)
