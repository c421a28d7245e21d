"""Large request bodies of each key are decoded one after another."""

import asyncio
from typing import Final

from swell.core.errors import TooManyRequests
from swell.server.request import check_values

#: After a large body its key pauses for a multiple of the time that decoding and checking takes.
_BYTES_PER_S: Final = 64 * 1024 * 1024
_VALUES_PER_S: Final = 200_000

#: The most waiting bytes of a key.
_MAX_WAITING_BYTES: Final = 256 * 1024 * 1024


class _Queue:
    """The large bodies of one key."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        #: When the next body may be decoded, in the loop's time.
        self.free_at_s = 0.0
        self.waiting_bytes = 0


class BodyQueue:
    """Decodes the large bodies of each key one after another, with a pause after each.

    Decoding one blocks the event loop for tens of milliseconds.
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}

    def __len__(self) -> int:
        """Return how many keys have waiting bodies or a pause."""
        return len(self._queues)

    async def take(self, key_id: str, data: bytes) -> None:
        """Wait until a complete body may be decoded, and check it.

        Raises:
            TooLarge: As `check_values`.
            TooManyRequests: Too many bytes of the key are waiting.
        """
        queue = self._queues.setdefault(key_id, _Queue())
        if queue.waiting_bytes + len(data) > _MAX_WAITING_BYTES:
            raise TooManyRequests(
                "this key sends large bodies faster than they are read: send fewer at once, or "
                "upload files with POST /v1/uploads and name their URLs"
            )
        queue.waiting_bytes += len(data)
        loop = asyncio.get_running_loop()
        try:
            async with queue.lock:
                await asyncio.sleep(queue.free_at_s - loop.time())
                pause_s = len(data) / _BYTES_PER_S
                try:
                    pause_s += check_values(data) / _VALUES_PER_S
                finally:
                    queue.free_at_s = loop.time() + pause_s
                # Let other requests run before the handler.
                await asyncio.sleep(0)
        finally:
            queue.waiting_bytes -= len(data)
            loop.call_at(queue.free_at_s, self._forget, key_id, queue.free_at_s)

    def _forget(self, key_id: str, free_at_s: float) -> None:
        queue = self._queues.get(key_id)
        if queue is not None and not queue.waiting_bytes and queue.free_at_s == free_at_s:
            del self._queues[key_id]
