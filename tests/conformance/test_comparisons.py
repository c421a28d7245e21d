"""Every registry stores comparisons of models and their votes."""

import asyncio

from conformance.comparisons import NOW, ComparisonsConformance, a_comparison, a_vote
from conformance.registries import OnPostgres, OnSqlite
from swell.db.registry import Registry


class TestSqliteComparisons(OnSqlite, ComparisonsConformance):
    pass


class TestPostgresComparisons(OnPostgres, ComparisonsConformance):
    async def test_no_vote_is_taken_after_the_names_were_told(self, registry: Registry) -> None:
        await registry.put_comparison(a_comparison())
        votes = [registry.vote(a_vote(voter=f"v{n}")) for n in range(40)]
        *taken, closed = await asyncio.gather(*votes, registry.close_comparison("c1", NOW))
        assert closed is not None
        assert len(await registry.votes("c1")) == taken.count(True)
        [told] = await registry.outlines()
        assert told.votes == taken.count(True)

    async def test_votes_that_come_together_are_all_counted(self, registry: Registry) -> None:
        await registry.put_comparison(a_comparison())
        votes = [registry.vote(a_vote(voter=f"v{n % 6}"), most=4) for n in range(24)]
        taken = await asyncio.gather(*votes)
        [told] = await registry.outlines()
        assert (told.votes, len(await registry.votes("c1"))) == (4, 4)
        assert taken.count(True) == 16
