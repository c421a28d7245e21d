"""Creation of comparisons from ended tasks."""

import hashlib
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from swell.api.blind import can_be_blind, copy_blind
from swell.api.call import Call, Reply
from swell.api.comparison_messages import ComparisonRequest, NewComparisonView
from swell.api.comparison_views import comparison_view
from swell.api.reading import Reader
from swell.api.route import Body, Response, route
from swell.api.service import Service
from swell.api.tasks import may_see
from swell.api.views import encode, project
from swell.comparisons import MOST_KEPT, MOST_LABEL, Cell, Comparison, Model, Picture, Row
from swell.errors import Conflict, FieldError, InvalidInput, InvalidRequest, NotFound
from swell.results import Timings
from swell.task import Artifact, Task, TaskState, is_id, new_id

#: Longer texts are cut, in characters: voters see them side by side.
_MOST_TEXT: Final = 20_000

#: All texts of a comparison, in bytes: it is read and written as a whole.
_MOST_TEXTS: Final = 1024 * 1024

#: Input fields that can be the label of a row, best first.
_LABELS: Final = ("prompt", "text", "title", "query")

_request = Reader(ComparisonRequest)
_random: Final = random.SystemRandom()


@route(
    "POST /v1/comparisons",
    "Comparisons",
    {201: Response("The comparison, blind", NewComparisonView)},
    body=Body(
        ComparisonRequest,
        example={"rows": [{"tasks": ["0197a1", "0197a2"]}], "name": "foxes"},
    ),
    errors=(NotFound, Conflict),
    audit="comparisons.create",
)
async def create_comparison(service: Service, call: Call) -> Reply:
    """Create a comparison.

    Takes ended tasks in rows: the same input and seed for two to four models. Copies the
    pictures without metadata and shuffles each row. A failed task leaves an empty place.
    """
    asked: ComparisonRequest = await _request.read_call(
        call, service.settings.server.max_body_bytes
    )
    columns = len(asked.rows[0].tasks)
    if any(len(row.tasks) != columns for row in asked.rows):
        raise wrong("/rows", f"every row has as many tasks as the first, {columns}")
    tasks = await _find_tasks(service, call, asked)
    models = await _models_of(service, tasks)
    now, permit = service.clock.now(), secrets.token_urlsafe(24)
    comparison_id = new_id(now)
    shuffled = [_random.sample(list(enumerate(row)), columns) for row in tasks]
    artifacts = {
        task.id: picture for row in shuffled for _, task in row if (picture := _picture_of(task))
    }
    pictures = await copy_blind(service.objects, service.lanes, comparison_id, artifacts)
    try:
        rows = tuple(
            _row_of(row, each.label, pictures)
            for row, each in zip(shuffled, asked.rows, strict=True)
        )
        _check_rows(rows)
        comparison = Comparison(
            id=comparison_id,
            name=asked.name or f"{columns} models, {len(rows)} row{'s' * (len(rows) > 1)}",
            created_at=now,
            key_id=call.caller.id,
            is_shared=asked.is_shared,
            permit=digest_of(permit),
            models=models,
            rows=rows,
        )
        if not await service.registry.put_comparison(comparison, MOST_KEPT):
            raise Conflict(
                f"this key keeps {MOST_KEPT} comparisons, and no more are kept of one: delete old "
                "ones (GET /v1/comparisons lists them, DELETE /v1/comparisons/{id} removes one "
                "with its votes)"
            )
    except BaseException:
        await service.objects.delete([each.key for each in pictures.values()])
        raise
    call.target = comparison.id
    view = comparison_view(comparison, [], service.urls(call), is_own=True)
    created = encode(NewComparisonView(comparison=view, permit=permit))
    return Reply(201, created, headers=[(b"cache-control", b"no-store")])


async def _find_tasks(service: Service, call: Call, asked: ComparisonRequest) -> list[list[Task]]:
    """Return the tasks of each row."""
    ids = [task_id for row in asked.rows for task_id in row.tasks]
    if len(set(ids)) != len(ids):
        raise wrong("/rows", "a task appears twice; each cell needs a different task")
    # Stores accept only well-formed ids.
    found = await service.store.get([each if is_id(each) else "0" * 32 for each in ids])
    tasks: dict[str, Task] = {}
    for task_id, task in zip(ids, found, strict=True):
        if task is None or not may_see(call, task):
            raise NotFound(f"there is no task {task_id[:60]!r}: name tasks of your own key")
        if not task.state.is_terminal:
            raise Conflict(f"task {task_id} is {task.state}: compare when all have ended")
        if task.outputs_removed or task.inputs_removed:
            raise Conflict(f"the data of task {task_id} was removed: run it again")
        tasks[task_id] = task
    return [[tasks[task_id] for task_id in row.tasks] for row in asked.rows]


