"""What every registry must do with comparisons and votes. Subclass and give `registry`."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from swell.core.comparison import Cell, Comparison, Model, Outline, Picture, Row, Vote
from swell.db.registry import Registry

NOW = datetime(2030, 1, 31, 12, 30, 0, 123_457, tzinfo=UTC)


def a_comparison(comparison_id: str = "c1", **fields: Any) -> Comparison:
    """Return two models that drew a fox, the second of which is shown first."""
    key = f"comparisons/{comparison_id}"
    drawn = (
        Picture(key=f"{key}/a.webp", content_type="image/webp", width=8, height=6),
        Picture(key=f"{key}/b.webp", content_type="image/webp", width=8, height=6),
    )
    cells = (
        Cell(model=1, task_id="t2", picture=drawn[0], run_s=2.5, images=1, cost_micros=70),
        Cell(model=0, task_id="t1", picture=drawn[1], run_s=1.5, images=1),
    )
    values: dict[str, Any] = {
        "id": comparison_id,
        "name": "foxes",
        "created_at": NOW,
        "key_id": "key-1",
        "permit": "00" * 32,
        "models": (
            Model(name="demo/one", version="1", memory_bytes=2**40),
            Model(name="demo/two", version="7"),
        ),
        "rows": (Row(label="a fox\nin the snow", seed=2**53 - 1, cells=cells),),
    }
    return Comparison(**(values | fields))


def a_vote(row: int = 0, voter: str = "anna", **fields: Any) -> Vote:
    """Return that the first model is better."""
    values: dict[str, Any] = {
        "comparison_id": "c1",
        "row": row,
        "key_id": "key-1",
        "voter": voter,
        "winner": 0,
        "at": NOW,
    }
    return Vote(**(values | fields))


class ComparisonsConformance:
    """The guarantees of `swell.core.records` about comparisons and votes."""

    async def test_a_comparison_is_kept_whole(self, registry: Registry) -> None:
        kept = a_comparison(is_shared=True)
        await registry.put_comparison(kept)
        assert await registry.comparison("c1") == kept
        assert await registry.comparison("c2") is None

    async def test_comparisons_are_listed_newest_first_in_pages(self, registry: Registry) -> None:
        for comparison_id in ("c2", "c1", "c3"):
            await registry.put_comparison(a_comparison(comparison_id))
        first = await registry.outlines(limit=2)
        rest = await registry.outlines(limit=2, before=first[-1].id)
        assert [each.id for each in first + rest] == ["c3", "c2", "c1"]

    async def test_outlines_are_of_what_a_key_may_see(self, registry: Registry) -> None:
        await registry.put_comparison(a_comparison("c1"))
        await registry.put_comparison(a_comparison("c2", key_id="key-2"))
        await registry.put_comparison(a_comparison("c3", key_id="key-2", is_shared=True))
        seen = [
            [each.id for each in await registry.outlines(key_id=key_id, limit=2)]
            for key_id in ("key-1", "key-2", "key-3")
        ]
        assert seen == [["c3", "c1"], ["c3", "c2"], ["c3"]]
        assert [each.id for each in await registry.outlines()] == ["c3", "c2", "c1"]

    async def test_an_outline_tells_what_the_comparison_does(self, registry: Registry) -> None:
        await registry.put_comparison(a_comparison(is_shared=True))
        await registry.vote(a_vote())
        await registry.vote(a_vote(winner=1))
        await registry.vote(a_vote(voter="ben"))
        told = Outline(
            id="c1",
            name="foxes",
            created_at=NOW,
            key_id="key-1",
            is_shared=True,
            columns=2,
            rows=1,
            votes=2,
            closed_at=None,
        )
        assert await registry.outlines() == [told]
        later = NOW + timedelta(hours=1)
        await registry.close_comparison("c1", later)
        assert await registry.outlines() == [msgspec.structs.replace(told, closed_at=later)]

    async def test_a_key_keeps_no_more_than_it_may(self, registry: Registry) -> None:
        kept = [
            await registry.put_comparison(a_comparison(comparison_id), most=2)
            for comparison_id in ("c1", "c2", "c3")
        ]
        assert kept == [True, True, False]
        assert await registry.comparison("c3") is None
        assert await registry.put_comparison(a_comparison("c4", key_id="key-2"), most=2)
        await registry.drop_comparison("c1")
        assert await registry.put_comparison(a_comparison("c3"), most=2)

    async def test_comparisons_that_come_together_are_all_counted(self, registry: Registry) -> None:
        coming = [registry.put_comparison(a_comparison(f"c{n}"), most=3) for n in range(8)]
        assert sum(await asyncio.gather(*coming)) == 3
        assert len(await registry.outlines()) == 3

    async def test_closed_comparisons_come_by_when_their_voting_ended(
        self, registry: Registry
    ) -> None:
        for comparison_id, s in (("c1", 2), ("c2", 1), ("c4", 1), ("c3", 0)):
            await registry.put_comparison(a_comparison(comparison_id))
            if s:
                await registry.close_comparison(comparison_id, NOW + timedelta(seconds=s))
        soon, later = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2)
        assert await registry.closed_comparisons() == [("c2", soon), ("c4", soon), ("c1", later)]
        await registry.drop_comparison("c2")
        assert await registry.closed_comparisons() == [("c4", soon), ("c1", later)]

    async def test_a_full_comparison_takes_no_new_votes_but_changes(
        self, registry: Registry
    ) -> None:
        await registry.put_comparison(a_comparison())
        assert await registry.vote(a_vote(), most=2)
        assert await registry.vote(a_vote(row=1), most=2)
        assert not await registry.vote(a_vote(voter="ben"), most=2)
        assert await registry.vote(a_vote(winner=None), most=2)
        assert [each.winner for each in await registry.votes("c1")] == [None, 0]

    async def test_a_voter_has_one_vote_in_a_row_and_may_change_it(
        self, registry: Registry
    ) -> None:
        await registry.put_comparison(a_comparison())
        later = NOW + timedelta(seconds=1)
        others = (a_vote(row=1), a_vote(voter="ben"), a_vote(key_id="key-2"), a_vote(voter=""))
        changed = a_vote(winner=None, at=later)
        for vote in (a_vote(), *others, changed):
            assert await registry.vote(vote)
        votes = await registry.votes("c1")
        assert votes[-1] == changed
        assert votes[:-1] == sorted(others, key=lambda each: (each.row, each.key_id, each.voter))

    async def test_votes_come_oldest_first(self, registry: Registry) -> None:
        await registry.put_comparison(a_comparison())
        for n, voter in enumerate("cab"):
            await registry.vote(a_vote(voter=voter, at=NOW + timedelta(microseconds=n)))
        assert [each.voter for each in await registry.votes("c1")] == ["c", "a", "b"]

    async def test_nobody_votes_where_there_is_nothing_to_vote(self, registry: Registry) -> None:
        assert not await registry.vote(a_vote())
        assert await registry.votes("c1") == []

    async def test_once_the_voting_has_ended_nothing_changes_of_it(
        self, registry: Registry
    ) -> None:
        await registry.put_comparison(a_comparison())
        await registry.vote(a_vote())
        closed = await registry.close_comparison("c1", NOW)
        assert closed == a_comparison(closed_at=NOW)
        assert not await registry.vote(a_vote(winner=1))
        assert not await registry.vote(a_vote(voter="ben"))
        assert await registry.votes("c1") == [a_vote()]
        assert await registry.close_comparison("c1", NOW + timedelta(days=1)) == closed
        assert await registry.comparison("c1") == closed
        assert await registry.closed_comparisons() == [("c1", NOW)]

    async def test_the_voting_of_nothing_does_not_end(self, registry: Registry) -> None:
        assert await registry.close_comparison("c1", NOW) is None

    async def test_a_dropped_comparison_takes_its_votes_with_it(self, registry: Registry) -> None:
        await registry.put_comparison(a_comparison())
        await registry.put_comparison(a_comparison("c2"))
        await registry.vote(a_vote())
        await registry.vote(a_vote(comparison_id="c2"))
        assert await registry.drop_comparison("c1")
        assert not await registry.drop_comparison("c1")
        assert await registry.comparison("c1") is None
        assert await registry.votes("c1") == []
        assert await registry.votes("c2") == [a_vote(comparison_id="c2")]
