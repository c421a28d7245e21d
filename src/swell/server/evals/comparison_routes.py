"""Comparisons of models, votes and ratings; `create_comparison.py` creates comparisons.

Voters must not learn which model made a result, and may try to. So pictures are copies, each row
has its own random order, names, times and costs are hidden until voting ends, and ratings count a
comparison only after that: a single vote cannot be traced to a name.
"""

import asyncio
import hashlib
import hmac
import statistics
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import msgspec

from swell.core.comparison import MOST_VOTES, Cell, Comparison, Row, Vote
from swell.core.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from swell.core.model_ratings import (
    Ballot,
    Rating,
    ballots_of,
    counted,
    in_words,
    ordered,
    standing,
)
from swell.core.records import Scope
from swell.core.task import is_id
from swell.db.registry import Registry
from swell.server.auth import may_see, only_own
from swell.server.common_schemas import NoQuery
from swell.server.decoding import Reader, read_body, read_query
from swell.server.evals import comparison_schemas as messages
from swell.server.problem_details import field_error
from swell.server.request import Call, Reply
from swell.server.route import Body, Response, group_route
from swell.server.serializers import UrlMaker, encode, project

if TYPE_CHECKING:
    from swell.server.service import Service

#: Longest ballot: it needs no key.
_MAX_BALLOT_BYTES: Final = 16 * 1024

#: Fields of a cell that are null until voting has ended.
_HIDDEN: Final = {"task_id": None, "queue_s": None, "run_s": None, "cost_micros": None}

comparison_route = group_route("Comparisons")
_ballot = Reader(messages.BallotRequest)

#: Returns the error of a wrong value in a request.
wrong: Final = partial(field_error, code="comparison")


# --- endpoints -----------------------------------------------------------------------------------


@comparison_route(
    "GET /v1/comparisons",
    Response("A page of comparisons, newest first", messages.ComparisonList),
    query=messages.ComparisonsQuery,
)
async def list_comparisons(service: "Service", call: Call) -> Reply:
    """List comparisons.

    A client key sees its own and shared comparisons; an admin key sees all.
    """
    query = read_query(call, messages.ComparisonsQuery)
    if query.cursor is not None and not is_id(query.cursor):
        raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
    found = await service.registry.outlines(
        limit=query.limit + 1, before=query.cursor, key_id=only_own(call)
    )
    shown = found[: query.limit]
    views = [
        project(messages.ComparisonSummary, each, is_own=may_see(call, each.key_id))
        for each in shown
    ]
    after = shown[-1].id if len(found) > query.limit else None
    return Reply(200, encode(messages.ComparisonList(comparisons=views, cursor=after)))


@comparison_route(
    "GET /v1/comparisons/{id}",
    Response("The comparison", messages.ComparisonView),
    query=messages.ComparisonQuery,
    errors=(Forbidden, NotFound),
)
async def get_comparison(service: "Service", call: Call) -> Reply:
    """Get a comparison.

    Hides the models' names, times and costs until voting ends.
    """
    query = read_query(call, messages.ComparisonQuery)
    if query.names and Scope.ADMIN not in call.caller.scopes:
        raise Forbidden(
            "the names stay hidden until voting ends (POST …/close); before that, "
            "only a key with the scope `admin` may see them"
        )
    comparison = await _find(service, call)
    return await _show(service, call, comparison, query.voter, has_names=query.names)


@comparison_route(
    "POST /v1/comparisons/{id}/close",
    Response("The comparison with the models' names", messages.ComparisonView),
    errors=(Forbidden, NotFound),
    audit="comparisons.close",
)
async def close_comparison(service: "Service", call: Call) -> Reply:
    """End voting and reveal the models.

    This is final: the votes count for the ratings from now on. A second request changes
    nothing.
    """
    comparison = await _find_own(service, call)
    closed = await service.registry.close_comparison(comparison.id, service.clock.now())
    if closed is None:
        raise _unknown(comparison.id)
    return await _show(service, call, closed)


@comparison_route(
    "DELETE /v1/comparisons/{id}",
    Response("The comparison as it was", messages.ComparisonView),
    errors=(Forbidden, NotFound),
    audit="comparisons.drop",
)
async def drop_comparison(service: "Service", call: Call) -> Reply:
    """Delete a comparison.

    Deletes its pictures and votes, and removes them from the ratings.
    """
    comparison = await _find_own(service, call)
    await service.registry.drop_comparison(comparison.id)
    pictures = [cell.picture for row in comparison.rows for cell in row.cells]
    await service.objects.delete([each.key for each in pictures if each is not None])
    view = comparison_view(comparison, [], service.urls(call), is_own=True)
    return Reply(200, encode(msgspec.structs.replace(view, rows=[])))


