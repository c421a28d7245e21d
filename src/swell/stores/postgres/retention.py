"""Removes parts of ended tasks, and files that nobody needs any more.

It goes past the writer: nobody else changes tasks that have ended but who repeats one, and he finds
that its edition has grown. That a file is used by nobody holds under the lock of its key until the
transaction ends.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from swell import task as life
from swell.store import Part
from swell.stores.postgres.rows import bare_columns, row_of, run_columns, warnings_columns
from swell.stores.postgres.session import lock_of
from swell.task import Task

#: Runs a named statement in the transaction.
Run = Callable[..., Awaitable[list[Any]]]


async def retire_uploads(run: Run, keys: Sequence[str]) -> int:
    """Discard those that no task uses; return how many."""
    await _lock(run, keys)
    return len(await _discard_uploads(run, keys))


async def remove(
    run: Run, task_ids: Sequence[str], part: Part | None, now: datetime
) -> tuple[int, list[str]]:
    """Remove a part of ended tasks; return how many there were, and the keys that are discarded.

    Args:
        run: In whose transaction.
        task_ids: In any order; unknown ones are passed over.
        part: None for inputs and outputs, while the task itself stays.
        now: When outputs that others use become files of their own.

    Raises:
        Conflict: One has not ended.
    """
    tasks = [row_of(record).task for record in await run("tasks_by_id_locked", sorted(task_ids))]
    asked = [] if part is Part.OUTPUTS else [task for task in tasks if not task.inputs_removed]
    given = [] if part is Part.INPUTS else [task for task in tasks if not task.outputs_removed]
    bare = _without(asked, given)
    used = [key for (key,) in await run("files_of", [task.id for task in asked])]
    made = [key for task in given for key in life.objects_of(task)]
    await _lock(run, {*used, *made})
    await run("forget_uses", [task.id for task in asked])
    if asked:
        await run("share_words")
        await run("forget_words", [task.id for task in asked])
    await run("drop_share_links", [task.id for task in given])
    await run("forget_likes", [task.id for task in given])
    discarded = await _discard_uploads(run, used)
    kept = {key for (key,) in await run("used_files", made)}
    await run("keep_uploads", sorted(kept), now)
    unused = [key for task in given for key in life.remains_of(task)]
    unused += [key for key in made if key not in kept]
    await run("discard", unused)
    if part is Part.TASK:
        await run("delete_tasks", [task.id for task in tasks])
        await run("forget_deliveries", [task.id for task in tasks])
    elif bare:
        await run("remove_parts", *bare_columns(bare))
        await run("save_warnings", *warnings_columns(bare))
        runs = [task for task in bare if task.run is not None]
        if runs:
            await run("save_runs", *run_columns(runs))
        await run("forget_answers", [task.id for task in bare])
    return len(tasks), discarded + unused


def _without(asked: Iterable[Task], given: Iterable[Task]) -> list[Task]:
    bare = {task.id: life.without(task, inputs=True) for task in asked}
    for task in given:
        bare[task.id] = life.without(bare.get(task.id, task), outputs=True)
    return list(bare.values())


async def _lock(run: Run, keys: Iterable[str]) -> None:
    await run("lock_keys", sorted(map(lock_of, set(keys))))


async def _discard_uploads(run: Run, keys: Sequence[str]) -> list[str]:
    discarded = [key for (key,) in await run("forget_unused_uploads", list(keys))]
    await run("discard", discarded)
    return discarded
