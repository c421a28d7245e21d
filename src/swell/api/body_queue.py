"""The large bodies of each key, one after another."""

import asyncio
from typing import Final

from swell.api.json_limits import check_values
from swell.errors import TooManyRequests

#: After a large body its key pauses: for some times as long as it takes to decode and check it.
_BYTES_PER_S: Final = 64 * 1024 * 1024
_VALUES_PER_S: Final = 200_000

#: Most bytes of a key that wait for their turn.
_MAX_WAITING_BYTES: Final = 256 * 1024 * 1024


class _Line:
    """The large bodies of one key."""

    __slots__ = ("free_at_s", "lock", "waiting_bytes")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        #: When the next body may be decoded, in the loop's seconds.
        self.free_at_s = 0.0
        self.waiting_bytes = 0


class BodyQueue:
    """Lets the large bodies of each key through one after another, with a pause after each.

    Decoding one blocks the event loop for tens of milliseconds.
    """

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def __len__(self) -> int:
        """Return how many keys have bodies that wait, or a pause."""
        return len(self._lines)

    async def take(self, key_id: str, data: bytes) -> None:
        """Wait for the turn of a body that is all there, and check it.

        Raises:
            TooLarge: As `check_values`.
            TooManyRequests: Too many bytes of the key wait already.
        """
        line = self._lines.setdefault(key_id, _Line())
        if line.waiting_bytes + len(data) > _MAX_WAITING_BYTES:
            raise TooManyRequests(
                "this key sends large bodies faster than they are read: send fewer at once, or "
                "upload files with POST /v1/uploads and name their URLs"
            )
        line.waiting_bytes += len(data)
        loop = asyncio.get_running_loop()
        try:
            async with line.lock:
                await asyncio.sleep(line.free_at_s - loop.time())
                pause_s = len(data) / _BYTES_PER_S
                try:
                    pause_s += check_values(data) / _VALUES_PER_S
                finally:
                    line.free_at_s = loop.time() + pause_s
                # Let other tasks run before the handler.
                await asyncio.sleep(0)
        finally:
            line.waiting_bytes -= len(data)
            loop.call_at(line.free_at_s, self._forget, key_id, line.free_at_s)

    def _forget(self, key_id: str, free_at_s: float) -> None:
        line = self._lines.get(key_id)
        if line is not None and not line.waiting_bytes and line.free_at_s == free_at_s:
            del self._lines[key_id]
