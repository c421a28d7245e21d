"""What people like best of what was made for them."""

import msgspec


class Viewer(msgspec.Struct, frozen=True):
    """Who likes something.

    Args:
        key_id: The key by which they ask.
        user: On whose behalf the key says it; empty for the key itself.
    """

    key_id: str
    user: str = ""


class Favourite(msgspec.Struct, frozen=True):
    """One file of a task that somebody likes.

    Args:
        viewer: Who.
        task_id: Of the task.
        artifact: The place of the file among its artifacts, from 0 on.
    """

    viewer: Viewer
    task_id: str
    artifact: int = 0
