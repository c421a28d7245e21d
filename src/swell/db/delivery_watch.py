"""Which endpoints get deliveries from this process, and the dispatcher to wake."""

from collections.abc import Callable

from swell.core.outbox import Watch


class Posting:
    """The standing endpoints that this process knows, and the dispatcher that sends."""

    def __init__(self) -> None:
        self.watches: tuple[Watch, ...] = ()
        #: Wakes the dispatcher: deliveries were written.
        self.wake: Callable[[], None] = lambda: None
