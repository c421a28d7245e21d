"""Creation of comparisons from ended tasks.

Pictures are copied without what could reveal the model: decoded, and encoded again without
metadata.
"""

import asyncio
import io
import json
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from PIL import Image, ImageOps

from swell.core.comparison import MOST_KEPT, MOST_LABEL, Cell, Comparison, Model, Picture, Row
from swell.core.errors import Conflict, InvalidRequest, NotFound
from swell.core.results import Timings
from swell.core.task import Artifact, Task, TaskState, is_id, new_id
from swell.server.auth import may_see
from swell.server.decoding import read_body
from swell.server.evals.comparison_routes import comparison_route, comparison_view, digest_of, wrong
from swell.server.evals.comparison_schemas import ComparisonRequest, NewComparisonView
from swell.server.files.file_routes import read_file
from swell.server.files.thumbnails import PICTURE_TYPES, opened_picture
from swell.server.request import Call, Reply
from swell.server.route import Body, Response
from swell.server.serializers import encode, project
from swell.server.service import Service

#: Longer texts are cut, in characters: voters see them side by side.
_MOST_TEXT: Final = 20_000

#: All texts of a comparison, in bytes: it is read and written as a whole.
_MOST_TEXTS: Final = 1024 * 1024

#: Input fields that can be the label of a row, best first.
_LABELS: Final = ("prompt", "text", "title", "query")

#: Limits of one picture; decoded, a pixel takes up to 16 bytes.
_MOST_PIXELS: Final = 20_000_000
_MOST_BYTES: Final = 64 * 1024 * 1024

#: No visible loss.
_QUALITY: Final = 95

_random: Final = random.SystemRandom()


@comparison_route(
    "POST /v1/comparisons",
    {201: Response("The comparison, blind", NewComparisonView)},
    body=Body(
        ComparisonRequest, example={"rows": [{"tasks": ["0197a1", "0197a2"]}], "name": "foxes"}
    ),
    errors=(NotFound, Conflict),
    audit="comparisons.create",
)
async def create_comparison(service: Service, call: Call) -> Reply:
    """Create a comparison.

    Takes ended tasks in rows: the same input and seed for two to four models. Copies the
    pictures without metadata and shuffles each row. A failed task leaves an empty place.
    """
    asked = await read_body(service, call, ComparisonRequest)
    columns = len(asked.rows[0].tasks)
    if any(len(row.tasks) != columns for row in asked.rows):
        raise wrong("/rows", f"every row has as many tasks as the first, {columns}")
    tasks = await _find_tasks(service, call, asked)
    models = await _models_of(service, tasks)
    now, permit = service.clock.now(), secrets.token_urlsafe(24)
    comparison_id = new_id(now)
    shuffled = [_random.sample(list(enumerate(row)), columns) for row in tasks]
    keys = {
        task.id: f"comparisons/{comparison_id}/{secrets.token_hex(16)}.webp"
        for row in tasks
        for task in row
        if _picture_of(task) is not None
    }
    try:
        # In the order that voters see: the times of the copies then reveal nothing.
        rows = tuple(
            [
                await _row_of(service, row, each.label, keys)
                for row, each in zip(shuffled, asked.rows, strict=True)
            ]
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
        await service.objects.delete(list(keys.values()))
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
        if task is None or not may_see(call, task.key_id):
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


async def _row_of(
    service: Service, tasks: Sequence[tuple[int, Task]], label: str, keys: Mapping[str, str]
) -> Row:
    """Return the results of tasks, each with the index of its model; copy their pictures."""
    seeds = {task.seed for _, task in tasks}
    return Row(
        label=label or _label_of(dict(tasks)[0]),
        seed=seeds.pop() if len(seeds) == 1 else None,
        cells=tuple([await _cell_of(service, model, task, keys) for model, task in tasks]),
    )


def _label_of(task: Task) -> str:
    fields = msgspec.json.decode(task.input, type=dict[str, Any])
    texts = (fields[name] for name in _LABELS if isinstance(fields.get(name), str))
    return _cut(next(texts, None) or json.dumps(fields, ensure_ascii=False), MOST_LABEL)


async def _cell_of(service: Service, model: int, task: Task, keys: Mapping[str, str]) -> Cell:
    artifact, picture, text, failed = _picture_of(task), None, None, ""
    if artifact is not None:
        picture = await _copy(service, artifact, keys[task.id])
    elif task.state is TaskState.SUCCEEDED:
        text = _text_of(task)
        failed = "it made neither a picture nor a text" if text is None else ""
    else:
        failed = (task.error and (task.error.detail or task.error.title)) or str(task.state)
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
    pictures = (each for each in task.artifacts if each.content_type in PICTURE_TYPES)
    return next(pictures, None) if task.state is TaskState.SUCCEEDED else None


def _text_of(task: Task) -> str | None:
    """Return the output of a task, if it is only a text."""
    if task.output is None or task.artifacts:
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


async def _copy(service: Service, artifact: Artifact, key: str) -> Picture:
    """Store a copy of a picture.

    Raises:
        InvalidRequest: The picture cannot be read, or is too large.
        NotFound: It was deleted.
    """
    if artifact.bytes > _MOST_BYTES:
        raise InvalidRequest(
            f"a picture has {artifact.bytes:,} bytes, and only up to {_MOST_BYTES:,} are compared"
        )
    async with service.lanes:
        data = await read_file(service.objects, artifact)
        bare, width, height = await asyncio.to_thread(_bare, data)
    await service.objects.put(key, bare, "image/webp")
    return Picture(key=key, content_type="image/webp", width=width, height=height)


def _bare(data: bytes) -> tuple[bytes, int, int]:
    """Return a picture as WebP without metadata, its width and its height."""
    encoded = io.BytesIO()
    with opened_picture(data, "compare smaller ones", _MOST_PIXELS) as picture:
        has_alpha = "A" in picture.getbands() or "transparency" in picture.info
        upright = ImageOps.exif_transpose(picture).convert("RGBA" if has_alpha else "RGB")
        # Pillow would write the metadata of the picture itself again.
        bare = Image.frombytes(upright.mode, upright.size, upright.tobytes())
        bare.save(encoded, "WEBP", quality=_QUALITY)
    return encoded.getvalue(), bare.width, bare.height
