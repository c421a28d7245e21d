"""Questions that a crowd asks at the same moment, answered once."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["Questions"]

K = TypeVar("K")
R = TypeVar("R")


class _GaveUp(Exception):
    """Whoever was looking for the answer does not want it any more."""


class Questions(Generic[K, R]):
    """Who asks what is being asked already gets that answer."""

    def __init__(self) -> None:
        self._asked: dict[K, asyncio.Future[R]] = {}

    async def ask(self, what: K, answer: Callable[[], Awaitable[R]]) -> R:
        """Return the answer, or raise what it raised.

        Args:
            what: Names the question.
            answer: Finds the answer. Whoever asks first runs it; if he gives up, another does.
        """
        while (asked := self._asked.get(what)) is not None:
            with contextlib.suppress(_GaveUp):
                return await asyncio.shield(asked)
        asked = self._asked[what] = asyncio.get_running_loop().create_future()
        try:
            found = await answer()
        except BaseException as error:
            asked.set_exception(error if isinstance(error, Exception) else _GaveUp())
            # Nobody else may have asked.
            asked.exception()
            raise
        else:
            asked.set_result(found)
            return found
        finally:
            if self._asked.get(what) is asked:
                del self._asked[what]

    def forget(self) -> None:
        """Have whoever asks from now on get an answer that is found from now on."""
        self._asked.clear()
