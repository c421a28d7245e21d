"""What is told again, and must not count again."""

from collections.abc import Hashable

__all__ = ["Once"]


class Once:
    """Which of many things were there before; the newest are remembered.

    Args:
        most: At least so many of them, and at most twice as many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._new: set[Hashable] = set()
        self._old: set[Hashable] = set()

    def is_first(self, what: Hashable) -> bool:
        """Whether a thing was not there before; from now on it was."""
        if what in self._new or what in self._old:
            return False
        if len(self._new) >= self._most:
            self._old, self._new = self._new, set()
        self._new.add(what)
        return True
