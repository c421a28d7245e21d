"""Notifications between the backends of one database: queues with ready tasks that were left.

They have a connection of their own, since a commit with a notification waits for all other such
commits of the database. So a notification may be lost; backends also poll every second.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
import structlog

from swell.stores.postgres.session import QUERIES
from swell.task import new_token

_log = structlog.get_logger("swell.postgres")

_CHANNEL: Final = "swell_tasks"

#: Everybody says that he is there so often, and looks at queues where somebody waits, in seconds.
POLL_S: Final = 1.0

#: Who was not heard of for so long has gone, in seconds.
_FORGET_S: Final = 10.0

#: Notifications of one backend lie at least so far apart, in seconds.
_PAUSE_S: Final = 0.02

#: A word that takes longer has lost its server, in seconds.
_SAY_S: Final = 5.0

#: How long who stops tries to say what there is to say, in seconds.
_LAST_S: Final = 0.5

#: How long it takes to try again to reach the server, in seconds.
_RETRY_S: Final = 0.5

#: Bytes of a notification; PostgreSQL takes less than 8,000. What is longer is said in several.
_MAX_BYTES: Final = 7_000


class _Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """One notification: who says it, and in which queues something is ready."""

    who: str
    queues: list[str] = []


class Company:
    """The other backends.

    Args:
        connect: Opens a connection.
        told: Called with the queues in which other backends have left ready tasks.
        poll: Called every second, whatever becomes of the connection.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Any]],
        told: Callable[[list[str]], None],
        poll: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._told = told
        self._poll = poll
        self._name = new_token()
        self._loop = asyncio.get_running_loop()
        #: Backend → when it was last heard of.
        self._others: dict[str, float] = {}
        self._to_tell: set[str] = set()
        self._has_to_tell = asyncio.Event()
        #: Whether all that there was to tell was told.
        self._has_told = asyncio.Event()
        #: Whether it was tried to say something.
        self._has_spoken = asyncio.Event()
        self._running: list[asyncio.Task[None]] = []

    @property
    def is_there(self) -> bool:
        """Whether another backend was heard of lately, or could not have been."""
        if self._others:
            oldest = self._loop.time() - _FORGET_S
            self._others = {who: at for who, at in self._others.items() if at > oldest}
        return bool(self._others)

    def tell(self, queues: Iterable[str]) -> None:
        """Tell the others, soon, that something is ready."""
        self._to_tell.update(queues)
        if self._to_tell:
            self._has_told.clear()
            self._has_to_tell.set()

    def suppose(self) -> None:
        """Take it that there is somebody, until it is known."""
        self._others[""] = self._loop.time()

    async def start(self) -> None:
        """Begin to listen, and say so to the others."""
        self._running = [
            self._loop.create_task(self._listen(), name="swell-postgres-company"),
            self._loop.create_task(self._keep_polling(), name="swell-postgres-poll"),
        ]
        await self._has_spoken.wait()

    async def stop(self) -> None:
        """Tell what there is to tell, if that is soon done, and stop listening. Idempotent."""
        if self._running and self._to_tell:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_told.wait(), _LAST_S)
        running, self._running = self._running, []
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _keep_polling(self) -> None:
        while True:
            try:
                self._poll()
            except Exception:
                _log.exception("tasks that became ready elsewhere are not looked for now")
            await asyncio.sleep(POLL_S)

    async def _listen(self) -> None:
        while True:
            connection = None
            try:
                connection = await self._connect()
                await connection.add_listener(_CHANNEL, self._heard)
                await self._talk(connection)
            except Exception as error:
                _log.info("no word from other backends", reason=str(error) or repr(error))
                self.suppose()
            finally:
                self._has_spoken.set()
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(_RETRY_S)

    async def _talk(self, connection: Any) -> None:
        """Say what there is to say, until the connection is lost."""
        while True:
            await self._say(connection, _Word(self._name))
            ends_s = self._loop.time() + POLL_S
            while (left_s := ends_s - self._loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._has_to_tell.wait(), left_s)
                    await self._say_queues(connection)
                    await asyncio.sleep(_PAUSE_S)

    async def _say_queues(self, connection: Any) -> None:
        self._has_to_tell.clear()
        queues, self._to_tell = sorted(self._to_tell), set()
        try:
            for word in _words(self._name, queues):
                await self._say(connection, word)
        except BaseException:
            self.tell(queues)
            raise
        if not self._to_tell:
            self._has_told.set()

    async def _say(self, connection: Any, word: _Word) -> None:
        told = msgspec.json.encode(word).decode()
        await connection.execute(QUERIES["tell"], told, timeout=_SAY_S)
        self._has_spoken.set()

    def _heard(self, connection: Any, pid: int, channel: str, payload: str) -> None:
        try:
            word = msgspec.json.decode(payload, type=_Word)
        except msgspec.DecodeError:
            return
        if word.who == self._name:
            return
        if word.who not in self._others:
            # It may not have heard of this one.
            self._has_to_tell.set()
        self._others[word.who] = self._loop.time()
        if word.queues:
            self._told(word.queues)


def _words(who: str, queues: list[str]) -> list[_Word]:
    """Return notifications that name these queues; at least one."""
    parts: list[list[str]] = [[]]
    left = _MAX_BYTES
    for queue in queues:
        left -= len(queue) + 16
        if left < 0:
            parts.append([])
            left = _MAX_BYTES - len(queue) - 16
        parts[-1].append(queue)
    return [_Word(who, part) for part in parts]