@comparison_route(
    "POST /v1/comparisons/{id}/votes",
    Response("The vote", messages.VoteView),
    body=Body(messages.VoteRequest, example={"row": 0, "winner": 2, "voter": "anna"}),
    errors=(NotFound, Conflict),
    audit="comparisons.vote",
)
async def cast_vote(service: "Service", call: Call) -> Reply:
    """Vote on a row.

    Each voter of a key has one vote for each row; a later vote replaces it.
    """
    asked = await read_body(service, call, messages.VoteRequest)
    comparison = await _find(service, call)
    call.of_others = not comparison.is_shared and comparison.key_id != call.caller.id
    return await _cast(service, comparison, asked, call.caller.id)


@comparison_route(
    "POST /v1/comparisons/{id}/ballots",
    Response("The vote", messages.VoteView),
    scope=None,
    body=Body(
        messages.BallotRequest, example={"permit": "T", "row": 0, "tie": True, "voter": "anna"}
    ),
    errors=(Forbidden, Conflict),
)
async def cast_ballot(service: "Service", call: Call) -> Reply:
    """Vote without a key.

    Like `votes`, with the comparison's permit instead of a key. Accepts any content type as
    JSON, and requests from any origin.
    """
    if not any(name == b"access-control-allow-origin" for name, _ in call.added_headers):
        # A sheet is a file without an origin; its permit limits its rights.
        call.add_header(b"access-control-allow-origin", b"*")
    # Not `Call.read`: sheets send text/plain, which needs no CORS preflight.
    asked = _ballot.read(await call.body(_MAX_BALLOT_BYTES))
    comparison = await _known(service, call.params["id"])
    permit = digest_of(asked.permit)
    if comparison is None or not hmac.compare_digest(comparison.permit, permit):
        raise Forbidden("this permit is not one of this comparison: use the sheet that was made")
    key_id = "" if asked.voter_id is None else f"sheet-{digest_of(asked.voter_id)}"
    return await _cast(service, comparison, asked, key_id)


@comparison_route(
    "GET /v1/ratings",
    Response("Ratings, best first", messages.RatingList),
    errors=(InvalidRequest, InvalidInput, Unavailable),
)
async def list_ratings(service: "Service", call: Call) -> Reply:
    """List ratings.

    Counts only comparisons with ended voting, so that no vote can be traced to a model before.
    """
    read_query(call, NoQuery)
    if find_spec("openskill") is None:
        raise Unavailable(
            "ratings need openskill: run `pip install 'swell[adoption]'` in the "
            "backend's environment and restart the backend; votes are kept"
        )
    return Reply(200, encode(await service.ratings.find()))


async def _show(
    service: "Service",
    call: Call,
    comparison: Comparison,
    voter: str = "",
    *,
    has_names: bool = False,
) -> Reply:
    view = comparison_view(
        comparison,
        await service.registry.votes(comparison.id),
        service.urls(call),
        is_own=may_see(call, comparison.key_id),
        has_names=has_names,
        voter=(call.caller.id, voter),
    )
    return Reply(200, encode(view))


async def _cast(
    service: "Service", comparison: Comparison, asked: messages.VoteRequest, key_id: str
) -> Reply:
    """Store a vote.

    Raises:
        InvalidInput: There is no such row or number, or the vote names both or neither.
        Conflict: Voting has ended, or there are too many votes.
    """
    vote = project(
        Vote,
        asked,
        comparison_id=comparison.id,
        key_id=key_id,
        winner=_winner(comparison, asked),
        at=service.clock.now(),
    )
    if not await service.registry.vote(vote, MOST_VOTES):
        known = await _known(service, comparison.id)
        if known is not None and known.closed_at is None:
            raise Conflict(
                f"the comparison has {MOST_VOTES:,} votes, and no room for more: change one that "
                "was given, or close it"
            )
        raise Conflict("voting has ended: GET /v1/comparisons/{id} returns the result")
    return Reply(200, encode(project(messages.VoteView, asked, at=vote.at)))


def _winner(comparison: Comparison, asked: messages.VoteRequest) -> int | None:
    """Return the model that a vote names by its number in the row; None for a tie."""
    if asked.row >= len(comparison.rows):
        raise wrong("/row", f"there are rows 0 to {len(comparison.rows) - 1}")
    row = comparison.rows[asked.row]
    if not row.can_be_voted:
        raise wrong("/row", f"row {asked.row} has no choice, since models failed: skip it")
    if asked.tie == (asked.winner is not None):
        raise wrong("/winner", "say either `winner` (a number) or `tie` (true)")
    if asked.winner is None:
        return None
    if asked.winner > len(row.shown):
        raise wrong("/winner", f"row {asked.row} has numbers 1 to {len(row.shown)}")
    return row.shown[asked.winner - 1].model


async def _find(service: "Service", call: Call) -> Comparison:
    """Return the comparison in the path.

    Raises:
        NotFound: It does not exist, or the caller may not see it.
    """
    comparison = await _known(service, call.params["id"])
    if comparison is None or not (comparison.is_shared or may_see(call, comparison.key_id)):
        raise _unknown(call.params["id"])
    return comparison


async def _known(service: "Service", comparison_id: str) -> Comparison | None:
    # Stores accept only well-formed ids.
    return await service.registry.comparison(comparison_id) if is_id(comparison_id) else None


