"""Contract of the store: the truth about tasks.

A store keeps every task from the moment it is accepted, and is the only judge of who may change it.
Lists go in and lists come out; result k belongs to argument k.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import msgspec

from swell.errors import SwellError
from swell.favourites import Favourite, Viewer
from swell.sharing import ShareLink
from swell.task import NewTask, Settlement, Task, TaskState

#: Seconds for which an idempotency key stands for the same task.
IDEMPOTENCY_TTL_S = 24 * 3600.0


class Accepted(msgspec.Struct, frozen=True):
    """A task that is durable. `is_new` is false where an idempotency key found an earlier one."""

    task: Task
    is_new: bool


class Ended(list[Task | None]):
    """What became of tasks that were to be ended; None where that was not theirs to say.

    Args:
        tasks: In the order in which they were named.
        again: The places of those that had ended so before, and have not changed now.
    """

    def __init__(self, tasks: Iterable[Task | None] = (), again: Iterable[int] = ()) -> None:
        super().__init__(tasks)
        self.again = frozenset(again)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to start a queued task, by a broker that does not share the store's transaction."""

    task_id: str
    #: Where it is thought to wait: what is heard late of a pipeline starts no other stage.
    queue: str
    worker_id: str
    version: str
    token: str
    lease_s: float


class Onward(msgspec.Struct, frozen=True, kw_only=True):
    """Who goes on at once with what it settles, where that is a stage of a pipeline."""

    worker_id: str
    #: Queue → version of the model, for all that it serves.
    versions: dict[str, str]
    #: At most so many.
    n: int
    lease_s: float


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A lease as its holder names it."""

    task_id: str
    attempt: int
    token: str


class HoldState(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a lease: still held or not, and whether the holder should stop."""

    is_held: bool
    cancel_requested: bool = False


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks to list; None means any."""

    state: TaskState | None = None
    model: str | None = None
    user: str | None = None
    key_id: str | None = None
    dead: bool | None = None
    #: Only those of which this one likes something.
    liked_by: Viewer | None = None
    #: Only those whose input has, for each of these, a word that begins with it (a single letter
    #: must be the whole word), and whose words are kept by now (`Store.keep_words`); made by
    #: `swell.words.words_of`.
    words: tuple[str, ...] = ()
    #: Created at this moment or later, and before that one; to the millisecond.
    since: datetime | None = None
    until: datetime | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` asks for the next page and is None at the end."""

    tasks: tuple[Task, ...]
    cursor: str | None


class Part(StrEnum):
    """What may be removed of an ended task."""

    #: What was asked: input, metadata, and files that only this task used.
    INPUTS = "inputs"
    #: What came of it: output, artifacts and their files.
    OUTPUTS = "outputs"
    #: Everything, so that nobody knows of the task any more.
    TASK = "task"


class Expiry(msgspec.Struct, frozen=True, kw_only=True):
    """Which ended tasks lose a part."""

    part: Part
    #: Those that ended at this moment or before.
    before: datetime
    #: Of these models only; None for any.
    models: tuple[str, ...] | None = None
    #: But not of these.
    except_models: tuple[str, ...] = ()


