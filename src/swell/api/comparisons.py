"""Comparisons of models, blind until the voting ends; votes; and the ratings that they give.

Who votes must not know which model made what, and might look for it. So the pictures are copies
(`blind.py`), each row has an order of its own, times and costs are not told, and ratings count a
comparison only once its voting has ended: else a vote could be watched on its way to a name.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

import msgspec

from swell.adoption.compare import label_of, mixed
from swell.adoption.votes import Ballot, ballots_of, in_words, rate
from swell.api.blind import can_be_blind, copy_blind
from swell.api.call import Call, Reply
from swell.api.comparison_messages import (
    BallotRequest,
    ComparisonList,
    ComparisonQuery,
    ComparisonRequest,
    ComparisonsQuery,
    NewComparisonView,
    RatingList,
    RatingView,
    VoteRequest,
    VoteView,
)
from swell.api.comparison_views import comparison_view, summary_view
from swell.api.messages import NoQuery
from swell.api.reading import Reader, read_query
from swell.api.service import Service
from swell.api.views import encode
from swell.comparisons import Cell, Comparison, Model, Picture, Row, Vote
from swell.errors import (
    Conflict,
    FieldError,
    Forbidden,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from swell.registry import Scope
from swell.task import Artifact, Task, TaskState, new_id

__all__ = [
    "cast_ballot",
    "cast_vote",
    "close_comparison",
    "create_comparison",
    "drop_comparison",
    "get_comparison",
    "list_comparisons",
    "list_ratings",
]

#: A comparison has room for so many votes: whoever has a permit can make up voters.
_MOST_VOTES: Final = 20_000

#: So many comparisons are read at a time, where all are.
_PAGE: Final = 200

#: Longer texts are cut: a sheet shows them side by side.
_MOST_TEXT: Final = 20_000

_request = Reader(ComparisonRequest)
_vote = Reader(VoteRequest)
_ballot = Reader(BallotRequest)


async def create_comparison(service: Service, call: Call) -> Reply:
    """`POST /v1/comparisons`."""
    asked: ComparisonRequest = await _request.read_call(call, service.settings.max_body_bytes)
    columns = len(asked.rows[0].tasks)
    if any(len(row.tasks) != columns for row in asked.rows):
        raise _wrong("/rows", f"every row has as many tasks as the first, {columns}")
    tasks = await _tasks_of(service, call, asked)
    models = await _models_of(service, tasks, columns)
    now, permit = service.clock.now(), secrets.token_urlsafe(24)
    comparison_id = new_id(now)
    rows = mixed(
        [
            _row_of(tasks[at : at + columns], asked.rows[at // columns].label)
            for at in range(0, len(tasks), columns)
        ],
        secrets.randbits(64),
    )
    copied = await _copied(service, comparison_id, rows, {task.id: task for task in tasks})
    comparison = Comparison(
        id=comparison_id,
        name=asked.name or f"{columns} models, {len(rows)} row{'s' * (len(rows) > 1)}",
        created_at=now,
        key_id=call.caller.id,
        is_shared=asked.is_shared,
        permit=_digest(permit),
        models=models,
        rows=copied,
    )
    try:
        await service.registry.put_comparison(comparison)
    except BaseException:
        await service.objects.delete(comparison.object_keys)
        raise
    call.target = comparison.id
    view = comparison_view(comparison, [], service.urls(call), is_own=True)
    told = encode(NewComparisonView(comparison=view, permit=permit))
    return Reply(201, told, headers=[(b"cache-control", b"no-store")])


async def list_comparisons(service: Service, call: Call) -> Reply:
    """`GET /v1/comparisons`."""
    query = read_query(call, ComparisonsQuery)
    found: list[Comparison] = []
    cursor = query.cursor
    while len(found) <= query.limit:
        page = await service.registry.comparisons(limit=_PAGE, before=cursor)
        found += [each for each in page if each.is_shared or _is_own(call, each)]
        if len(page) < _PAGE:
            break
        cursor = page[-1].id
    shown = found[: query.limit]
    counts = await service.registry.count_votes([each.id for each in shown])
    views = [
        summary_view(each, votes, is_own=_is_own(call, each))
        for each, votes in zip(shown, counts, strict=True)
    ]
    after = shown[-1].id if len(found) > query.limit else None
    return Reply(200, encode(ComparisonList(comparisons=views, cursor=after)))


async def get_comparison(service: Service, call: Call) -> Reply:
    """`GET /v1/comparisons/{id}`."""
    query = read_query(call, ComparisonQuery)
    if query.names and Scope.ADMIN not in call.caller.scopes:
        raise Forbidden(
            "the names are told once the voting has ended (POST …/close); before, only a key with "
            "the scope `admin` may ask for them"
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
    asked: VoteRequest = await _vote.read_call(call, service.settings.max_body_bytes)
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
    asked: BallotRequest = _ballot.read(await call.body(service.settings.max_body_bytes))
    comparison = await service.registry.comparison(call.params["id"])
    known = "" if comparison is None else comparison.permit
    if comparison is None or not hmac.compare_digest(known, _digest(asked.permit)):
        raise Forbidden("this permit is not one of this comparison: use the sheet that was made")
    vote = VoteRequest(row=asked.row, winner=asked.winner, tie=asked.tie, voter=asked.voter)
    return await _cast(service, comparison, vote, "")


async def list_ratings(service: Service, call: Call) -> Reply:
    """`GET /v1/ratings`."""
    read_query(call, NoQuery)
    if find_spec("openskill") is None:
        raise Unavailable(
            "ratings need openskill: install it beside the backend with `pip install "
            "'swell[adoption]'` and start the backend again; votes are kept meanwhile"
        )
    closed = [each for each in await _all(service) if each.closed_at is not None]
    # By the time at which the voting ended, and within one by that of the votes.
    closed.sort(key=lambda each: (each.closed_at or each.created_at, each.id))
    ballots: list[Ballot] = []
    for comparison in closed:
        ballots += ballots_of(comparison, await service.registry.votes(comparison.id))
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
    told = RatingList(ratings=views, comparisons=len(closed), votes=len(ballots))
    return Reply(200, encode(told))


async def _all(service: Service) -> list[Comparison]:
    found: list[Comparison] = []
    while True:
        before = found[-1].id if found else None
        page = await service.registry.comparisons(limit=_PAGE, before=before)
        found += page
        if len(page) < _PAGE:
            return found


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
    [count] = await service.registry.count_votes([comparison.id])
    if count >= _MOST_VOTES:
        raise Conflict(f"the comparison has {count:,} votes, and no room for more: close it")
    vote = Vote(
        comparison_id=comparison.id,
        row=asked.row,
        key_id=key_id,
        voter=asked.voter,
        winner=winner,
        at=service.clock.now(),
    )
    if not await service.registry.vote(vote):
        raise Conflict("the voting has ended: GET /v1/comparisons/{id} tells what came of it")
    view = VoteView(row=vote.row, winner=asked.winner, tie=asked.tie, voter=vote.voter, at=vote.at)
    return Reply(200, encode(view))


def _winner(comparison: Comparison, asked: VoteRequest) -> int | None:
    """Return which model a vote is for, by the number that it names."""
    if asked.row >= len(comparison.rows):
        raise _wrong("/row", f"there are rows 0 to {len(comparison.rows) - 1}")
    row = comparison.rows[asked.row]
    if not row.can_be_voted:
        raise _wrong("/row", f"row {asked.row} has no choice, since models failed: skip it")
    if asked.tie == (asked.winner is not None):
        raise _wrong("/winner", "say either `winner` (a number) or `tie` (true)")
    if asked.winner is None:
        return None
    if asked.winner > len(row.shown):
        raise _wrong("/winner", f"row {asked.row} has numbers 1 to {len(row.shown)}")
    return row.shown[asked.winner - 1].model


async def _tasks_of(service: Service, call: Call, asked: ComparisonRequest) -> list[Task]:
    """Return the tasks of all rows, one row after the other."""
    ids = [task_id for row in asked.rows for task_id in row.tasks]
    if len(set(ids)) != len(ids):
        raise _wrong("/rows", "a task stands in it twice; each cell is a task of its own")
    found: list[Task] = []
    for task_id, task in zip(ids, await service.store.get(ids), strict=True):
        if task is None or not service.may_see(call, task):
            raise NotFound(f"there is no task {task_id[:60]!r}: name tasks of your own key")
        if not task.state.is_terminal:
            raise Conflict(f"task {task_id} is {task.state}: compare when all have ended")
        if task.outputs_removed or task.inputs_removed:
            raise Conflict(f"the data of task {task_id} was removed: run it again")
        found.append(task)
    return found


async def _models_of(service: Service, tasks: Sequence[Task], columns: int) -> tuple[Model, ...]:
    """Return what made each column.

    Raises:
        InvalidInput: A column was made by several, or two by the same.
    """
    refs: list[str] = []
    for column in range(columns):
        of_it = {_ref(task) for task in tasks[column::columns] if task.model_version}
        if len({task.model for task in tasks[column::columns]}) > 1 or len(of_it) > 1:
            names = ", ".join(sorted(of_it)) or "several models"
            raise _wrong(
                "/rows",
                f"the tasks at place {column + 1} of the rows were run by {names}: name the "
                "version (owner/name:version), so that one model makes a column",
            )
        refs.append(of_it.pop() if of_it else _ref(tasks[column]))
    if len(set(refs)) != columns:
        raise _wrong("/rows", "two columns were made by the same version of the same model")
    await service.cards.refresh()
    models = []
    for ref in refs:
        card = service.cards.find(ref)
        name, _, version = ref.partition(":")
        memory_bytes = 0 if card is None else card.memory_bytes
        models.append(Model(name=name, version=version, memory_bytes=memory_bytes))
    return tuple(models)


def _ref(task: Task) -> str:
    return f"{task.model}:{task.model_version}"


def _row_of(tasks: Sequence[Task], label: str) -> Row:
    seeds = {task.seed for task in tasks}
    return Row(
        label=label or label_of(tasks[0]),
        seed=seeds.pop() if len(seeds) == 1 else None,
        cells=tuple(_cell_of(model, task) for model, task in enumerate(tasks)),
    )


def _cell_of(model: int, task: Task) -> Cell:
    """Return what a task gave, without its picture yet."""
    text = None
    failed = "" if task.error is None else task.error.detail or task.error.title
    if task.state is not TaskState.SUCCEEDED:
        failed = failed or str(task.state)
    elif _picture_of(task) is None:
        text = _text_of(task)
        failed = "" if text is not None else "it made neither a picture nor a text"
    timings = task.timings
    return Cell(
        model=model,
        task_id=task.id,
        text=text,
        failed=failed,
        queue_s=0.0 if timings is None else timings.queue_s,
        load_s=0.0 if timings is None else timings.load_s,
        run_s=0.0 if timings is None else timings.run_s,
        images=len(task.artifacts),
        cost_micros=None if timings is None else timings.cost_micros,
    )


def _picture_of(task: Task) -> Artifact | None:
    return next((each for each in task.artifacts if can_be_blind(each)), None)


def _text_of(task: Task) -> str | None:
    """Return what a model wrote, where it gives nothing but a text."""
    if task.output is None or task.artifacts:
        return None
    value = msgspec.json.decode(task.output)
    if not isinstance(value, str):
        return None
    return value if len(value) <= _MOST_TEXT else value[: _MOST_TEXT - 1] + "…"


async def _copied(
    service: Service, comparison_id: str, rows: Sequence[Row], tasks: dict[str, Task]
) -> tuple[Row, ...]:
    """Return rows with copies of their pictures.

    Raises:
        InvalidRequest: There is no row with a choice, or a picture cannot be read.
    """
    cells = [cell for row in rows for cell in row.cells]
    artifacts = [None if cell.failed else _picture_of(tasks[cell.task_id]) for cell in cells]
    wanted = {
        cell.task_id: picture for cell, picture in zip(cells, artifacts, strict=True) if picture
    }
    if not any(_choices(row, wanted) > 1 for row in rows):
        why = next((cell.failed for cell in cells if cell.failed), "")
        raise InvalidRequest(f"in no row there is something of two models to look at: {why}")
    made = await copy_blind(service.objects, comparison_id, artifacts)
    pictures: dict[str, Picture | None] = {
        cell.task_id: picture for cell, picture in zip(cells, made, strict=True)
    }
    return tuple(
        msgspec.structs.replace(
            row,
            cells=tuple(
                msgspec.structs.replace(cell, picture=pictures[cell.task_id]) for cell in row.cells
            ),
        )
        for row in rows
    )


def _choices(row: Row, pictures: dict[str, Artifact]) -> int:
    return sum(cell.text is not None or cell.task_id in pictures for cell in row.cells)


async def _find(service: Service, call: Call) -> Comparison:
    """Return the comparison that a path names, if the caller may know of it."""
    comparison_id = call.params["id"]
    found = await service.registry.comparison(comparison_id)
    if found is None or not (found.is_shared or _is_own(call, found)):
        raise _unknown(comparison_id)
    return found


async def _find_own(service: Service, call: Call) -> Comparison:
    """Return the comparison that a path names, if the caller may change it."""
    found = await _find(service, call)
    if not _is_own(call, found):
        raise Forbidden("only the key that made a comparison, or an admin's, may do this")
    call.of_others = found.key_id != call.caller.id
    return found


def _is_own(call: Call, comparison: Comparison) -> bool:
    return comparison.key_id == call.caller.id or Scope.ADMIN in call.caller.scopes


def _unknown(comparison_id: str) -> NotFound:
    return NotFound(
        f"there is no comparison {comparison_id[:60]!r} that this key may see: "
        "GET /v1/comparisons lists them"
    )


def _wrong(pointer: str, detail: str) -> InvalidInput:
    where = FieldError(pointer=pointer, detail=detail, code="comparison")
    return InvalidInput(f"{pointer}: {detail}", errors=[where])


def _digest(permit: str) -> str:
    return hashlib.sha256(permit.encode()).hexdigest()
