"""How much of whom waits."""

__all__ = ["Line"]


class Line:
    """The ready tasks of one key in one queue and band."""

    __slots__ = ("n", "samples")

    def __init__(self, n: int = 0, samples: int = 0) -> None:
        self.n = n
        self.samples = samples

    def add(self, n: int, samples: int) -> None:
        """Count so many more, or less."""
        self.n += n
        self.samples += samples
