"""What people like best, over SQLite. It shares the writer's commits."""

from collections.abc import Sequence

import msgspec

from swell.favourites import Favourite, Viewer
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session


class SqliteFavourites:
    """The store's part about favourites."""

    _database: SqliteDatabase

    async def favour(self, favourite: Favourite) -> bool:
        def action(session: Session) -> bool:
            task = session.get(favourite.task_id)
            if task is None or task.outputs_removed:
                return False
            session.run("favour", _row(favourite))
            return True

        return await self._database.write(action)

    async def disfavour(self, favourite: Favourite) -> None:
        def action(session: Session) -> None:
            session.run("disfavour", _row(favourite))

        await self._database.write(action)

    async def favourites(self, viewer: Viewer, task_ids: Sequence[str]) -> list[tuple[int, ...]]:
        ids = msgspec.json.encode(list(task_ids)).decode()
        found: dict[str, tuple[int, ...]] = {}
        for task_id, artifact in self._database.read(
            "favourites", (viewer.key_id, viewer.user, ids)
        ):
            found[task_id] = (*found.get(task_id, ()), artifact)
        return [found.get(task_id, ()) for task_id in task_ids]


def _row(favourite: Favourite) -> tuple[str, str, str, int]:
    viewer = favourite.viewer
    return viewer.key_id, viewer.user, favourite.task_id, favourite.artifact
