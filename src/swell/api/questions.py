"""Questions that a crowd asks at the same moment, answered once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")

#: What was asked longer ago is asked anew, in seconds: the way that it went may be broken.
_FRESH_S: Final = 1.0


class _GaveUp(Exception):
    """Whoever was looking for the answer does not want it any more."""


class Questions(Generic[K, R]):
    """Who asks what is being asked already gets that answer, if it comes soon."""

    def __init__(self) -> None:
        #: Question → when it was asked last, by the clock of the loop, and the answer.
        self._asked: dict[K, tuple[float, asyncio.Future[R]]] = {}

    async def ask(self, what: K, answer: Callable[[], Awaitable[R]]) -> R:
        """Return the answer, or raise what it raised.

        Args:
            what: Names the question.
            answer: Finds the answer. Whoever asks first runs it; if he gives up, another does.
        """
        loop = asyncio.get_running_loop()
        while (known := self._asked.get(what)) is not None:
            asked_s, asked = known
            left_s = asked_s + _FRESH_S - loop.time()
            if left_s <= 0:
                break
            try:
                async with asyncio.timeout(left_s):
                    return await asyncio.shield(asked)
            except _GaveUp:
                continue
            except TimeoutError:
                if asked.done():
                    raise
        asked = loop.create_future()
        own = self._asked[what] = (loop.time(), asked)
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
            if self._asked.get(what) is own:
                del self._asked[what]

    def forget(self) -> None:
        """Have whoever asks from now on get an answer that is found from now on."""
        self._asked.clear()
