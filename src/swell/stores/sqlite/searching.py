"""Tasks found by words, over SQLite: an index of its own (FTS5), filled behind the tasks."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import msgspec

from swell.stores.sqlite.file import SqliteDatabase
from swell.stores.sqlite.session import Session
from swell.words import is_whole, key_word, task_words

#: So many in one commit: others wait for it.
_AT_ONCE: Final = 100


class SqliteSearching:
    """The store's part about words."""

    _database: SqliteDatabase

    async def keep_words(self, *, limit: int = 1000) -> int:
        kept = 0
        while kept < limit:
            some = min(_AT_ONCE, limit - kept)
            # Looked for beside the writer first: mostly there is nothing.
            if not self._database.read("without_words", (1,)):
                break
            n = await self._database.write(partial(_keep, limit=some))
            kept += n
            if n < some:
                break
        return kept


def match_of(words: Sequence[str], key_id: str | None) -> str:
    """Return what FTS5 is asked for: words are made of letters and digits, and need no escapes."""
    asked = [f'"{_token(each)}"' if is_whole(each) else f'"{_token(each)}" *' for each in words]
    return " AND ".join([*([] if key_id is None else [f'"{key_word(key_id)}"']), *asked])


def _token(word: str) -> str:
    """Return a word in ASCII, so that FTS5 need not know its signs; beginnings stay beginnings."""
    if word.isascii():
        return word
    return "".join(sign if sign.isascii() else f"={ord(sign):06x}" for sign in word)


def _keep(session: Session, *, limit: int) -> int:
    session.flush()
    rows = session.rows("without_words", (limit,))
    for seq, key_id, text in rows:
        words = task_words(msgspec.Raw(text.encode()))
        session.run("put_words", (seq, " ".join((key_word(key_id), *map(_token, words)))))
    if rows:
        session.run("move_words_mark", (rows[-1][0],))
    return len(rows)
