"""Contract of the bus: what happened, to whoever waits.

The bus is fast and forgetful. The store is the truth: a reader that missed something reads it
there.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from swell.events import Event

__all__ = ["Bus", "Subscription"]


class Subscription(Protocol):
    """Events of one task, in order of their ids.

    Guarantees:
        Ids only grow. A reader that is too slow loses the oldest progress and previews first, and
        never the terminal event.
    """

    async def next(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event; None after `timeout_s` seconds without one."""
        ...

    def close(self) -> None:
        """Stop listening. Idempotent."""
        ...


class Bus(Protocol):
    """Carries events from where they happen to where somebody waits."""

    async def publish(self, events: Sequence[Event]) -> None:
        """Tell everybody who listens. Never waits for a reader."""
        ...

    def subscribe(self, task_id: str, *, after: int = -1) -> Subscription:
        """Listen to a task, from the first event remembered whose id is larger than `after`."""
        ...

    def watched(self, task_ids: Iterable[str]) -> list[str]:
        """Return the tasks whose progress somebody listens to, so that it is worth telling.

        Whoever listens for the terminal event alone (`after=TERMINAL_ID - 1`) does not count. A bus
        that cannot know names all of them.
        """
        ...

    async def close(self) -> None:
        """End all subscriptions; their `next` returns None."""
        ...
