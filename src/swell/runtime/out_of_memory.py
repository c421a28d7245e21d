"""Retries work that ran out of device memory, after unused memory was released."""

from collections.abc import Callable
from typing import TypeVar

from swell.runtime.model_residency import is_out_of_memory
from swell.sdk.step_model import StepModel

ResultT = TypeVar("ResultT")


def with_room(
    model: StepModel, make_room: Callable[[], bool], attempt: Callable[[], ResultT]
) -> ResultT:
    """Return the result of `attempt`; try it twice if `make_room` released memory in between.

    Raises:
        Exception: The attempt failed, or the second one did.
    """
    try:
        return attempt()
    except Exception as error:
        if not (is_out_of_memory(model, error) and make_room()):
            raise
    # Outside the handler the error is gone, with the tensors that its frames held.
    return attempt()
