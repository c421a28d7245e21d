"""Group commit: actions that wait for the next transaction, and workers that wait for a task.

A caller passes an action and waits. All actions that arrived while the last transaction was being
written run in one transaction, and their callers return after its commit. So a commit costs the
same for one caller and for a thousand, and no caller waits for later ones.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, ClassVar, Final, TypeVar

import msgspec
import structlog

from swell.core.background_tasks import PAUSE_S
from swell.core.clock import Clock
from swell.core.errors import SwellError, Unavailable
from swell.core.event_bus import PeerMessage
from swell.db.transaction import State

_log = structlog.get_logger("swell.database")

R = TypeVar("R")
Action = Callable[[Any], Awaitable[R]]

#: With more than this many actions waiting, a group waits for turns of the event loop that bring
#: more; at most this many.
CROWD: Final = 2
MAX_TURNS: Final = 8

#: How often a group runs again after a conflict; after that, each of its actions alone.
TRIES: Final = 8

CLOSING: Final = "the store is closing; try again when the backend is back"


class Write(msgspec.Struct, eq=False):
    """One action that waits for its commit."""

    action: Action[Any]
    done: "asyncio.Future[Any]"
    #: Tasks to load before it runs.
    wants: Sequence[str] = ()
    #: Queues that it leases from.
    queues: Sequence[str] = ()
    #: When this is done, an action of `write_when` is not run any more.
    until: "asyncio.Future[None] | None" = None
    #: Whether an action of `write_when` has found something, which is being written.
    is_served: bool = False
    result: Any = None
    #: Raised by the action, which has changed nothing then.
    error: SwellError | None = None

    @property
    def may_run(self) -> bool:
        """Whether an action of `write_when` still waits, and its caller waits for it."""
        # A wait that ended in this turn of the loop is not awake yet.
        has_ended = self.done.done() or (self.until is not None and self.until.done())
        return not self.is_served and not has_ended

    async def run(self, session: Any) -> None:
        """Run the action, and keep its result or its error."""
        if self.queues:
            await session.before_lease(self.queues, waits=self.until is not None)
        self.result = self.error = None
        try:
            self.result = await self.action(session)
        except SwellError as error:
            self.error = error
        if self.queues and not self.result:
            await session.after_empty_lease(self.queues)

    def end(self, error: BaseException | None = None) -> None:
        """Return the result to the caller, or raise an error there."""
        error = error or self.error
        if self.done.done():
            return
        if error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(error)


class GroupWriter:
    """Base of a database that commits in groups.

    If a group fails, each of its actions runs again alone, so only the actions at fault fail.
    """

    #: Errors of conflicts with other transactions.
    conflicts: ClassVar[tuple[type[Exception], ...]] = ()

    state: State

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        #: Sends messages to other backends of the database; None if there are none.
        self.broadcast: Callable[[Sequence[PeerMessage]], Awaitable[None]] | None = None
        self._pending: list[Write] = []
        #: Queue → actions of `write_when` that wait for its tasks, in order of arrival.
        self._waiting: dict[str, dict[Write, None]] = {}
        #: Groups to write again in parts, and whether they serve waiting actions.
        self._again: list[tuple[list[Write], bool]] = []
        #: Whether the database refused the last transaction that wrote something.
        self._was_refused = False
        #: Whether actions of `write_when` must run although nothing new was written.
        self._must_serve = False
        self._has_ended_waits = False
        self._is_closing = False
        #: Writes groups for as long as there are any.
        self._writing: asyncio.Task[None] | None = None

    async def write(
        self, action: Action[R], *, wants: Sequence[str] = (), queues: Sequence[str] = ()
    ) -> R:
        """Run `action` in the next transaction and return its result once that is durable.

        Args:
            action: May run several times, so it must change nothing but the session. If it raises,
                it must have changed nothing in that.
            wants: Tasks that it reads.
            queues: Queues that it leases from. It runs after the others of its group, and sees
                their changes.

        Raises:
            SwellError: The error of the action, or `Unavailable` if the database cannot write. On
                PostgreSQL the action may have been written then.
        """
        if self._is_closing:
            raise Unavailable(CLOSING)
        done: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._pending.append(Write(action, done, wants, queues))
        self._write_soon()
        return await done

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
        if self._is_closing:
            raise Unavailable(CLOSING)
        if self._has_ended_waits:
            return None
        done: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        waiting = Write(action, done, queues=queues, until=until)

        def give_up(_: object) -> None:
            if not waiting.is_served:
                waiting.end()

        for queue in queues:
            self._waiting.setdefault(queue, {})[waiting] = None
        until.add_done_callback(give_up)
        if self.may_have_ready(queues):
            self._must_serve = True
            self._write_soon()
        try:
            return await done
        finally:
            until.remove_done_callback(give_up)
            for queue in queues:
                others = self._waiting.get(queue, {})
                others.pop(waiting, None)
                if not others:
                    self._waiting.pop(queue, None)

    def end_waits(self) -> None:
        """End all calls of `write_when`, including later ones, which return None."""
        self._has_ended_waits = True
        for write in self._unserved():
            write.end()

    def may_have_ready(self, queues: Sequence[str]) -> bool:
        """Whether a task is ready in one of these queues, or may be once writes have ended."""
        return self._writing is not None or not self.state.lines.keys().isdisjoint(queues)

    def note_ready(self, queues: Iterable[str]) -> None:
        """Look for the ready tasks that another backend left in these queues."""

    def _write_soon(self) -> None:
        """Start to write, unless that is under way.

        All other actions of this turn of the event loop share the first transaction.
        """
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(
                self._write_all(), name="swell-writer"
            )

    async def _write_all(self) -> None:
        """Write until no action waits."""
        try:
            while self._again or self._pending or self._must_serve:
                if self._again:
                    await self._write_group(*self._again.pop(0))
                else:
                    await self._write_group(await self._next_group())
        except Exception:
            _log.exception("database: the writer failed, retrying", after_s=PAUSE_S)
            asyncio.get_running_loop().call_later(PAUSE_S, self._write_soon)
        finally:
            self._writing = None

    async def _write_group(self, group: list[Write], serves: bool = True) -> None:
        """Write a group and what waiting actions find, and return the results to the callers."""
        for _ in range(TRIES):
            session: Any = None
            served: list[Write] = []
            try:
                session = await self._begin()
                await session.load({task_id for write in group for task_id in write.wants})
                for write in group:
                    await write.run(session)
                if serves and self._waiting:
                    await self._serve(session, served)
                await self._finish(session, served)
            except BaseException as error:
                if session is not None:
                    session.undo()
                    self._wait_again(served)
                    await self._roll_back(session, error)
                if isinstance(error, self.conflicts):
                    continue
                if not isinstance(error, Exception):
                    raise
                self._refuse(group, error, serves)
                return
            for write in group:
                write.end()
            if session.has_posted:
                self.state.wake_dispatcher()
            return
        contended = Unavailable("other backends keep changing the same tasks; try again")
        self._refuse(group, contended, serves)

    async def _serve(self, session: Any, served: list[Write]) -> None:
        """Run the actions that wait for a queue, for as long as a task may be ready in it.

        Args:
            session: The transaction.
            served: Receives the actions that found something.
        """
        lines, unsure = self.state.lines, self.state.unsure
        for queue in [each for each in self._waiting if each in lines or each in unsure]:
            for write in list(self._waiting.get(queue, ())):
                if queue not in lines and queue not in unsure:
                    break
                if not write.may_run:
                    continue
                await write.run(session)
                if write.result or write.error:
                    write.is_served = True
                    served.append(write)

    def _wait_again(self, served: list[Write]) -> None:
        """Let actions whose transaction failed wait on, unless their callers have stopped."""
        for write in served:
            write.is_served = False
            write.result = write.error = None
            if not write.may_run:
                write.end()

    def _unserved(self) -> set[Write]:
        waiting = {each for of_queue in self._waiting.values() for each in of_queue}
        return {write for write in waiting if not write.is_served}

    def _refuse(self, group: list[Write], error: Exception, serves: bool) -> None:
        """Write a group again in parts, or raise in its callers."""
        is_away = self._is_away(error)
        if not is_away and (len(group) > 1 or (group and serves and self._waiting)):
            # The database refused a row, or the group lost every conflict. Writing the actions one
            # by one shows which row it was; then the waiting actions run.
            self._again += [*(([write], False) for write in group), ([], True)]
            return
        refused = self._translated(error)
        for write in group:
            write.end(refused)
        if not (group or is_away or isinstance(refused, Unavailable)):
            for write in self._unserved():
                write.end(refused)

    async def _next_group(self) -> list[Write]:
        """Return the actions that wait for a transaction, those that lease last.

        While a crowd is arriving, it first reads more requests from the sockets.
        """
        gathered = CROWD
        for _ in range(MAX_TURNS):
            if len(self._pending) <= gathered:
                break
            gathered = len(self._pending)
            await asyncio.sleep(0)
        group, self._pending = self._pending, []
        self._must_serve = False
        leases = [write for write in group if write.queues]
        return [write for write in group if not write.queues] + leases

    # ---- different for each database

    async def _begin(self) -> Any:
        """Return the session of a new transaction."""
        raise NotImplementedError

    async def _finish(self, session: Any, served: list[Write]) -> None:
        """Write and commit; end the waiting actions that found something, which are `served`."""
        raise NotImplementedError

    async def _roll_back(self, session: Any, error: BaseException) -> None:
        raise NotImplementedError

    def _is_away(self, error: Exception) -> bool:
        """Whether nothing can be written now, whatever the action."""
        raise NotImplementedError

    def _translated(self, error: Exception) -> Exception:
        """Return the error for callers."""
        raise NotImplementedError
