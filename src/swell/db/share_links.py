"""Public links to the outputs of tasks."""

from msgspec.structs import asdict

from swell.core.share_link import ShareLink
from swell.db.sql import Database, Row, Transaction


class ShareLinkRepository:
    """At most one link for each task. A task loses its link with its outputs."""

    _db: Database

    async def share(self, link: ShareLink) -> ShareLink | None:
        """Add or change the link of a task, and return it; None if there are no outputs.

        An existing link keeps its token and `created_at`.
        """

        async def action(tx: Transaction) -> ShareLink | None:
            if not await tx.fetch("task_with_outputs", task_id=link.task_id):
                return None
            return _first(await tx.fetch("put_share_link", **asdict(link)))

        return await self._db.transaction(action)

    async def unshare(self, task_id: str) -> ShareLink | None:
        """Delete the link of a task, and return it."""
        return _first(await self._db.execute("drop_share_links", ids=[task_id]))

    async def share_link(self, token: str) -> ShareLink | None:
        """Return the link with this token, even if it has expired."""
        return _first(await self._links(token=token))

    async def share_link_of(self, task_id: str) -> ShareLink | None:
        """Return the link of a task."""
        return _first(await self._links(task_id=task_id))

    async def share_links(
        self, *, key_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[ShareLink]:
        """Return links, those of the newest tasks first.

        Args:
            key_id: Only those of this key's tasks.
            limit: At most this many.
            before: Only those of tasks with a smaller id.
        """
        rows = await self._links(key_id=key_id, before=before, limit=limit)
        return [ShareLink(**row) for row in rows]

    async def _links(self, limit: int = 1, **where: str | None) -> list[Row]:
        where = dict.fromkeys(("token", "task_id", "key_id", "before")) | where
        return await self._db.fetch("share_links", limit=limit, **where)


def _first(rows: list[Row]) -> ShareLink | None:
    return ShareLink(**rows[0]) if rows else None
