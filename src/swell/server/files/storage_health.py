"""Whether the object store takes files. While it takes none, no task is handed out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from swell.core.errors import SwellError
from swell.objects.object_store import Objects

_log = structlog.get_logger("swell.api")

#: A check that takes longer counts as refused, in seconds.
_ANSWER_S: Final = 5.0


class Writable:
    """What the last check of the object store found.

    Args:
        objects: The store.
        changed: Called when the store begins to refuse files, and when it takes them again.
    """

    def __init__(self, objects: Objects, changed: Callable[[], None]) -> None:
        self._objects = objects
        self._changed = changed
        self._checking = asyncio.Lock()
        #: How many checks have begun.
        self._begun = 0
        #: Why the store takes no file; empty while it does.
        self.refusal = ""

    async def look(self) -> None:
        """Check the store, cheaply while it refuses nothing. Concurrent calls share a check."""
        begun = self._begun
        async with self._checking:
            if self._begun > begun:
                return
            objects = self._objects
            await self._try(objects.prove_writable if self.refusal else objects.check_writable)

    async def takes_files(self) -> bool:
        """Store a file as a check after the store has refused one; return whether it worked."""
        async with self._checking:
            if not self.refusal:
                await self._try(self._objects.prove_writable)
        return not self.refusal

    async def _try(self, check: Callable[[], Awaitable[None]]) -> None:
        refusal = ""
        self._begun += 1
        try:
            async with asyncio.timeout(_ANSWER_S):
                await check()
        except TimeoutError:
            refusal = f"the object store has not stored a file within {_ANSWER_S:.0f} s"
        except SwellError as error:
            refusal = error.detail
        before, self.refusal = self.refusal, refusal
        if refusal and not before:
            _log.warning("object store refuses files: no tasks are handed out", detail=refusal)
        elif before and not refusal:
            _log.info("object store takes files again: tasks are handed out")
        if bool(refusal) != bool(before):
            self._changed()
