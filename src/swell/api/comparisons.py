"""Comparisons of models, blind until the voting ends; votes; and the ratings that they give.

Who votes must not know which model made what, and might look for it. So the pictures are copies
(`blind.py`), each row has an order of its own, times and costs are not told, and ratings count a
comparison only once its voting has ended: else a vote could be watched on its way to a name.
"""

import hmac
from importlib.util import find_spec
from typing import Final

import msgspec

from swell.api.call import Call, Reply
from swell.api.comparing import digest_of, wrong
from swell.api.comparison_messages import (
    BallotRequest,
    ComparisonList,
    ComparisonQuery,
    ComparisonsQuery,
    VoteRequest,
    VoteView,
)
from swell.api.comparison_views import comparison_view, summary_view
from swell.api.messages import NoQuery
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.comparisons import MOST_VOTES, Comparison, Outline, Vote
from swell.errors import (
    Conflict,
    Forbidden,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from swell.registry import Scope
from swell.task import is_id

#: Longest ballot: it comes without a key.
_MAX_BALLOT_BYTES: Final = 16 * 1024

_vote = Reader(VoteRequest)
_ballot = Reader(BallotRequest)


async def list_comparisons(service: Service, call: Call) -> Reply:
    """`GET /v1/comparisons`."""
    query = read_query(call, ComparisonsQuery)
    if query.cursor is not None and not is_id(query.cursor):
        raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
    sees_all = Scope.ADMIN in call.caller.scopes
    found = await service.registry.outlines(
        limit=query.limit + 1,
        before=query.cursor,
        key_id=None if sees_all else call.caller.id,
    )
    shown = found[: query.limit]
    views = [summary_view(each, is_own=_is_own(call, each)) for each in shown]
    after = shown[-1].id if len(found) > query.limit else None
    return Reply(200, encode(ComparisonList(comparisons=views, cursor=after)))


async def get_comparison(service: Service, call: Call) -> Reply:
    """`GET /v1/comparisons/{id}`."""
    query = read_query(call, ComparisonQuery)
    if query.names and Scope.ADMIN not in call.caller.scopes:
        raise Forbidden(
            "the names stay hidden until voting ends (POST …/close); before that, "
            "only a key with the scope `admin` may see them"
        )
    comparison = await _find(service, call)
    return await _shown(service, call, comparison, query.voter, has_names=query.names)


async def close_comparison(service: Service, call: Call) -> Reply:
    """`POST /v1/comparisons/{id}/close`."""
    known = await _find_own(service, call)
    closed = await service.registry.close_comparison(known.id, service.clock.now())
    if closed is None:
        raise _unknown(known.id)
    return await _shown(service, call, closed, "")


async def drop_comparison(service: Service, call: Call) -> Reply:
    """`DELETE /v1/comparisons/{id}`."""
    known = await _find_own(service, call)
    await service.registry.drop_comparison(known.id)
    await service.objects.delete(known.object_keys)
    view = comparison_view(known, [], service.urls(call), is_own=True)
    return Reply(200, encode(msgspec.structs.replace(view, rows=[])))


async def cast_vote(service: Service, call: Call) -> Reply:
    """`POST /v1/comparisons/{id}/votes`."""
    asked: VoteRequest = await _vote.read_call(call, service.settings.server.max_body_bytes)
    comparison = await _find(service, call)
    # One that is not shared is another's only to an operator.
    call.of_others = not comparison.is_shared and comparison.key_id != call.caller.id
    return await _cast(service, comparison, asked, call.caller.id)


async def cast_ballot(service: Service, call: Call) -> Reply:
    """`POST /v1/comparisons/{id}/ballots`: without a key, from a sheet that is a file."""
    if not any(name == b"access-control-allow-origin" for name, _ in call.told):
        # A page that is a file may ask anybody; what it may do here its permit says.
        call.tell(b"access-control-allow-origin", b"*")
    # As text it may be sent without asking first whether it may.
    asked: BallotRequest = _ballot.read(await call.body(_MAX_BALLOT_BYTES))
    comparison = await _known(service, call.params["id"])
    known = "" if comparison is None else comparison.permit
    if comparison is None or not hmac.compare_digest(known, digest_of(asked.permit)):
        raise Forbidden("this permit is not one of this comparison: use the sheet that was made")
    vote = VoteRequest(row=asked.row, winner=asked.winner, tie=asked.tie, voter=asked.voter)
    # What only this sheet knows stands in the place of a key.
    by = "" if asked.voter_id is None else f"sheet-{digest_of(asked.voter_id)}"
    return await _cast(service, comparison, vote, by)


async def list_ratings(service: Service, call: Call) -> Reply:
    """`GET /v1/ratings`."""
    read_query(call, NoQuery)
    if find_spec("openskill") is None:
        raise Unavailable(
            "ratings need openskill: run `pip install 'swell[adoption]'` in the "
            "backend's environment and restart the backend; votes are kept"
        )
    return Reply(200, encode(await service.ratings.find()))


async def _shown(
    service: Service, call: Call, comparison: Comparison, voter: str, *, has_names: bool = False
) -> Reply:
    votes = await service.registry.votes(comparison.id)
    view = comparison_view(
        comparison,
        votes,
        service.urls(call),
        is_own=_is_own(call, comparison),
        has_names=has_names,
        voter=(call.caller.id, voter),
    )
    return Reply(200, encode(view))


async def _cast(service: Service, comparison: Comparison, asked: VoteRequest, key_id: str) -> Reply:
    """Keep a vote.

    Raises:
        InvalidInput: There is no such row or number, or it says both or neither.
        Conflict: The voting has ended, or there are too many votes.
    """
    winner = _winner(comparison, asked)
    vote = Vote(
        comparison_id=comparison.id,
        row=asked.row,
        key_id=key_id,
        voter=asked.voter,
        winner=winner,
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
    view = VoteView(row=vote.row, winner=asked.winner, tie=asked.tie, voter=vote.voter, at=vote.at)
    return Reply(200, encode(view))


def _winner(comparison: Comparison, asked: VoteRequest) -> int | None:
    """Return which model a vote is for, by the number that it names."""
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


async def _find(service: Service, call: Call) -> Comparison:
    """Return the comparison that a path names, if the caller may know of it."""
    comparison_id = call.params["id"]
    found = await _known(service, comparison_id)
    if found is None or not (found.is_shared or _is_own(call, found)):
        raise _unknown(comparison_id)
    return found


async def _known(service: Service, comparison_id: str) -> Comparison | None:
    # What is no id is known to no store.
    return await service.registry.comparison(comparison_id) if is_id(comparison_id) else None


async def _find_own(service: Service, call: Call) -> Comparison:
    """Return the comparison that a path names, if the caller may change it."""
    found = await _find(service, call)
    if not _is_own(call, found):
        raise Forbidden("only the key that made a comparison, or an admin's, may do this")
    call.of_others = found.key_id != call.caller.id
    return found


def _is_own(call: Call, comparison: Comparison | Outline) -> bool:
    return comparison.key_id == call.caller.id or Scope.ADMIN in call.caller.scopes


def _unknown(comparison_id: str) -> NotFound:
    return NotFound(
        f"there is no comparison {comparison_id[:60]!r} that this key may see: "
        "GET /v1/comparisons lists them"
    )
