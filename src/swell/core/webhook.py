"""Webhooks of tasks: events and URLs. Pure.

A task may have its own webhook; standing webhooks for many tasks are in `outbox.py`.
"""

from typing import Final

import msgspec

#: A worker started the task; written in the transaction that starts it.
STARTED: Final = "started"
#: The task ended; written in the transaction that ends it.
ENDS: Final = ("succeeded", "failed", "canceled", "expired")
#: Events during the run. Their rate is limited, and they may get lost.
PASSING: Final = ("progress", "preview", "artifact")
#: All events.
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
    #: Scheme and host of this service as the caller uses it, for URLs in bodies; empty for the
    #: one of the settings.
    base: str = ""
