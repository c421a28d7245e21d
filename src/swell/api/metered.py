"""Counts how long the calls of the backend's parts take, and which fail by a fault of the part."""

import dataclasses
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final

from swell.api.metrics import Metrics
from swell.api.settings import Backend
from swell.bus import MessageKind
from swell.clock import Clock
from swell.errors import Internal, SwellError

#: Calls that wait for something to happen: only their errors are counted.
_WAITING: Final = frozenset({"lease", "receive", "ended"})

#: Parts of the backend with counted calls.
_PARTS: Final = ("store", "broker", "objects", "registry", "outbox", "bus")


def metered(backend: Backend, metrics: Metrics) -> Backend:
    """Return the backend with parts that add their calls to these metrics."""
    parts = {name: getattr(backend, name) for name in _PARTS}
    counted: dict[str, Any] = {
        name: _Metered(name, part, metrics, backend.clock)
        for name, part in parts.items()
        if part is not None
    }
    return dataclasses.replace(backend, **counted)


class _Metered:
    """Delegates to a part, and counts the calls of its coroutines."""

    def __init__(self, name: str, part: object, metrics: Metrics, clock: Clock) -> None:
        self._name = name
        self._part = part
        self._metrics = metrics
        self._clock = clock
        for call, _ in inspect.getmembers(type(part), inspect.iscoroutinefunction):
            if not call.startswith("_"):
                setattr(self, call, self._counted(call))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def _counted(self, name: str) -> Callable[..., Awaitable[Any]]:
        metrics, clock = self._metrics, self._clock
        times = None if name in _WAITING else metrics.call(self._name, name)

        async def counted(*arguments: Any, **named: Any) -> Any:
            started_s = clock.monotonic_s()
            try:
                result = await getattr(self._part, name)(*arguments, **named)
            except Exception as error:
                self._count_error(name, error)
                raise
            finally:
                if times is not None:
                    times.observe(clock.monotonic_s() - started_s)
            if name == "receive":
                metrics.bus_gaps += sum(each.kind is MessageKind.MISSED for each in result)
            return result

        return counted

    def _count_error(self, name: str, error: Exception) -> None:
        """Count an error, unless the caller caused it."""
        code = Internal.code
        if isinstance(error, SwellError):
            if error.status < Internal.status:
                return
            code = error.code
        key = (self._name, name, code)
        self._metrics.call_errors[key] = self._metrics.call_errors.get(key, 0) + 1
