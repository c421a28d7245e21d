"""What people like best, in memory."""

from collections.abc import Sequence

from swell.favourites import Favourite, Viewer
from swell.task import Task


class MemoryFavourites:
    """The store's part about favourites."""

    _tasks: dict[str, Task]

    def __init__(self) -> None:
        super().__init__()
        self._favourites: set[Favourite] = set()

    async def favour(self, favourite: Favourite) -> bool:
        task = self._tasks.get(favourite.task_id)
        if task is None or task.outputs_removed:
            return False
        self._favourites.add(favourite)
        return True

    async def disfavour(self, favourite: Favourite) -> None:
        self._favourites.discard(favourite)

    async def favourites(self, viewer: Viewer, task_ids: Sequence[str]) -> list[tuple[int, ...]]:
        mine = [each for each in self._favourites if each.viewer == viewer]
        return [
            tuple(sorted(each.artifact for each in mine if each.task_id == task_id))
            for task_id in task_ids
        ]

    def _is_liked(self, task: Task, viewer: Viewer) -> bool:
        return any(each.task_id == task.id and each.viewer == viewer for each in self._favourites)

    def _forget_favourites(self, task_id: str) -> None:
        self._favourites = {each for each in self._favourites if each.task_id != task_id}
