"""Raises the limit of open files."""

import contextlib
import os
import resource
from typing import Final

#: Left to whatever else this process opens meanwhile.
_OTHERS: Final = 64

#: More than any process of ours needs.
_MANY: Final = 1 << 20


def allow(count: int) -> None:
    """Have so many more files allowed, as far as the system lets this process say so.

    Programs are given few at first since `select` knows no more than 1,024; this raises the limit
    only where it would be reached.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_open_now() + count + _OTHERS, _limit(hard))
    if wanted > _limit(soft):
        # macOS allows fewer than it tells.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _limit(told: int) -> int:
    return _MANY if told == resource.RLIM_INFINITY else told


def _open_now() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return _OTHERS
