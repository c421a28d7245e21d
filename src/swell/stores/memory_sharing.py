"""Links to what came of tasks, in memory."""

import msgspec

from swell.sharing import ShareLink
from swell.task import Task


class MemorySharing:
    """The store's part about links."""

    _tasks: dict[str, Task]

    def __init__(self) -> None:
        super().__init__()
        self._links: dict[str, ShareLink] = {}

    async def share(self, link: ShareLink) -> ShareLink | None:
        task = self._tasks.get(link.task_id)
        if task is None or task.outputs_removed:
            return None
        known = self._links.get(link.task_id)
        if known is not None:
            link = msgspec.structs.replace(
                link, token=known.token, created_at=known.created_at, key_id=known.key_id
            )
        self._links[link.task_id] = link
        return link

    async def unshare(self, task_id: str) -> ShareLink | None:
        return self._links.pop(task_id, None)

    async def share_link(self, token: str) -> ShareLink | None:
        return next((each for each in self._links.values() if each.token == token), None)

    async def share_link_of(self, task_id: str) -> ShareLink | None:
        return self._links.get(task_id)

    async def share_links(
        self, *, key_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[ShareLink]:
        newest_first = [self._links[task_id] for task_id in sorted(self._links, reverse=True)]
        found = [
            each
            for each in newest_first
            if key_id in (None, each.key_id) and (before is None or each.task_id < before)
        ]
        return found[:limit]
