"""Links to what came of tasks, over PostgreSQL."""

from typing import Any

from swell.sharing import ShareLink
from swell.stores.postgres.database import PostgresDatabase

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"


class PostgresSharing:
    """The store's part about links."""

    _database: PostgresDatabase

    async def share(self, link: ShareLink) -> ShareLink | None:
        values = (link.task_id, link.key_id, link.token, link.created_at)
        return _first(
            await self._database.read("put_share_link", *values, link.has_prompt, link.expires_at)
        )

    async def unshare(self, task_id: str) -> ShareLink | None:
        return _first(await self._database.read("drop_share_links", [task_id]))

    async def share_link(self, token: str) -> ShareLink | None:
        return _first(await self._database.read("share_link", token))

    async def share_link_of(self, task_id: str) -> ShareLink | None:
        return _first(await self._database.read("share_link_of", task_id))

    async def share_links(
        self, *, key_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[ShareLink]:
        before = before or _AFTER_ALL
        if key_id is None:
            rows = await self._database.read("share_links", before, limit)
        else:
            rows = await self._database.read("share_links_of_key", key_id, before, limit)
        return [_link(row) for row in rows]


def _first(rows: list[Any]) -> ShareLink | None:
    return _link(rows[0]) if rows else None


def _link(row: Any) -> ShareLink:
    task_id, key_id, token, created_at, has_prompt, expires_at = row
    return ShareLink(
        task_id=task_id,
        key_id=key_id,
        token=token,
        created_at=created_at,
        has_prompt=has_prompt,
        expires_at=expires_at,
    )
