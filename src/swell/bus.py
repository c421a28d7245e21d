"""Contract of the bus: what happened, to whoever waits.

The bus is fast and forgetful. The store is the truth: a reader that missed something reads it
there.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from swell.events import Event, Lives


class NewsKind(StrEnum):
    """What backends tell each other, beside what they tell whoever listens to a task."""

    #: Told by the bus itself: something may have got lost on the way here, so what listeners wait
    #: for is to be read in the store, as is all else that was learnt from news.
    MISSED = "missed"
    #: Tasks have changed their state: `events` says how, and `lives` of those that began and ended
    #: since the last time.
    TASKS = "tasks"
    #: The running tasks in `ids` are to be stopped.
    STOP = "stop"
    #: Workers have registered, or are to drain.
    WORKERS = "workers"
    #: A key has changed.
    KEYS = "keys"
    #: Duties were given back, and whoever asks first has them.
    VACANT = "vacant"
    #: Files of running tasks may have been missed: workers are to tell once more which are there.
    FILES = "files"


class News(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that another backend tells."""

    kind: NewsKind
    ids: tuple[str, ...] = ()
    #: With their `brief`, and without their tasks.
    events: tuple[Event, ...] = ()
    lives: tuple[Lives, ...] = ()


class Subscription(Protocol):
    """Events of one task, in order of their ids.

    Guarantees:
        Ids only grow. A reader that is too slow loses the oldest progress and previews first, and
        neither artifacts nor the terminal event.
    """

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event; None after `timeout_s` seconds without one."""
        ...

    def close(self) -> None:
        """Stop listening. Idempotent."""
        ...


class Bus(Protocol):
    """Carries events from where they happen to where somebody waits.

    Guarantees:
        What is published here reaches the listeners of this process at once, whatever becomes of a
        server. What is published at one process reaches those of all others that are connected, in
        the order in which it was published; where something may have got lost, `news` says so.
        Progress and previews go to other processes only while somebody listens there.
        A file that is told again is remembered once, in the place of its id, and listeners that are
        past it do not hear of it again.
    """

    async def publish(self, events: Sequence[Event]) -> None:
        """Tell everybody who listens. Never waits for a reader."""
        ...

    def subscribe(self, task_id: str, *, after: int = -1) -> Subscription:
        """Listen to a task, from the first event remembered whose id is larger than `after`."""
        ...

    def remembered(self, task_id: str, *, after: int = -1) -> Sequence[Event]:
        """Return what of a task's events whose id is larger than `after` is remembered here.

        Of its artifacts all are, but for those that came before this process did.
        """
        ...

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks whose progress somebody listens to, so that it is worth telling.

        Whoever listens for the terminal event alone (`after=TERMINAL_ID - 1`) does not count. A bus
        that cannot know names all of them.
        """
        ...

    def listened(self) -> list[str]:
        """Return the tasks that somebody listens to in this process."""
        ...

    def correct(self, events: Sequence[Event]) -> None:
        """Tell listeners of this process alone what the store says, after something was missed."""
        ...

    async def tell(self, news: Sequence[News]) -> None:
        """Tell the other processes, if there are any. What cannot be sent is lost."""
        ...

    async def news(self) -> list[News]:
        """Wait for what other processes tell; empty once the bus is closed. For one caller.

        Changes of tasks are told here too, so that each process knows what all workers hold.
        """
        ...

    def end(self) -> None:
        """End all subscriptions, those to come as well, and `news`. What is published still goes
        to other processes. Idempotent.
        """
        ...

    async def close(self) -> None:
        """Send what is left, and end everything. Idempotent."""
        ...
