"""Results of an attempt: files, warnings, errors and timings."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

#: Codes of errors that the input caused.
_INPUTS_FAULTS: Final = frozenset({"invalid_input", "rejected", "input_unavailable"})


class Artifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that a task produced."""

    #: In the object store.
    key: str
    #: Media type, such as `image/png`.
    content_type: str
    #: Size of the file.
    bytes: int
    #: Size of a picture, in pixels.
    width: int | None = None
    height: int | None = None


class TaskWarning(msgspec.Struct, frozen=True, kw_only=True):
    """A warning of a model about a task that succeeds, such as an unknown word."""

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
    """Time of an attempt by phase, in seconds. `queue_s` covers everything before the last attempt.

    `device_s` is the attempt's share of the device: less than `run_s` if it shared a batch. None if
    it equals `run_s`, or if the worker does not report it. `paid_micros` is the amount that the
    attempt has paid to others, such as an API, in millionths of a dollar. `cost_micros` adds the
    price of its share of the device, if the pool has a price; the backend sets it.

    For a pipeline they are sums over the last attempts of its stages, and `queue_s` is the time in
    the queues of its stages.
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
    """Whether the input caused an error, which any worker and version would repeat."""
    return error.code in _INPUTS_FAULTS
