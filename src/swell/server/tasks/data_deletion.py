"""Erasure of a task's input, output and files at its owner's request."""

import asyncio

from swell.core.errors import Conflict, NotFound, Unavailable
from swell.server.background_jobs import delete, discard
from swell.server.request import Call, Reply
from swell.server.route import Response, task_route
from swell.server.serializers import encode, task_view
from swell.server.service import Service
from swell.server.tasks.task_routes import find_task
from swell.server.tasks.task_schemas import TaskView


@task_route(
    "DELETE /v1/tasks/{id}",
    Response("The task without its data; all of its objects are deleted", TaskView),
    errors=(NotFound, Conflict, Unavailable),
    audit="tasks.erase",
)
async def erase(service: Service, call: Call) -> Reply:
    """Remove a task's data.

    Removes input, metadata, output and their files from an ended task, except uploads that
    another task uses. The task can still be listed, but not repeated. Repeating the request
    changes nothing.
    """
    task = await find_task(service, call)
    keys = await service.store.erase(task.id)
    await _delete(service, keys)
    (bare,) = await service.store.get([task.id])
    if bare is None:
        raise NotFound(f"task {task.id} is not kept any longer")
    return Reply(200, encode(task_view(bare, service.urls(call))))


async def _delete(service: Service, keys: list[str]) -> None:
    """Delete the objects of these keys, or of all that wait for it where none is given.

    Raises:
        Unavailable: A file still exists. It is deleted later; repeat the request to check.
    """
    if not keys:
        # A repeated request: files left by the first one must be gone too.
        while await discard(service):
            pass
        return
    await delete(service, keys)
    await asyncio.gather(*(_prove_gone(service, key) for key in keys))
    await service.store.forget_discarded(keys)


async def _prove_gone(service: Service, key: str) -> None:
    try:
        if not key.endswith("/"):
            await service.objects.head(key)
        elif not await service.objects.under(key.rstrip("/"), limit=1):
            return
    except NotFound:
        return
    detail = f"the object {key[:120]!r} is still there after it was deleted: ask again"
    raise Unavailable(detail, headers={"Retry-After": "2"})