class Store(Protocol):
    """Where tasks live.

    Guarantees:
        Durable: when a writing call returns, what it wrote survives the death of the process and of
        the machine.
        Atomic: a call writes all that it returns or, when it raises, nothing.
        Final: how a task has ended never changes again, whatever is called. Its data may be
            removed.
        Fenced: only the (attempt, token) of the current lease can settle or extend it.
        Any number of calls may run at the same time; they share commits.
    """

    async def accept(
        self, tasks: Sequence[NewTask], *, all_or_none: bool = True
    ) -> list[Accepted | SwellError]:
        """Make tasks durable and queued.

        The same `idempotency_key` of the same `key_id` within 24 h gives the earlier task; with
        another `fingerprint` it gives an `IdempotencyMismatch` in that task's place. With
        `all_or_none`, one error means that nothing of this call was written.
        """
        ...

    async def knows(self, key_id: str, idempotency_key: str) -> bool:
        """Whether `accept` would find an earlier task under this key: whatever else may speak
        against a new one, a repeat is not refused.
        """
        ...

    async def get(self, task_ids: Sequence[str]) -> list[Task | None]:
        """Return tasks as they are now, None for ids that are not known."""
        ...

    async def page(self, where: TaskFilter, *, limit: int = 50, cursor: str | None = None) -> Page:
        """Return a page of tasks, newest first.

        Raises:
            InvalidRequest: The cursor was not made by this method.
        """
        ...

    async def start(self, starts: Sequence[Start]) -> list[Task | None]:
        """Start queued, ready tasks; None where the task is not to be run (any more)."""
        ...

    async def settle(
        self, settlements: Sequence[Settlement], onward: Onward | None = None
    ) -> Ended:
        """End attempts.

        None where the caller does not hold the lease. Telling the same settlement again after it
        was written returns the task as it is now, and says so: an answer may get lost on the way.
        Of one attempt no two calls are told that it was theirs which ended it.

        A task whose pipeline has another stage goes on to that one's queue. Where `onward` serves
        it, and has room, it is started there in the same write, and comes back running.
        """
        ...

    async def extend(self, holds: Sequence[Hold], *, lease_s: float) -> list[HoldState]:
        """Let leases run for `lease_s` seconds from now."""
        ...

    async def cancel(self, task_ids: Sequence[str]) -> Ended:
        """Cancel tasks: queued ones end, running ones are marked, ended ones stay as they are.

        None for one that there is not. Of one task no two calls are told that it was theirs which
        ended it.
        """
        ...

    async def sweep(self, *, limit: int = 1000) -> list[Task]:
        """Do what time demands, to at most `limit` tasks, and return those that changed.

        Lost leases go back to the queue or to the dead letters, tasks past a deadline expire, tasks
        whose backoff is over become ready, old idempotency keys are forgotten.
        """
        ...

    async def cap_waits(self, *, lease_s: float, limit: int = 1000) -> int:
        """Shorten leases and backoffs that end too late because the clock was set back.

        One that ends later than twice its longest length from now is cut to that length. `sweep`
        ends it then.

        Args:
            lease_s: How long leases last, in seconds.
            limit: At most so many tasks.

        Returns:
            Of how many tasks; less than `limit` where none is left.
        """
        ...

    async def retry(
        self, task_id: str, *, key_id: str, only_dead: bool = False, new_id: str | None = None
    ) -> Accepted:
        """Repeat an ended task as a new one; the same task again if it was repeated before.

        The old task keeps its outcome and leaves the dead letters. With `only_dead` only a dead
        letter is repeated, or one that was and has left them by being repeated. A new task has the
        id `new_id`, from `swell.task.new_id`, where one is given.

        Raises:
            NotFound: No such task.
            Conflict: The task has not ended, or is no dead letter where only these are wanted.
        """
        ...

    async def count_open(self, key_ids: Sequence[str]) -> list[int]:
        """Return how many tasks of each key have not ended."""
        ...

    async def next_wake_at(self) -> datetime | None:
        """Return when `sweep` has something to do next, or None for never."""
        ...

    async def discarded(self, *, limit: int = 1000) -> list[str]:
        """Return keys of objects that no task needs any more, longest known first.

        One with a slash at its end stands for everything below it.

        What a change leaves without use (`swell.task.discarded`) is noted in the same write, and
        told by each call until it is forgotten.
        """
        ...

    async def forget_discarded(self, keys: Sequence[str]) -> None:
        """Tell these no more: the objects are gone. Unknown ones are ignored."""
        ...

    async def note_upload(self, key: str) -> None:
        """Note a file that a client has stored now, which no task uses yet. Idempotent.

        A task uses the files in `NewTask.files` from `accept` until its inputs are removed, and so
        does each that repeats it.
        """
        ...

    async def retire_uploads(self, before: datetime, *, limit: int = 1000) -> int:
        """Discard files noted at `before` or earlier that no task uses; return how many."""
        ...

    async def retire(self, expiry: Expiry, *, limit: int = 1000) -> int:
        """Remove a part of ended tasks that still have it, and return of how many.

        The keys of their files are noted as discarded in the same write. A file that another task
        uses stays until no task does. Tasks of the last 24 hours must not be removed as a whole,
        since their idempotency keys stand for them.
        """
        ...

    async def erase(self, task_id: str) -> list[str]:
        """Remove what was asked and what came of one ended task; return keys discarded by it.

        The task stays, without them. A second time there is nothing to remove.

        Raises:
            NotFound: No such task.
            Conflict: It has not ended.
        """
        ...

    async def share(self, link: ShareLink) -> ShareLink | None:
        """Make what came of a task public by a link, and return that.

        A task that has a link keeps its token and the moment when it was made; what else it says
        is changed. None, with nothing done, where the task is not known or its outputs were
        removed. With its outputs a task loses its link.
        """
        ...

    async def unshare(self, task_id: str) -> ShareLink | None:
        """Take a task's link back, and return it; None where there is none."""
        ...

    async def share_link(self, token: str) -> ShareLink | None:
        """Return the link with this token; None where there is none (any more).

        Whether its time is over is left to the caller.
        """
        ...

    async def share_link_of(self, task_id: str) -> ShareLink | None:
        """Return a task's link; None where there is none."""
        ...

    async def share_links(
        self, *, key_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[ShareLink]:
        """Return links, those of the newest tasks first.

        Args:
            key_id: Only those of this key's tasks; None for all.
            limit: At most so many.
            before: Only those of tasks with a smaller id.
        """
        ...

    async def favour(self, favourite: Favourite) -> bool:
        """Keep that somebody likes a file; again, it changes nothing.

        False, with nothing done, where the task is not known or its outputs were removed. With
        its outputs a task loses its favourites.
        """
        ...

    async def disfavour(self, favourite: Favourite) -> None:
        """Keep that no longer. What was never kept is ignored."""
        ...

    async def favourites(self, viewer: Viewer, task_ids: Sequence[str]) -> list[tuple[int, ...]]:
        """Return which files of each of these tasks somebody likes, in order."""
        ...

    async def keep_words(self, *, limit: int = 1000) -> int:
        """Keep the words of tasks that cannot be found by them yet, the oldest first.

        Accepting a task does not wait for that. With its inputs a task loses its words.

        Args:
            limit: Of at most so many.

        Returns:
            Of how many; less than `limit` where none is left.
        """
        ...

    async def clock_ahead_s(self) -> float | None:
        """Return by how many seconds the backend's clock is ahead of the database's, at least.

        0 where the clocks may agree, since the round trip takes time; None where the database has
        no clock of its own.

        Raises:
            Unavailable: The database does not answer.
        """
        ...

    async def check_writable(self) -> None:
        """Raise if writing fails. Cheap: only where the last write was refused, another is tried.

        Raises:
            Unavailable: The disk is full, cannot be written, or the like; the text says which.
        """
        ...

    async def close(self) -> None:
        """Finish what is being written and let go of everything."""
        ...
