"""A link to what came of a task, which needs no key: whoever has it may look, until it ends."""

import secrets
from datetime import datetime

import msgspec


class ShareLink(msgspec.Struct, frozen=True, kw_only=True):
    """A task's link; a task has at most one."""

    task_id: str
    #: Of the key that the task belongs to.
    key_id: str
    #: What the link holds, and nobody guesses.
    token: str
    created_at: datetime
    #: Whether the prompt is shown too.
    has_prompt: bool = True
    #: It leads nowhere from then on; None for never.
    expires_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it still leads somewhere."""
        return self.expires_at is None or now < self.expires_at


def new_share_token() -> str:
    """Return 32 letters, digits, `-` and `_`: 192 random bits."""
    return secrets.token_urlsafe(24)
