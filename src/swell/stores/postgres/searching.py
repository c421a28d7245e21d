"""Tasks found by words, over PostgreSQL: an index of their own, filled behind the tasks."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import msgspec

from swell import task as life
from swell.stores.postgres.database import PostgresDatabase
from swell.words import is_whole, key_word, task_words

#: A task may come to light so long after the moment that its id tells: clocks of backends differ,
#: and commits take their time.
_LATE: Final = timedelta(seconds=30)

#: So many in one transaction: who removes inputs waits for it.
_AT_ONCE: Final = 500


class PostgresSearching:
    """The store's part about words."""

    _database: PostgresDatabase

    async def keep_words(self, *, limit: int = 1000) -> int:
        kept = 0
        while kept < limit:
            some = min(_AT_ONCE, limit - kept)
            n = await self._keep(some)
            kept += n
            if n < some:
                break
        return kept

    async def _keep(self, limit: int) -> int:
        settled = life.id_before(self._database.clock.now() - _LATE)
        if not await self._database.read("without_words", 1):
            await self._database.read("move_words_mark", settled)
            return 0
        async with self._database.transaction() as run:
            await run("lock_words")
            rows = await run("without_words", limit)
            ids = [row[0] for row in rows]
            texts = [" ".join((key_word(key_id), *_words(text))) for _, key_id, text in rows]
            await run("put_words", ids, texts)
            # What comes to light late has an id that is not much older than now.
            mark = settled if len(rows) < limit else min(ids[-1], settled)
            await run("move_words_mark", mark)
        return len(rows)


def query_of(words: Sequence[str], key_id: str | None) -> str:
    """Return a `tsquery`: words are made of letters and digits, and need no escapes."""
    asked = [f"'{each}'" if is_whole(each) else f"'{each}':*" for each in words]
    return " & ".join([*([] if key_id is None else [f"'{key_word(key_id)}'"]), *asked])


def _words(text: str) -> tuple[str, ...]:
    return task_words(msgspec.Raw(text.encode()))
