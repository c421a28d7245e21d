"""What one attempt gives: files, warnings, what went wrong, and where the time went."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

#: Codes of errors that are told of what was asked, and not of what ran it.
_INPUTS_FAULTS: Final = frozenset({"invalid_input", "rejected", "input_unavailable"})


class Artifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that a task brought forth."""

    #: Where it lies in the object store.
    key: str
    #: Media type, such as `image/png`.
    content_type: str
    #: Size of the file.
    bytes: int
    #: Size of a picture, in pixels.
    width: int | None = None
    height: int | None = None


class TaskWarning(msgspec.Struct, frozen=True, kw_only=True):
    """What a model says about a task that succeeds, such as a word that it does not know."""

    code: Annotated[
        str,
        Meta(max_length=40, pattern=r"^[a-z][a-z0-9_]*$", description="stable, to compare"),
    ]
    message: Annotated[str, Meta(max_length=300, description="one or two sentences for the user")]
    suggestions: Annotated[
        tuple[Annotated[str, Meta(max_length=100)], ...],
        Meta(max_length=6, description="prompts that work better; often empty"),
    ] = ()


#: One task keeps at most this many warnings.
MOST_WARNINGS: Final = 8


class TaskError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task failed."""

    #: Stable word to compare, such as `worker_lost`.
    code: str
    title: str
    detail: str


class Timings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the time went, in seconds. `queue_s` covers everything before the last attempt.

    `device_s` is the attempt's share of the device: with others beside it less than `run_s`. None
    where it is `run_s`, and of a worker that does not tell it. `paid_micros` is what the attempt
    has paid to others, such as an API, in millionths of a dollar. `cost_micros` is that and what
    its share of the device costs, where the pool has a price; the backend sets it, and shows it
    beside the timings.

    Of a pipeline's run they are the sums over the attempts by which its stages ended, and `queue_s`
    is what it waited in the queues of its stages.
    """

    queue_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0
    encode_s: float = 0.0
    upload_s: float = 0.0
    device_s: float | None = None
    cost_micros: int | None = None
    paid_micros: int = 0


def is_inputs_fault(error: TaskError) -> bool:
    """Whether an attempt failed for what it was asked, and would with any worker and version."""
    return error.code in _INPUTS_FAULTS