async def _models_of(service: Service, rows: Sequence[Sequence[Task]]) -> tuple[Model, ...]:
    """Return the model of each column.

    Raises:
        InvalidInput: Several models made a column, or one made two.
    """
    columns: list[tuple[str, str]] = []
    for place, tasks in enumerate(zip(*rows, strict=True), 1):
        known = {(task.model, task.model_version) for task in tasks}
        # A task that no worker started has no version.
        made = {each for each in known if each[1]} or known
        if len(made) > 1 or len({model for model, _ in known}) > 1:
            names = ", ".join(sorted(f"{model}:{version}" for model, version in made))
            raise wrong(
                "/rows",
                f"the tasks at place {place} of the rows were run by {names}: name the "
                "version (owner/name:version), so that one model makes a column",
            )
        columns.append(made.pop())
    if len(set(columns)) != len(columns):
        raise wrong("/rows", "two columns were made by the same version of the same model")
    await service.cards.refresh()
    models = []
    for name, version in columns:
        card = service.cards.find(f"{name}:{version}")
        memory_bytes = 0 if card is None else card.memory_bytes
        models.append(Model(name=name, version=version, memory_bytes=memory_bytes))
    return tuple(models)


def _row_of(tasks: Sequence[tuple[int, Task]], label: str, pictures: Mapping[str, Picture]) -> Row:
    """Return the results of tasks, each with the index of its model."""
    seeds = {task.seed for _, task in tasks}
    return Row(
        label=label or _label_of(dict(tasks)[0]),
        seed=seeds.pop() if len(seeds) == 1 else None,
        cells=tuple(_cell_of(model, task, pictures.get(task.id)) for model, task in tasks),
    )


def _label_of(task: Task) -> str:
    fields = msgspec.json.decode(task.input, type=dict[str, Any])
    texts = (fields[name] for name in _LABELS if isinstance(fields.get(name), str))
    return _cut(next(texts, None) or json.dumps(fields, ensure_ascii=False), MOST_LABEL)


def _cell_of(model: int, task: Task, picture: Picture | None) -> Cell:
    text = _text_of(task) if picture is None else None
    failed = ""
    if task.state is not TaskState.SUCCEEDED:
        failed = (task.error and (task.error.detail or task.error.title)) or str(task.state)
    elif picture is None and text is None:
        failed = "it made neither a picture nor a text"
    return project(
        Cell,
        task.timings or Timings(),
        model=model,
        task_id=task.id,
        picture=picture,
        text=text,
        failed=failed,
        images=len(task.artifacts),
    )


def _picture_of(task: Task) -> Artifact | None:
    if task.state is not TaskState.SUCCEEDED:
        return None
    return next((each for each in task.artifacts if can_be_blind(each)), None)


def _text_of(task: Task) -> str | None:
    """Return the output of a task, if it is only a text."""
    if task.state is not TaskState.SUCCEEDED or task.output is None or task.artifacts:
        return None
    value = msgspec.json.decode(task.output)
    return _cut(value, _MOST_TEXT) if isinstance(value, str) else None


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _check_rows(rows: Sequence[Row]) -> None:
    """Check that voters have a choice, and that the texts are not too long.

    Raises:
        InvalidRequest: No row has two results.
        InvalidInput: The texts are too long.
    """
    cells = [cell for row in rows for cell in row.cells]
    if not any(row.can_be_voted for row in rows):
        why = next((cell.failed for cell in cells if cell.failed), "")
        raise InvalidRequest(
            f"nothing to compare: no row has outputs from at least two models ({why})"
        )
    texts = [row.label for row in rows]
    texts += [text for cell in cells for text in (cell.text or "", cell.failed)]
    count = sum(len(text.encode()) for text in texts)
    if count > _MOST_TEXTS:
        raise wrong(
            "/rows",
            f"their texts have {count:,} bytes in all, and only up to {_MOST_TEXTS:,} are "
            "compared: make several comparisons of fewer rows",
        )


def wrong(pointer: str, detail: str) -> InvalidInput:
    """Return the error of a wrong value in a request."""
    field = FieldError(pointer=pointer, detail=detail, code="comparison")
    return InvalidInput(f"{pointer}: {detail}", errors=[field])


def digest_of(permit: str) -> str:
    """Return the SHA-256 of a permit, in hex."""
    return hashlib.sha256(permit.encode()).hexdigest()
