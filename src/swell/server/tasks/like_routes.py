"""Favourites: files of tasks that a key, or a user of it, marks as liked."""

from typing import Final

from swell.core.errors import Conflict, InvalidInput, NotFound
from swell.core.like import Favourite, Viewer
from swell.server.decoding import read_query
from swell.server.request import Call, Reply
from swell.server.route import Response, task_route
from swell.server.serializers import encode
from swell.server.service import Service
from swell.server.tasks.task_routes import find_task
from swell.server.tasks.task_schemas import FavouriteQuery, FavouritesView

_LIKED: Final = {200: Response("The viewer's favourites among its files", FavouritesView)}


@task_route(
    "PUT /v1/tasks/{id}/favourite",
    _LIKED,
    query=FavouriteQuery,
    errors=(NotFound, Conflict),
    audit="tasks.favour",
)
async def favour(service: Service, call: Call) -> Reply:
    """Add a favourite.

    For the key, or one of its users (`viewer`). `GET /v1/tasks` shows favourites, and lists
    only them with `favourite=true`.
    """
    favourite, n_files = await _read(service, call)
    # A task without files, such as a text, counts as one file.
    last = max(1, n_files) - 1
    if favourite.artifact > last:
        raise InvalidInput(f"artifact: the task has files 0 to {last}")
    if not await service.store.favour(favourite):
        raise Conflict("the outputs of this task were deleted, so it cannot become a favourite")
    return await _reply(service, favourite)


@task_route(
    "DELETE /v1/tasks/{id}/favourite",
    _LIKED,
    query=FavouriteQuery,
    errors=(NotFound,),
    audit="tasks.disfavour",
)
async def disfavour(service: Service, call: Call) -> Reply:
    """Remove a favourite."""
    favourite, _ = await _read(service, call)
    await service.store.disfavour(favourite)
    return await _reply(service, favourite)


async def _read(service: Service, call: Call) -> tuple[Favourite, int]:
    """Return the favourite that a request names, and the number of files of its task."""
    query = read_query(call, FavouriteQuery)
    task = await find_task(service, call)
    viewer = Viewer(call.caller.id, query.viewer or "")
    return Favourite(viewer, task.id, query.artifact), len(task.artifacts)


async def _reply(service: Service, favourite: Favourite) -> Reply:
    (liked,) = await service.store.favourites(favourite.viewer, [favourite.task_id])
    view = FavouritesView(task_id=favourite.task_id, favourites=list(liked))
    return Reply(200, encode(view))
