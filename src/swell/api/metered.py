"""Contracts that count what they do: how long calls take, and which fail by their own fault."""

import dataclasses
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from swell.api.metrics import Histogram, Metrics
from swell.api.settings import Backend
from swell.broker import Broker
from swell.bus import Bus, MessageKind, PeerMessage
from swell.clock import Clock
from swell.db.deliveries import Outbox
from swell.db.registry import Registry
from swell.errors import Internal, SwellError
from swell.objects import Objects
from swell.store import Store

#: Calls that wait for something to happen: only their errors are counted.
_WAITING: Final = frozenset({"lease", "receive", "ended"})

Call = Callable[..., Awaitable[Any]]


def metered(backend: Backend, metrics: Metrics) -> Backend:
    """Return the backend with contracts that add to these numbers, and else are the same."""

    def counting(contract: str, adapter: object) -> Any:
        return _Metered(contract, adapter, metrics, backend.clock)

    return dataclasses.replace(
        backend,
        store=cast("Store", counting("store", backend.store)),
        broker=cast("Broker", counting("broker", backend.broker)),
        objects=cast("Objects", counting("objects", backend.objects)),
        registry=cast("Registry", counting("registry", backend.registry)),
        outbox=backend.outbox and cast("Outbox", counting("outbox", backend.outbox)),
        bus=cast("Bus", _MeteredBus(backend.bus, metrics, backend.clock)),
    )


class _Metered:
    """Stands for an adapter; what is no call of its contract is the adapter's own."""

    def __init__(self, contract: str, adapter: object, metrics: Metrics, clock: Clock) -> None:
        self._adapter = adapter
        for name in _calls(type(adapter)):  # type: ignore[arg-type]
            if not name.startswith("_"):
                times = None if name in _WAITING else metrics.call(contract, name)
                faults = _Faults(metrics, contract, name)
                setattr(self, name, _counted(adapter, name, times, faults, clock))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


@functools.cache
def _calls(kind: type) -> tuple[str, ...]:
    """Return the names of what can be awaited of an adapter of a class."""
    return tuple(name for name, _ in inspect.getmembers(kind, inspect.iscoroutinefunction))


class _MeteredBus(_Metered):
    """A bus that also counts the gaps in messages of other backends."""

    def __init__(self, bus: Bus, metrics: Metrics, clock: Clock) -> None:
        super().__init__("bus", bus, metrics, clock)
        # Each request that waits for a task calls it: without a look through `__getattr__`.
        self.subscribe = bus.subscribe
        receive: Callable[[], Awaitable[list[PeerMessage]]] = self.__dict__["receive"]

        async def counted() -> list[PeerMessage]:
            messages = await receive()
            metrics.bus_gaps += sum(each.kind is MessageKind.MISSED for each in messages)
            return messages

        self.receive = counted


class _Faults:
    """Counts the errors of one call that are the adapter's."""

    __slots__ = ("_contract", "_counts", "_name")

    def __init__(self, metrics: Metrics, contract: str, name: str) -> None:
        self._counts = metrics.call_errors
        self._contract, self._name = contract, name

    def add(self, error: Exception) -> None:
        if isinstance(error, SwellError):
            if error.status < Internal.status:
                return
            code = error.code
        else:
            code = Internal.code
        key = (self._contract, self._name, code)
        self._counts[key] = self._counts.get(key, 0) + 1


def _counted(
    adapter: object, name: str, times: Histogram | None, faults: _Faults, clock: Clock
) -> Call:
    monotonic_s = clock.monotonic_s

    async def counted(*arguments: Any, **named: Any) -> Any:
        started_s = monotonic_s()
        try:
            return await getattr(adapter, name)(*arguments, **named)
        except Exception as error:
            faults.add(error)
            raise
        finally:
            if times is not None:
                times.observe(monotonic_s() - started_s)

    return counted
