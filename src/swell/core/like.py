"""Likes of output files."""

import msgspec


class Viewer(msgspec.Struct, frozen=True):
    """A user who likes files.

    Args:
        key_id: The API key of the request.
        user: The user of that key; empty for the key itself.
    """

    key_id: str
    user: str = ""


class Favourite(msgspec.Struct, frozen=True):
    """One file of a task that a user likes.

    Args:
        viewer: The user.
        task_id: The task.
        artifact: Index of the file among its artifacts, from 0 on.
    """

    viewer: Viewer
    task_id: str
    artifact: int = 0