async def _find_own(service: "Service", call: Call) -> Comparison:
    comparison = await _find(service, call)
    if not may_see(call, comparison.key_id):
        raise Forbidden("only the key that made a comparison, or an admin's, may do this")
    return comparison


def _unknown(comparison_id: str) -> NotFound:
    return NotFound(
        f"there is no comparison {comparison_id[:60]!r} that this key may see: "
        "GET /v1/comparisons lists them"
    )


def digest_of(permit: str) -> str:
    """Return the SHA-256 of a permit, in hex."""
    return hashlib.sha256(permit.encode()).hexdigest()


# --- views ---------------------------------------------------------------------------------------


def comparison_view(
    comparison: Comparison,
    votes: Sequence[Vote],
    urls: UrlMaker,
    *,
    is_own: bool,
    has_names: bool = False,
    voter: tuple[str, str] = ("", ""),
) -> messages.ComparisonView:
    """Return a view of a comparison, without names, times and costs until voting has ended.

    Args:
        comparison: The comparison.
        votes: All votes on it.
        urls: Signs URLs of its pictures.
        is_own: Whether the caller may end the voting.
        has_names: Whether to show names before voting has ended.
        voter: Key and name of a voter, to show the votes of.
    """
    is_open = not has_names and comparison.closed_at is None
    refs = None if is_open else [model.ref for model in comparison.models]
    ballots = ballots_of(comparison, votes)
    voted = {vote.row: vote for vote in votes if (vote.key_id, vote.voter) == voter}
    return project(
        messages.ComparisonView,
        comparison,
        is_own=is_own,
        columns=len(comparison.models),
        votes=len(votes),
        rows=[
            _row_view(row, number, voted.get(number), urls, refs)
            for number, row in enumerate(comparison.rows)
        ],
        models=None
        if refs is None
        else [_compared_view(comparison, index, ballots) for index in range(len(refs))],
    )


def _row_view(
    row: Row, number: int, vote: Vote | None, urls: UrlMaker, refs: Sequence[str] | None
) -> messages.RowView:
    models = [cell.model for cell in row.shown]
    voted = None
    if vote is not None and vote.winner in models:
        voted = models.index(vote.winner) + 1
    return project(
        messages.RowView,
        row,
        row=number,
        voted=voted,
        is_tie=vote is not None and vote.winner is None,
        seed=None if refs is None else row.seed,
        cells=[_cell_view(cell, place, urls, refs) for place, cell in enumerate(row.shown, 1)],
    )


def _cell_view(
    cell: Cell, number: int, urls: UrlMaker, refs: Sequence[str] | None
) -> messages.CellView:
    picture = cell.picture
    return project(
        messages.CellView,
        cell,
        number=number,
        picture=picture and project(messages.PictureView, picture, url=urls.file(picture.key)),
        model=None if refs is None else refs[cell.model],
        **(_HIDDEN if refs is None else {}),
    )


def _compared_view(
    comparison: Comparison, index: int, ballots: Sequence[Ballot]
) -> messages.ComparedView:
    model = comparison.models[index]
    cells = [cell for row in comparison.rows for cell in row.cells if cell.model == index]
    shown = [cell for cell in cells if not cell.failed]
    wins, ties, losses = standing(ballots, model.ref)
    images = sum(cell.images for cell in shown)
    costs = [cell.cost_micros for cell in shown if cell.cost_micros is not None]
    cost = sum(costs) if costs and len(costs) == len(shown) else None
    return messages.ComparedView(
        model=model.ref,
        wins=wins,
        ties=ties,
        losses=losses,
        rows=len(shown),
        failures=len(cells) - len(shown),
        queue_s=statistics.median(cell.queue_s for cell in shown) if shown else None,
        load_s=sum(cell.load_s for cell in cells),
        run_s=statistics.median(cell.run_s for cell in shown) if shown else None,
        memory_bytes=model.memory_bytes or None,
        images=images,
        cost_micros=cost,
        image_micros=cost / images if cost is not None and images else None,
    )


# --- ratings -------------------------------------------------------------------------------------


class Ratings:
    """Ratings from all comparisons with ended voting. Their votes never change.

    They count in the order of the ends of voting, so newly ended ones are added to the ratings so
    far. All are counted again if one was deleted, or one turns up that ended earlier.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Simultaneous requests count once.
        self._counting = asyncio.Lock()
        #: The counted comparisons: (id, end of voting), in order of the latter.
        self._counted: list[tuple[str, datetime]] = []
        self._ratings: dict[str, Rating] = {}
        self._votes = 0

    async def find(self) -> messages.RatingList:
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
            project(messages.RatingView, each, summary=in_words(each, ratings[0]))
            for each in ratings
        ]
        return messages.RatingList(ratings=views, comparisons=len(closed), votes=self._votes)

    async def _count(self, comparison_id: str) -> None:
        comparison = await self._registry.comparison(comparison_id)
        if comparison is not None:
            ballots = ballots_of(comparison, await self._registry.votes(comparison_id))
            self._ratings = await asyncio.to_thread(counted, self._ratings, ballots)
            self._votes += len(ballots)
