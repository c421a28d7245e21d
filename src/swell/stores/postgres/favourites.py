"""What people like best, over PostgreSQL."""

from collections.abc import Sequence

from swell.favourites import Favourite, Viewer
from swell.stores.postgres.database import PostgresDatabase


class PostgresFavourites:
    """The store's part about favourites."""

    _database: PostgresDatabase

    async def favour(self, favourite: Favourite) -> bool:
        return bool(await self._database.read("favour", *_row(favourite)))

    async def disfavour(self, favourite: Favourite) -> None:
        await self._database.read("disfavour", *_row(favourite))

    async def favourites(self, viewer: Viewer, task_ids: Sequence[str]) -> list[tuple[int, ...]]:
        found: dict[str, tuple[int, ...]] = {}
        for task_id, artifact in await self._database.read(
            "favourites", viewer.key_id, viewer.user, list(task_ids)
        ):
            found[task_id] = (*found.get(task_id, ()), artifact)
        return [found.get(task_id, ()) for task_id in task_ids]


def _row(favourite: Favourite) -> tuple[str, str, str, int]:
    viewer = favourite.viewer
    return viewer.key_id, viewer.user, favourite.task_id, favourite.artifact
