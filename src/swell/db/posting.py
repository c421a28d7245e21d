"""Which endpoints get deliveries from this process, and the dispatcher to wake."""

from collections.abc import Callable, Sequence
from datetime import datetime

from swell.outbox import Delivery, Watch, deliveries_of, says_passing
from swell.task import Task


class Posting:
    """Standing endpoints as this process knows them, and the dispatcher that sends."""

    __slots__ = ("_wake", "watches")

    def __init__(self) -> None:
        self.watches: tuple[Watch, ...] = ()
        self._wake: Callable[[], None] | None = None

    def watch(self, watches: Sequence[Watch]) -> None:
        self.watches = tuple(watches)

    def on_post(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def wake(self) -> None:
        """Wake the dispatcher: deliveries were written."""
        if self._wake is not None:
            self._wake()

    def deliveries(self, before: Task, after: Task, now: datetime) -> list[Delivery]:
        """Return the deliveries that a change of a task causes."""
        return deliveries_of(before, after, self.watches, now)

    def overtakes(self, task: Task) -> bool:
        """Whether older deliveries may wait for a retry when this task starts or ends."""
        return task.attempt > 1 or task.state.is_terminal

    def drops_passing(self, task: Task) -> bool:
        """Whether the end of this task makes unsent progress and previews useless."""
        return task.state.is_terminal and says_passing(task, self.watches)
