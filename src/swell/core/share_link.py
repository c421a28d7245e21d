"""Public links to the outputs of tasks."""

import secrets
from datetime import datetime

import msgspec


class ShareLink(msgspec.Struct, frozen=True, kw_only=True):
    """A task's link; a task has at most one."""

    task_id: str
    #: The API key of the task.
    key_id: str
    #: The secret part of the link.
    token: str
    created_at: datetime
    #: Whether the prompt is shown too.
    has_prompt: bool = True
    #: None for never.
    expires_at: datetime | None = None

    def is_good(self, now: datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


def new_share_token() -> str:
    """Return 32 letters, digits, `-` and `_`: 192 random bits."""
    return secrets.token_urlsafe(24)
