"""Reads current machine prices from the providers, and stores them as tariffs.

The leader reads them at intervals. Each change is a step of the pool's tariff
(`swell.core.billing.price_history`), which backends use for charges and the policy for its plan. If
a provider does not answer, its last price stays valid for a day; then the listed price applies. The
calls run in parallel to the control loop.
"""

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import structlog

from swell.autoscaler.pools import Pool
from swell.core.billing.price_book import LivePrice, MachinePrice, PriceBook, price_name
from swell.core.billing.price_history import TARIFFS, PoolTariff, Step, changed
from swell.core.clock import Clock
from swell.core.errors import SwellError
from swell.core.provider import Instance, InstanceState
from swell.db.registry import Registry
from swell.protocol.autoscaler_messages import read
from swell.settings.pool_prices import CLOUDS, machines_of, pool_price
from swell.settings.pool_settings import PoolTable

_log = structlog.get_logger("swell.autoscaler")

#: Timeout of a provider's answer, in seconds.
_ANSWER_S: Final = 60.0

#: Delay before a failed read is retried, in seconds; less if the next regular read is earlier.
_AGAIN_S: Final = 60.0

#: Validity of the last price of a provider that no longer answers.
_HOLDS: Final = timedelta(hours=24)

#: Time to keep the tariff of a removed pool.
_FORGOTTEN: Final = timedelta(days=7)

#: Number of machines, by machine type and location.
Standing = Mapping[tuple[str, str], int]


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """How to read the price of one pool."""

    #: Reads the prices from the provider.
    ask: Callable[[], Awaitable[Sequence[LivePrice]]]
    #: Returns the price of a worker, given the provider's prices and the running machines.
    price_of: Callable[[Sequence[LivePrice], Standing], MachinePrice | None]


#: Prices of a provider, or the reason of a failure.
_Answer = Sequence[LivePrice] | str


class LivePrices:
    """Tariffs of the pools.

    Args:
        registry: Stores the tariffs.
        clock: The clock.
        askings: How to read the prices, by pool; only pools with variable prices.
        usual: Price by settings or price list, by pool, if there is one.
        every_s: Interval between reads, in seconds.
    """

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        askings: Mapping[str, Asking],
        usual: Mapping[str, MachinePrice],
        every_s: float,
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._askings = askings
        self._usual = usual
        self._every_s = every_s
        self._tariffs: dict[str, PoolTariff] = {}
        self._is_unsaved = False
        self._next_s: float | None = None
        self._asked: asyncio.Task[dict[str, _Answer]] | None = None

    async def load(self) -> None:
        """Read the stored tariffs.

        Raises:
            SwellError: The registry cannot be read.
        """
        told = read(await self._registry.note(TARIFFS), dict[str, PoolTariff])
        self._tariffs, self._is_unsaved = told or {}, False
        self._next_s = None

    def priced(self, pool: Pool) -> Pool:
        """Return a pool with its current price, given its settings."""
        tariff = self._tariffs.get(pool.name)
        if tariff is None:
            return pool
        hour_micros = tariff.steps[-1].hour_micros if tariff.steps else pool.hour_micros
        if tariff.told_at is None:
            return dataclasses.replace(pool, hour_micros=hour_micros, price_note=tariff.note)
        return dataclasses.replace(
            pool,
            hour_micros=hour_micros,
            price_source=tariff.source,
            price_read_on=tariff.told_at.date(),
            price_told_at=tariff.told_at,
            price_note=tariff.note,
        )

    async def step(self, machines: Mapping[str, Sequence[Instance]]) -> None:
        """Store new prices, and start the next read if it is due.

        Args:
            machines: Listed machines, by pool.
        """
        now_s = self._clock.monotonic_s()
        if self._asked is not None and self._asked.done():
            answers, self._asked = self._asked.result(), None
            self._take(answers, machines)
            failed = any(isinstance(each, str) for each in answers.values())
            self._next_s = now_s + (min(_AGAIN_S, self._every_s) if failed else self._every_s)
        self._settle()
        if self._is_unsaved:
            with contextlib.suppress(SwellError):  # the next step retries the write
                await self._registry.put_note(TARIFFS, msgspec.json.encode(self._tariffs))
                self._is_unsaved = False
        if self._next_s is None:
            self._next_s = now_s + self._rest_s(self._clock.now())
        if self._askings and self._asked is None and now_s >= self._next_s:
            self._asked = asyncio.create_task(self._ask())

    async def answered(self) -> None:
        """Wait for the read in progress."""
        if self._asked is not None:
            await asyncio.wait([self._asked])

    async def close(self) -> None:
        """Cancel the read in progress."""
        if self._asked is not None:
            self._asked.cancel()
            await asyncio.gather(self._asked, return_exceptions=True)
            self._asked = None

    def _rest_s(self, now: datetime) -> float:
        """Return the time until the oldest price must be read again, in seconds."""
        ages = []
        for name in self._askings:
            tariff = self._tariffs.get(name)
            if tariff is None or tariff.told_at is None or tariff.note:
                return 0.0
            ages.append(max(0.0, (now - tariff.told_at).total_seconds()))
        return max(0.0, self._every_s - max(ages, default=0.0))

    async def _ask(self) -> dict[str, _Answer]:
        names = list(self._askings)
        told = await asyncio.gather(*(self._answer(name) for name in names))
        return dict(zip(names, told, strict=True))

    async def _answer(self, name: str) -> _Answer:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._askings[name].ask()
        except TimeoutError:
            return f"its cloud has not answered within {_ANSWER_S:.0f} s"
        except SwellError as error:
            return error.detail
        except Exception as error:
            _log.exception("prices cannot be asked for", pool=name)
            return repr(error)

    def _take(
        self, answers: Mapping[str, _Answer], machines: Mapping[str, Sequence[Instance]]
    ) -> None:
        now = self._clock.now()
        for name, answer in answers.items():
            before = self._tariffs.get(name, PoolTariff())
            price, why = None, "its cloud publishes no price for this machine type"
            if isinstance(answer, str):
                why = answer
            elif answer:
                price = self._askings[name].price_of(answer, standing(machines.get(name, ())))
            if price is not None:
                after = after_answer(before, price, now)
            else:
                after = after_silence(before, why, self._usual.get(name), now)
            if after.note and after.note != before.note:
                _log.warning("no live price", pool=name, detail=after.note)
            if _told(before) != _told(after):
                _log.info("a price has changed", pool=name, hour_micros=_told(after))
            if after != before:
                self._tariffs[name], self._is_unsaved = after, True

    def _settle(self) -> None:
        """Replace stored prices of pools with a fixed price in the settings."""
        now = self._clock.now()
        for name, tariff in list(self._tariffs.items()):
            if name in self._askings or not tariff.steps:
                continue
            usual = self._usual.get(name)
            if usual is not None:
                steps = changed(tariff.steps, now, usual.hour_micros)
                after = PoolTariff(steps=steps)
                if after != tariff:
                    self._tariffs[name], self._is_unsaved = after, True
            elif now - tariff.steps[-1].at > _FORGOTTEN:
                del self._tariffs[name]
                self._is_unsaved = True


