"""What a model gets with each sample: its input, its seed, and a way to report progress."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

from swell.core.results import TaskWarning
from swell.sdk.media import Attachment, File, Image

InputT = TypeVar("InputT")

#: As `TaskWarning.code`.
_WARNING_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Reject(Exception):
    """Raised or returned by a model for an input that no retry can help.

    The task fails at once with code `rejected`, and the user sees the text.
    """


class Cancelled(Exception):
    """Raised by `Context.check` once the task is cancelled."""


class Listener:
    """Receives what a model reports while it works; this one ignores everything."""

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` steps are finished."""

    def preview(self, make: Callable[[], Any]) -> None:
        """`make` returns a small picture; it is called only if a client wants one now."""

    def is_cancelled(self) -> bool:
        """Whether the model should stop the task."""
        return False

    def ready(self, index: int, file: Attachment) -> None:
        """A file of the result of sample `index` is complete, before the result is."""

    def paid(self, micros: int) -> None:
        """The model paid an external service, in millionths of a dollar."""

    def warn(self, warning: TaskWarning) -> None:
        """The task gets a warning."""


_NO_LISTENER: Final = Listener()


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """The task as a model sees it, apart from the input.

    Args:
        seed: Seed of this sample; always set, and recorded with the result.
        index: Index of the sample in its task, from 0.
        count: Number of samples of the task.
        listener: Receives progress and previews.
    """

    seed: int = 0
    index: int = 0
    count: int = 1
    listener: Listener = field(default=_NO_LISTENER, repr=False)

    def progress(self, done: int, total: int) -> None:
        """Report that `done` of `total` steps are finished. Cheap: call it at every step."""
        self.listener.progress(done, total)

    def preview(self, make: Callable[[], Any]) -> None:
        """Offer a preview. `make` returns an `Image` or a Pillow picture, and is called only if
        a client may see it: at most a few times a second, never for cancelled tasks.
        """
        self.listener.preview(make)

    def ready(self, file: Attachment) -> None:
        """Report that a file of this sample's result is complete, so that clients get it at once.

        For a result that is a list of files: report each when it is complete, and return all of
        them, the same objects in the same order.

        Args:
            file: An `Image` or a `File`; do not change it afterwards.

        Raises:
            TypeError: It is something else.
        """
        given: object = file
        if not isinstance(given, Image | File):
            kind = type(given).__name__
            raise TypeError(f"ready() was given {kind}: give it a swell.Image or a swell.File")
        self.listener.ready(self.index, file)

    def paid(self, micros: int) -> None:
        """Report each payment for this sample to an external service, such as an API.

        The task is charged this in addition to the device's time, even if the sample fails, if the
        model has a `price_micros`.

        Args:
            micros: In millionths of a dollar; >= 0.

        Raises:
            ValueError: It is below 0, or not a whole number.
        """
        given: object = micros
        if not isinstance(given, int) or given < 0:
            raise ValueError(f"paid({micros!r}): give it whole millionths of a dollar, 0 or more")
        self.listener.paid(micros)

    def warn(self, code: str, message: str, suggestions: Sequence[str] = ()) -> None:
        """Add a warning to the task: it succeeds, but the user should know something.

        The API lists warnings in `warnings` of the task, once each. A task keeps the first 8.

        Args:
            code: A stable word to compare, such as `unknown_subject`: at most 40 characters of
                `a-z`, `0-9` and `_`.
            message: One or two sentences for the user; cut after 300 characters.
            suggestions: Prompts that work better. The first 6 are kept, each cut after 100
                characters.

        Raises:
            ValueError: The code has another form.
        """
        if not _WARNING_CODE.fullmatch(code):
            raise ValueError(f"warn({code!r}): a code is a word such as 'unknown_subject'")
        hints = tuple(each[:100] for each in suggestions[:6])
        self.listener.warn(TaskWarning(code=code, message=message[:300], suggestions=hints))

    @property
    def cancelled(self) -> bool:
        """Whether the model should stop the task; check it at every step."""
        return self.listener.is_cancelled()

    def check(self) -> None:
        """Stop here if the task is cancelled.

        Raises:
            Cancelled: It is.
        """
        if self.listener.is_cancelled():
            raise Cancelled


@dataclass(slots=True, eq=False)
class Item(Context, Generic[InputT]):
    """One sample of one task, as a class model gets it."""

    input: InputT
    #: Anything that `StepModel.prepare` leaves for `decode`.
    kept: Any = field(default=None, init=False, repr=False)

    def of_pack(self, number: int, size: int) -> "Item[InputT]":
        """Return the item of one picture of a pack; see `StepModel.pack`.

        Args:
            number: Index of the picture, from 0.
            size: Number of pictures in the pack.
        """
        index = self.index * size + number
        seed = self.seed - self.index + index
        return replace(self, seed=seed, index=index, count=self.count * size)
