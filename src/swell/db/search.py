"""The full-text index of task inputs: FTS5 on SQLite, `tsvector` on PostgreSQL.

Tasks are indexed after they are accepted, so that accepting them does not wait for it.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from swell.core.errors import InvalidRequest
from swell.core.search_words import key_word, task_words
from swell.core.store_types import Page, TaskFilter
from swell.core.task import Task, id_before, is_id, span_of_ids
from swell.db.sql import Database, Transaction

#: A task may become visible this long after the time in its id: the clocks of backends differ, and
#: commits take time.
_LATE: Final = timedelta(seconds=30)

#: Tasks indexed in one transaction.
_BATCH: Final = 100


#: Dialect → a whole word, a prefix, and a conjunction. Words are ASCII letters, digits and `=`, and
#: need no escapes.
_SYNTAX: Final = {
    "sqlite": ('"{}"', '"{}" *', " AND "),
    "postgres": ("'{}'", "'{}':*", " & "),
}


class SearchRepository:
    """Lists of tasks, and an index of their words. A task loses its words with its inputs."""

    _db: Database

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        """Return tasks, None for unknown ids."""
        raise NotImplementedError

    async def page(self, where: TaskFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Return a page of tasks, newest first.

        Raises:
            InvalidRequest: The cursor was not made by this method.
        """
        if cursor is not None and not is_id(cursor):
            raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
        after, before = span_of_ids(where.since, where.until)
        rows = await self._db.scan(
            "page_ids_found" if where.words else "page_ids",
            **msgspec.structs.asdict(where),
            before=before if cursor is None else min(cursor, before),
            after=after,
            search=_search(self._db.dialect, where.words, where.key_id),
            liked_by_key=where.liked_by and where.liked_by.key_id,
            liked_by_user=where.liked_by and where.liked_by.user,
            is_dead=where.dead or None,
            is_not_dead=where.dead is False or None,
            limit=limit + 1,
        )
        ids = [row["id"] for row in rows[:limit]]
        tasks = await self.get(ids) if ids else []
        return Page(
            tasks=tuple(task for task in tasks if task is not None),
            cursor=ids[-1] if ids and len(rows) > limit else None,
        )

    async def keep_words(self, *, limit: int = 1000) -> int:
        """Index tasks that are not indexed yet, the oldest first; return how many.

        Fewer than `limit` means that none is left.
        """
        settled = id_before(self._db.clock.now() - _LATE)
        indexed = 0
        while indexed < limit:
            batch = min(_BATCH, limit - indexed)
            n = await self._index(batch, settled)
            indexed += n
            if n < batch:
                break
        return indexed

    async def _index(self, limit: int, settled: str) -> int:
        # Read first, without a transaction: usually all tasks are indexed.
        if not await self._db.fetch("without_words", limit=1):
            if await self._db.fetch("late_words_mark", settled=settled):
                await self._db.execute("move_words_mark", place=None, settled=settled)
            return 0

        async def action(tx: Transaction) -> int:
            await tx.lock("words", [""])
            tasks = await tx.fetch("without_words", limit=limit)
            rows = [
                {"place": row["place"], "words": _text(row["key_id"], row["input"])}
                for row in tasks
            ]
            if rows:
                await tx.fetch("put_words", rows=rows)
                await tx.fetch("move_words_mark", place=rows[-1]["place"], settled=settled)
            return len(rows)

        return await self._db.transaction(action)


def _search(dialect: str, words: Sequence[str], key_id: str | None) -> str:
    """Return a search for all of these words, in tasks of a key or of all keys.

    A word matches as a prefix, a single letter as a whole word.
    """
    whole, prefix, conjunction = _SYNTAX[dialect]
    parts = [] if key_id is None else [whole.format(key_word(key_id))]
    parts += [(whole if len(word) == 1 else prefix).format(_token(word)) for word in words]
    return conjunction.join(parts)


def _text(key_id: str, input_json: str) -> str:
    words = " ".join(task_words(msgspec.Raw(input_json.encode())))
    return f"{key_word(key_id)} {_token(words)}"


def _token(word: str) -> str:
    """Return words in ASCII. A prefix of a word stays a prefix of its token."""
    if word.isascii():
        return word
    return "".join(char if char.isascii() else f"={ord(char):06x}" for char in word)
