"""Group commit: actions that wait for the next transaction, and workers that wait for a task.

A caller passes an action and waits. All actions that arrived while the last transaction was being
written run in one transaction, and their callers return after its commit. So a commit costs the
same for one caller and for a thousand, and no caller waits for later ones.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from swell.clock import Clock
from swell.db.posting import Posting
from swell.errors import Unavailable
from swell.stores.session import State

R = TypeVar("R")
Action = Callable[[Any], Awaitable[R]]

#: With more than this many actions waiting, a group waits for turns of the event loop that bring
#: more; at most this many.
CROWD: Final = 2
MAX_TURNS: Final = 8


class Write:
    """One action that waits for its commit."""

    def __init__(
        self,
        action: Action[Any],
        *,
        wants: Sequence[str] = (),
        is_late: bool = False,
        until: "asyncio.Future[None] | None" = None,
        queues: Sequence[str] = (),
    ) -> None:
        self.action = action
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.wants = wants
        self.is_late = is_late
        #: When this is done, an action of `write_when` is not run any more.
        self.until = until
        self.queues = queues
        #: Whether an action of `write_when` has found something, which is being written.
        self.is_served = False
        self.result: Any = None

    @property
    def is_given_up(self) -> bool:
        """Whether its caller does not wait any more."""
        return self.done.done() or (self.until is not None and self.until.done())

    def resolve(self, result: Any) -> None:
        """Return a result to the caller."""
        if not self.done.done():
            self.done.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Raise in the caller."""
        if not self.done.done():
            self.done.set_exception(error)


class GroupWriter:
    """Base of a database that commits in groups."""

    state: State

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._pending: list[Write] = []
        #: Queue → actions of `write_when` that wait for its tasks, in order of arrival.
        self._waiting: dict[str, dict[Write, None]] = {}
        #: Whether actions of `write_when` must run although nothing new was written.
        self._must_serve = False
        self._is_closing = False

    async def write(
        self, action: Action[R], *, wants: Sequence[str] = (), is_late: bool = False
    ) -> R:
        """Run `action` in the next transaction and return its result once that is durable.

        Args:
            action: May run several times, so it must change nothing but the session. If it raises,
                it must have changed nothing in that.
            wants: Tasks that it reads.
            is_late: Run after the others of its group, so that it sees their changes.

        Raises:
            SwellError: The error of the action, or `Unavailable` if the database cannot write. On
                PostgreSQL the action may have been written then.
        """
        self._check_open()
        write = Write(action, wants=wants, is_late=is_late)
        self._pending.append(write)
        self._write_soon()
        result: R = await write.done
        return result

    async def write_when(
        self, action: Action[R], until: "asyncio.Future[None]", *, queues: Sequence[str]
    ) -> R | None:
        """Run `action` when a task is ready in one of its queues, until it returns something true.

        Return that, or None if `until` is done first. The changes of other actions and those of
        this one are one commit: a task that arrives while a worker waits is accepted and started at
        once. On SQLite this returns before the commit (docs/decisions/0013).

        Args:
            action: As in `write`.
            until: Ends the wait. From then on the action is not run.
            queues: A transaction that ends without a ready task in any of these does not run it.
        """
        self._check_open()
        waiting = Write(action, until=until, queues=queues)

        def give_up(_: object) -> None:
            if not waiting.is_served:
                waiting.resolve(None)

        for queue in queues:
            self._waiting.setdefault(queue, {})[waiting] = None
        until.add_done_callback(give_up)
        if self._may_serve(queues):
            self._must_serve = True
            self._write_soon()
        try:
            result: R | None = await waiting.done
        finally:
            until.remove_done_callback(give_up)
            self._stop_waiting([waiting])
        return result

    @property
    def posting(self) -> Posting:
        """The endpoints for which this process writes webhook deliveries."""
        return self.state.posting

    def _check_open(self) -> None:
        if self._is_closing:
            raise Unavailable("the store is closing; try again when the backend is back")

    def _stop_waiting(self, writes: Iterable[Write]) -> None:
        for write in writes:
            for queue in write.queues:
                waiting = self._waiting.get(queue, {})
                waiting.pop(write, None)
                if not waiting:
                    self._waiting.pop(queue, None)

    def _take_group(self) -> list[Write]:
        """Return the actions that wait for a transaction, late ones last."""
        group, self._pending = self._pending, []
        self._must_serve = False
        return sorted(group, key=lambda write: write.is_late)

    def _may_serve(self, queues: Sequence[str]) -> bool:
        """Whether a transaction may find a ready task in one of these queues."""
        return True

    def _write_soon(self) -> None:
        """Start the next transaction unless one is being prepared."""
        raise NotImplementedError