def _told(tariff: PoolTariff) -> int | None:
    return tariff.steps[-1].hour_micros if tariff.steps else None


def after_answer(before: PoolTariff, price: MachinePrice, now: datetime) -> PoolTariff:
    """Return the tariff after an answer of the provider. Pure."""
    return PoolTariff(
        steps=changed(before.steps, now, price.hour_micros), source=price.source, told_at=now
    )


def after_silence(
    before: PoolTariff, why: str, usual: MachinePrice | None, now: datetime
) -> PoolTariff:
    """Return the tariff after a failed read. Pure.

    Args:
        before: The stored tariff.
        why: Reason of the failure.
        usual: Listed price, which applies after a day; None to keep the last price.
        now: The time.
    """
    at = before.told_at
    if at is not None and (usual is None or now - at <= _HOLDS):
        note = f"last reported {at:%Y-%m-%d %H:%M} UTC: {why}"
        return msgspec.structs.replace(before, note=note)
    note = f"as listed, since no live price is known: {why}"
    steps: Sequence[Step] = before.steps
    if steps and usual is not None:
        steps = changed(steps, now, usual.hour_micros)
    return PoolTariff(steps=steps, note=note)


def standing(machines: Iterable[Instance]) -> Counter[tuple[str, str]]:
    """Count the running machines by type and location. Pure."""
    return Counter(
        (each.kind, each.location)
        for each in machines
        if each.kind and each.state is not InstanceState.ENDED
    )


def may_change(table: PoolTable, book: PriceBook) -> bool:
    """Return whether the provider reports prices for a pool."""
    cloud = CLOUDS.get(table.provider)
    if table.hour_micros is not None or cloud is None or not cloud.quotes:
        return False
    if table.provider == "aws" and not table.is_spot:
        return False
    return any(book.own_name(each) is None for each in machines_of(table))


def live_price(
    name: str,
    table: PoolTable,
    book: PriceBook,
    quotes: Sequence[LivePrice],
    standing: Standing,
) -> MachinePrice | None:
    """Return the hourly price of a pool's worker by its provider's prices; None without any.

    Args:
        name: Name of the pool.
        table: Its settings.
        book: All other prices.
        quotes: Prices by machine type and location.
        standing: Number of the pool's machines, by machine type and location.
    """
    machines, prices = {each.kind: each for each in machines_of(table)}, []
    for quote in (each for each in quotes if each.kind in machines):
        machine = machines[quote.kind]
        places = (quote.place, *machine.places)
        micros = book.live_micros(machine._replace(places=places), quote.hour_micros)
        if micros is not None:
            prices.append(quote._replace(hour_micros=micros))
    if not prices:
        return None
    running = [(_price_of(prices, *where), n) for where, n in standing.items()]
    known = [(price, n) for price, n in running if price is not None]
    if known:
        total = sum(price.hour_micros * n for price, n in known)
        mean = round(total / sum(n for _, n in known))
        return MachinePrice(mean, _source(table, list(dict.fromkeys(price for price, _ in known))))
    highest = max(prices, key=lambda price: price.hour_micros)
    listed = pool_price(name, table, book, without={price.kind for price in prices})
    if listed is not None and listed.hour_micros > highest.hour_micros:
        return listed
    return MachinePrice(highest.hour_micros, _source(table, [highest]))


def _price_of(prices: Sequence[LivePrice], kind: str, place: str) -> LivePrice | None:
    """Return the price of a machine type in a location, or its highest price anywhere."""
    own = [each for each in prices if each.kind == kind]
    exact = [each for each in own if each.place == place]
    return max(exact or own, key=lambda each: each.hour_micros, default=None)


def _source(table: PoolTable, prices: Sequence[LivePrice]) -> str:
    names = [
        price_name(table.provider, each.kind, region=each.place, spot=table.is_spot)
        for each in prices
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    mean = ", the mean" if len(names) > 1 else ""
    return f"{', '.join(names[:3])}{more}: {CLOUDS[table.provider].quotes}{mean}"
