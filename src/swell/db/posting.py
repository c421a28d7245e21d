"""Whom the writers of one process tell of tasks, and who is woken when they have."""

from collections.abc import Callable, Sequence
from datetime import datetime

from swell.outbox import Delivery, Watch, deliveries_of, says_passing
from swell.task import Task


class Posting:
    """Standing endpoints as this process knows them, and whoever waits for deliveries."""

    __slots__ = ("_wake", "watches")

    def __init__(self) -> None:
        self.watches: tuple[Watch, ...] = ()
        self._wake: Callable[[], None] | None = None

    def watch(self, watches: Sequence[Watch]) -> None:
        self.watches = tuple(watches)

    def on_post(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def wake(self) -> None:
        """Tell that deliveries were written."""
        if self._wake is not None:
            self._wake()

    def deliveries(self, before: Task, after: Task, now: datetime) -> list[Delivery]:
        """Return what is to be delivered because a task has changed."""
        return deliveries_of(before, after, self.watches, now)

    def overtakes(self, task: Task) -> bool:
        """Whether something older may wait where a start or an end of this task is told."""
        return task.attempt > 1 or task.state.is_terminal

    def drops_passing(self, task: Task) -> bool:
        """Whether the end of a task makes something needless that passed by."""
        return task.state.is_terminal and says_passing(task, self.watches)
