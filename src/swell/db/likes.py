"""Which output files a user likes."""

from collections.abc import Sequence
from typing import Any

from swell.core.like import Favourite, Viewer
from swell.db.sql import Database, Transaction


class LikeRepository:
    """Likes of files. A task loses its likes with its outputs."""

    _db: Database

    async def favour(self, favourite: Favourite) -> bool:
        """Add a like. Idempotent. Return False if the task has no outputs."""

        async def action(tx: Transaction) -> bool:
            if not await tx.fetch("task_with_outputs", task_id=favourite.task_id):
                return False
            await tx.fetch("like", **_values(favourite))
            return True

        return await self._db.transaction(action)

    async def disfavour(self, favourite: Favourite) -> None:
        """Remove a like. Idempotent."""
        await self._db.execute("unlike", **_values(favourite))

    async def favourites(self, viewer: Viewer, task_ids: Sequence[str]) -> list[tuple[int, ...]]:
        """Return which files of each of these tasks a user likes, in order."""
        liked: dict[str, tuple[int, ...]] = {}
        values = {"key_id": viewer.key_id, "user": viewer.user, "ids": list(task_ids)}
        for row in await self._db.fetch("likes", **values):
            liked[row["task_id"]] = (*liked.get(row["task_id"], ()), row["artifact"])
        return [liked.get(task_id, ()) for task_id in task_ids]


def _values(like: Favourite) -> dict[str, Any]:
    viewer = {"key_id": like.viewer.key_id, "user": like.viewer.user}
    return {"task_id": like.task_id, "artifact": like.artifact, **viewer}
