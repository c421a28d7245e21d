"""How a comparison is made, of tasks that have ended: what each model drew, in an order by lot."""

import hashlib
import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from swell.adoption.compare import label_of, mixed
from swell.api.blind import can_be_blind, copy_blind
from swell.api.call import Call, Reply
from swell.api.comparison_messages import ComparisonRequest, NewComparisonView
from swell.api.comparison_views import comparison_view
from swell.api.reading import Reader
from swell.api.service import Service
from swell.api.views import encode
from swell.comparisons import MOST_KEPT, Cell, Comparison, Model, Picture, Row
from swell.errors import Conflict, FieldError, InvalidInput, InvalidRequest, NotFound
from swell.task import Artifact, Task, TaskState, is_id, new_id

#: Longer texts are cut: a sheet shows them side by side.
_MOST_TEXT: Final = 20_000

#: What all texts of a comparison take, in bytes: it is read and written whole.
_MOST_TEXTS: Final = 1024 * 1024

_request = Reader(ComparisonRequest)


async def create_comparison(service: Service, call: Call) -> Reply:
    """`POST /v1/comparisons`."""
    asked: ComparisonRequest = await _request.read_call(
        call, service.settings.server.max_body_bytes
    )
    columns = len(asked.rows[0].tasks)
    if any(len(row.tasks) != columns for row in asked.rows):
        raise wrong("/rows", f"every row has as many tasks as the first, {columns}")
    await _check_room(service, call)
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
    _check_texts(rows)
    copied = await _copied(service, comparison_id, rows, {task.id: task for task in tasks})
    comparison = Comparison(
        id=comparison_id,
        name=asked.name or f"{columns} models, {len(rows)} row{'s' * (len(rows) > 1)}",
        created_at=now,
        key_id=call.caller.id,
        is_shared=asked.is_shared,
        permit=digest_of(permit),
        models=models,
        rows=copied,
    )
    try:
        if not await service.registry.put_comparison(comparison, MOST_KEPT):
            raise _full()
    except BaseException:
        await service.objects.delete(comparison.object_keys)
        raise
    call.target = comparison.id
    view = comparison_view(comparison, [], service.urls(call), is_own=True)
    told = encode(NewComparisonView(comparison=view, permit=permit))
    return Reply(201, told, headers=[(b"cache-control", b"no-store")])


async def _check_room(service: Service, call: Call) -> None:
    """Check that a key may keep one more, before there is any work.

    Raises:
        Conflict: It may not.
    """
    if await service.registry.count_comparisons(call.caller.id) >= MOST_KEPT:
        raise _full()


def _full() -> Conflict:
    return Conflict(
        f"this key keeps {MOST_KEPT} comparisons, and no more are kept of one: delete old ones "
        "(GET /v1/comparisons lists them, DELETE /v1/comparisons/{id} removes one with its votes)"
    )


def _check_texts(rows: Sequence[Row]) -> None:
    """Check that texts leave a comparison small enough to be read at once.

    Raises:
        InvalidInput: They do not.
    """
    texts = [row.label for row in rows]
    texts += [text for row in rows for cell in row.cells for text in (cell.text or "", cell.failed)]
    count = sum(len(text.encode()) for text in texts)
    if count > _MOST_TEXTS:
        raise wrong(
            "/rows",
            f"their texts have {count:,} bytes in all, and only up to {_MOST_TEXTS:,} are "
            "compared: make several comparisons of fewer rows",
        )


async def _tasks_of(service: Service, call: Call, asked: ComparisonRequest) -> list[Task]:
    """Return the tasks of all rows, one row after the other."""
    ids = [task_id for row in asked.rows for task_id in row.tasks]
    if len(set(ids)) != len(ids):
        raise wrong("/rows", "a task appears twice; each cell needs a different task")
    found: list[Task] = []
    # What is no id is known to no store.
    there = await service.store.get([each if is_id(each) else "0" * 32 for each in ids])
    for task_id, task in zip(ids, there, strict=True):
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
            raise wrong(
                "/rows",
                f"the tasks at place {column + 1} of the rows were run by {names}: name the "
                "version (owner/name:version), so that one model makes a column",
            )
        refs.append(of_it.pop() if of_it else _ref(tasks[column]))
    if len(set(refs)) != columns:
        raise wrong("/rows", "two columns were made by the same version of the same model")
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
    made = await copy_blind(service.objects, service.lanes, comparison_id, artifacts)
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


def wrong(pointer: str, detail: str) -> InvalidInput:
    """Return what is wrong with a value, and where it stands."""
    where = FieldError(pointer=pointer, detail=detail, code="comparison")
    return InvalidInput(f"{pointer}: {detail}", errors=[where])


def digest_of(permit: str) -> str:
    """Return what is kept of a permit: SHA-256, in hex."""
    return hashlib.sha256(permit.encode()).hexdigest()
