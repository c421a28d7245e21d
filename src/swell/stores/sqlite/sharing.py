"""Links to what came of tasks, over SQLite. They share the writer's commits."""

from typing import Any

from swell.sharing import ShareLink
from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.rows import micros, moment
from swell.stores.sqlite.session import Session

#: Larger than any id, since ids are made of 0-9 and a-f.
_AFTER_ALL = "~"


class SqliteSharing:
    """The store's part about links."""

    _database: SqliteDatabase

    async def share(self, link: ShareLink) -> ShareLink | None:
        def action(session: Session) -> ShareLink | None:
            task = session.get(link.task_id)
            if task is None or task.outputs_removed:
                return None
            session.run("put_share_link", _row(link))
            return _link(session.rows("share_link_of", (link.task_id,))[0])

        return await self._database.write(action)

    async def unshare(self, task_id: str) -> ShareLink | None:
        def action(session: Session) -> ShareLink | None:
            rows = session.rows("share_link_of", (task_id,))
            session.run("drop_share_link", (task_id,))
            return _link(rows[0]) if rows else None

        return await self._database.write(action)

    async def share_link(self, token: str) -> ShareLink | None:
        rows = self._database.read("share_link", (token,))
        return _link(rows[0]) if rows else None

    async def share_link_of(self, task_id: str) -> ShareLink | None:
        rows = self._database.read("share_link_of", (task_id,))
        return _link(rows[0]) if rows else None

    async def share_links(
        self, *, key_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[ShareLink]:
        query = "share_links" if key_id is None else "share_links_of_key"
        wanted = {"key_id": key_id, "before": before or _AFTER_ALL, "limit": limit}
        return [_link(row) for row in self._database.read(query, wanted)]


def _row(link: ShareLink) -> tuple[Any, ...]:
    return (
        link.task_id,
        link.key_id,
        link.token,
        micros(link.created_at),
        int(link.has_prompt),
        None if link.expires_at is None else micros(link.expires_at),
    )


def _link(row: tuple[Any, ...]) -> ShareLink:
    task_id, key_id, token, created_at, has_prompt, expires_at = row
    made_at = moment(created_at)
    assert made_at is not None, "the column is never null"
    return ShareLink(
        task_id=task_id,
        key_id=key_id,
        token=token,
        created_at=made_at,
        has_prompt=bool(has_prompt),
        expires_at=moment(expires_at),
    )
