"""Ratings of models, kept up to date by the comparisons whose voting has ended since.

Votes of a comparison whose voting has ended change no more, and are counted in the order in which
the votings ended. So what was counted is a beginning of the list, and the rest is added to it. It
is kept as a note, from which other backends, and this one after a restart, go on. Only where a
comparison has gone, or one that ended before is seen late, all votes are counted anew.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from swell.adoption.votes import League, ballots_of, counted, in_words
from swell.api.comparison_messages import RatingList, RatingView
from swell.db.registry import Registry

_NOTE: Final = "adoption/ratings"

Closed = Sequence[tuple[str, datetime]]


class _Counted(msgspec.Struct, frozen=True):
    """What the first so many comparisons have said.

    Args:
        n: How many; those that are gone by the time they are read count as well.
        digest: Of their ids and ends.
        comparisons: How many of them were there.
        league: What came of their votes.
    """

    n: int = 0
    digest: str = ""
    comparisons: int = 0
    league: League = League()

    def begins(self, closed: Closed) -> bool:
        """Whether these are the first of a list."""
        return self.n <= len(closed) and self.digest == _digest(closed[: self.n])


_decode = msgspec.json.Decoder(_Counted).decode
_encode = msgspec.json.Encoder().encode


class Ratings:
    """What all votes say of models' strengths.

    Args:
        registry: Keeps comparisons and votes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Of those who ask together one reckons.
        self._reckoning = asyncio.Lock()
        self._counted = _Counted()

    async def find(self) -> RatingList:
        """Return the ratings of all comparisons whose voting has ended."""
        async with self._reckoning:
            closed = await self._registry.closed_comparisons()
            if self._counted.n != len(closed) or not self._counted.begins(closed):
                self._counted = await self._count(closed)
            return _shown(self._counted)

    async def _count(self, closed: Closed) -> _Counted:
        """Add to what was counted what has ended since, and keep it."""
        note = await self._registry.note(_NOTE)
        kept = _Counted() if note is None else _decode(note)
        usable = [each for each in (self._counted, kept) if each.begins(closed)]
        known = max(usable, key=lambda each: each.n, default=_Counted())
        comparisons, league = known.comparisons, known.league
        for comparison_id, _ in closed[known.n :]:
            # One after the other: a body is large, and others wait meanwhile.
            await asyncio.sleep(0)
            comparison = await self._registry.comparison(comparison_id)
            if comparison is not None:
                ballots = ballots_of(comparison, await self._registry.votes(comparison_id))
                league = await asyncio.to_thread(counted, league, ballots)
                comparisons += 1
        found = _Counted(len(closed), _digest(closed), comparisons, league)
        if found != kept:
            await self._registry.put_note(_NOTE, _encode(found))
        return found


def _digest(closed: Closed) -> str:
    if not closed:
        return ""
    told = hashlib.sha256()
    for comparison_id, at in closed:
        told.update(f"{comparison_id} {at.timestamp():.6f}\n".encode())
    return told.hexdigest()


def _shown(known: _Counted) -> RatingList:
    ratings = known.league.ratings()
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
    return RatingList(ratings=views, comparisons=known.comparisons, votes=known.league.votes)
