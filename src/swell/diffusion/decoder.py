"""Decodes finished samples between two steps."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from swell.core.clock import Clock
from swell.diffusion.batch_buffers import SampleState
from swell.diffusion.device_models import DeviceModel, DeviceModels
from swell.diffusion.device_queue import Decoding, DeviceQueue
from swell.runtime.out_of_memory import with_room
from swell.sdk.context import Cancelled
from swell.sdk.step_model import NOT_FINITE, Mark, StepModel, whole

#: Finished samples that may wait for decoding; more if the latest step had more samples. Beyond
#: that they are decoded before the next step.
MOST_FINISHED: Final = 8

#: Several samples are decoded between two steps if all together take at most this share of a step,
#: and each takes less than a step's time per sample. Otherwise running samples lose more time than
#: finished ones gain.
DECODING: Final = 0.25


class Decoder:
    """Finished samples, oldest first.

    Args:
        clock: The clock.
        models: The models of the device.
        queue: The work of the device.
        bring: Brings a model to the device.
        ended: Called with each sample and its result or exception, before it leaves `waiting`.
    """

    def __init__(
        self,
        clock: Clock,
        models: DeviceModels,
        queue: DeviceQueue,
        *,
        bring: Callable[[DeviceModel], None],
        ended: Callable[[SampleState, Any], None],
    ) -> None:
        self._clock = clock
        self._models = models
        self._queue = queue
        self._bring = bring
        self._ended = ended
        self.waiting: deque[SampleState] = deque()

    def decode_some(self) -> None:
        """Decode one sample, and more if that takes little time or too many would wait."""
        begun_s, queued = self._clock.monotonic_s(), len(self._queue)
        together = self._queue.together
        for count in range(1, len(self.waiting) + 1):
            self._decode_first()
            if len(self.waiting) >= max(MOST_FINISHED, together):
                continue
            # The time that an asynchronous device takes is not known here.
            each_s = (self._clock.monotonic_s() - begun_s) / count
            is_slow = max(together, (count + 1) / DECODING) * each_s >= self._queue.step_s
            if len(self._queue) > queued or is_slow:
                break

    def decode_all(self) -> None:
        """Decode all samples."""
        while self.waiting:
            self._decode_first()

    def _decode_first(self) -> None:
        state = self.waiting[0]
        self._ended(state, self._decoded(state))
        self.waiting.popleft()
        # It may be kept for its checkpoint.
        state.part()
        self._models.evict_oldest(self._models.keys[state.key].owner)

    def _decoded(self, state: SampleState) -> Any:
        if state.item.cancelled:
            return Cancelled()
        owner = self._models.keys[state.key].owner
        try:
            self._bring(owner)
            begun_s = self._clock.monotonic_s()
            attempt = partial(_decode, owner.model, state)
            result, mark = with_room(owner.model, self._models.make_room, attempt)
        except Exception as error:
            return error
        if mark is None:
            state.device_s += self._clock.monotonic_s() - begun_s
        else:
            self._queue.add(Decoding(begun_s, mark, state, owner.model.name))
        return result


def _decode(model: StepModel, state: SampleState) -> tuple[Any, Mark | None]:
    is_finite = model.arrays.is_finite(state.x)
    result = model.decode(state.x, state.item)

    def finite() -> Any:
        if not is_finite():
            raise FloatingPointError(NOT_FINITE)
        return whole(result)

    mark = model.arrays.mark()
    if mark is not None:
        # Encoding waits for the device anyway, so check there.
        return finite, mark
    if not is_finite():
        raise FloatingPointError(NOT_FINITE)
    return result, None
