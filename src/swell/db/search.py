"""The full-text index of task inputs: FTS5 on SQLite, `tsvector` on PostgreSQL.

Tasks are indexed after they are accepted, so that accepting them does not wait for it.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from swell.db.sql import Database, Transaction
from swell.task import id_before
from swell.words import is_whole, key_word, task_words

#: A task may become visible this long after the time in its id: the clocks of backends differ, and
#: commits take time.
_LATE: Final = timedelta(seconds=30)

#: Tasks indexed in one transaction.
_BATCH: Final = 100


class SearchRepository:
    """An index of words. A task loses its words with its inputs."""

    _db: Database

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
        # Read first, without a transaction: usually there is nothing to do.
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


def fts5_query(words: Sequence[str], key_id: str | None) -> str:
    """Return a search for SQLite's FTS5."""
    return _query(words, key_id, '"{}"', '"{}" *', " AND ")


def tsquery(words: Sequence[str], key_id: str | None) -> str:
    """Return a search for PostgreSQL."""
    return _query(words, key_id, "'{}'", "'{}':*", " & ")


def _query(words: Sequence[str], key_id: str | None, whole: str, prefix: str, both: str) -> str:
    # Tokens are ASCII letters, digits and `=`, and need no escapes.
    parts = [] if key_id is None else [whole.format(key_word(key_id))]
    parts += [(whole if is_whole(each) else prefix).format(_token(each)) for each in words]
    return both.join(parts)


def _text(key_id: str, input_json: str) -> str:
    words = task_words(msgspec.Raw(input_json.encode()))
    return " ".join((key_word(key_id), *map(_token, words)))


def _token(word: str) -> str:
    """Return a word in ASCII. A prefix of a word stays a prefix of its token."""
    return "".join(char if char.isascii() else f"={ord(char):06x}" for char in word)
