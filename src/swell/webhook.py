"""What a caller wants to be told of a task, and where. Pure.

A task may name a URL of its own (`Webhook`); besides, there are standing endpoints (`outbox.py`).
"""

from typing import Final

import msgspec

__all__ = ["ENDS", "EVENTS", "NATIVE", "PASSING", "STARTED", "Webhook"]

#: A worker took the task: told in the write that starts it.
STARTED: Final = "started"
#: How a task ends: told in the write that ends it.
ENDS: Final = ("succeeded", "failed", "canceled", "expired")
#: What passes by while it runs. It is told at most so often, and may get lost.
PASSING: Final = ("progress", "preview", "artifact")
#: All that can be told, as the events of a task are called.
EVENTS: Final = (STARTED, *PASSING, *ENDS)

#: The format of bodies that is Swell's own; façades have others.
NATIVE: Final = "native"


class Webhook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where one task's events are sent."""

    #: Checked when the task is accepted, and once more whenever something is sent.
    url: str
    #: Of `EVENTS`.
    events: tuple[str, ...] = ENDS
    #: How bodies are written: `native`, or the name of a façade.
    format: str = NATIVE
    #: Which of the key's signing secrets signs.
    secret: str = "default"
    #: Scheme and host by which the caller knows this service, for URLs in bodies; empty for the
    #: one of the settings.
    base: str = ""
