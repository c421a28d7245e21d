"""What every registry must do with sums of the ledger. Subclass and give `registry`."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any

from conformance.startups import NOW, a_startup, an_entry
from swell.core.billing.ledger import Charged, CostRow, EntryKind
from swell.core.startup_phases import StartupState
from swell.db.registry import Registry

DAY = NOW.date()
OFTEN = 20


def _row(**fields: Any) -> CostRow:
    values: dict[str, Any] = {
        "day": DAY,
        "kind": EntryKind.COLD_START,
        "pool": "default",
        "seconds": 2.5,
    }
    return CostRow(**(values | fields))


async def _rows(registry: Registry, **more: Any) -> set[CostRow]:
    rows = await registry.costs(DAY - timedelta(days=9), DAY + timedelta(days=9), **more)
    assert [row.day for row in rows] == sorted(row.day for row in rows)
    assert len(set(rows)) == len(rows)
    return set(rows)


class LedgerConformance:
    """The guarantees of `swell.core.records` about what entries of the ledger add up to."""

    async def test_all_that_an_entry_says_is_read_back(self, registry: Registry) -> None:
        entry = an_entry(
            kind=EntryKind.ATTEMPT,
            models="demo/a",
            account="a" * 32,
            key_id="k",
            user="anna\n",
            attempts=3,
            images=12,
            seconds=0.1,
            micros=10**12,
        )
        assert await registry.charge([entry]) == [True]
        assert (await registry.ledger()).entries == [entry]

    async def test_charge_says_which_entries_are_new(self, registry: Registry) -> None:
        assert await registry.charge([]) == []
        first = [an_entry("a"), an_entry("b"), an_entry("a", seconds=9.0)]
        assert await registry.charge(first) == [True, True, False]
        assert await registry.charge([an_entry("b"), an_entry("c")]) == [False, True]
        assert [each.id for each in (await registry.ledger()).entries] == ["c", "b", "a"]

    async def test_charges_of_an_account_are_added_up(self, registry: Registry) -> None:
        await registry.charge(
            [
                an_entry("a", account="x", seconds=2.0, micros=7),
                an_entry("b", account="x", seconds=-0.5, micros=-2),
                an_entry("c", account="x", seconds=1.0),
                an_entry("d", account="y", seconds=4.0),
                an_entry("a", account="x", seconds=99.0, micros=99),
            ]
        )
        assert await registry.charged(["y", "nobody", "x", "y"]) == [
            Charged(seconds=4.0),
            Charged(),
            Charged(seconds=2.5, micros=5),
            Charged(seconds=4.0),
        ]
        assert await registry.charged([]) == []

    async def test_a_startup_is_charged_to_its_account_with_it(self, registry: Registry) -> None:
        ready = a_startup(state=StartupState.READY)
        await registry.put_startup(ready, lambda _: an_entry(account="x", micros=3))
        assert await registry.charged(["x"]) == [Charged(seconds=2.5, micros=3)]
        assert await _rows(registry) == {_row(micros=3)}

    async def test_entries_that_have_all_in_common_are_added_up(self, registry: Registry) -> None:
        attempt = {"kind": EntryKind.ATTEMPT, "models": "demo/a", "key_id": "k"}
        await registry.charge(
            [
                an_entry("1", **attempt, attempts=1, images=4, seconds=0.5, micros=5),
                an_entry("2", **attempt, attempts=2, images=1, seconds=0.25, micros=2),
                an_entry("3", **attempt, attempts=1, seconds=0.125),
                an_entry("4", **(attempt | {"kind": EntryKind.FAILED}), attempts=1, seconds=1.0),
                an_entry("5", **(attempt | {"models": "demo/b"}), seconds=1.0),
                an_entry("6", **(attempt | {"key_id": "l"}), seconds=1.0),
                an_entry("7", **attempt, pool="spot", seconds=1.0),
                an_entry("8", kind=EntryKind.IDLE, models="demo/a,demo/b", seconds=1.0),
                an_entry("9", kind=EntryKind.IDLE, models="demo/b", seconds=-2.0),
            ]
        )
        shared = {"kind": EntryKind.ATTEMPT, "model": "demo/a", "key_id": "k"}
        one = {"seconds": 1.0}
        assert await _rows(registry) == {
            _row(**shared, attempts=3, images=5, seconds=0.75, micros=7),
            _row(**shared, attempts=1, seconds=0.125),
            _row(**(shared | one | {"kind": EntryKind.FAILED}), attempts=1),
            _row(**(shared | one | {"model": "demo/b"})),
            _row(**(shared | one | {"key_id": "l"})),
            _row(**(shared | one), pool="spot"),
            _row(kind=EntryKind.IDLE, seconds=-1.0),
        }

    async def test_users_have_separate_rows_on_request(self, registry: Registry) -> None:
        attempt = {"kind": EntryKind.ATTEMPT, "models": "demo/a", "key_id": "k", "micros": 1}
        for n, user in enumerate(["anna", "berta", "anna", ""]):
            await registry.charge([an_entry(str(n), **attempt, user=user, seconds=1.0)])
        own = {"kind": EntryKind.ATTEMPT, "model": "demo/a", "key_id": "k"}
        assert await _rows(registry) == {_row(**own, seconds=4.0, micros=4)}
        assert await _rows(registry, users=True) == {
            _row(**own, user="anna", seconds=2.0, micros=2),
            _row(**own, user="berta", seconds=1.0, micros=1),
            _row(**own, seconds=1.0, micros=1),
        }

    async def test_days_begin_at_midnight_utc_and_both_ends_count(self, registry: Registry) -> None:
        midnight = datetime(2030, 1, 2, tzinfo=UTC)
        moment = timedelta(microseconds=1)
        for n, at in enumerate([midnight - moment, midnight, midnight + timedelta(days=1)]):
            await registry.charge([an_entry(str(n), at=at)])
        first, second, third = date(2030, 1, 1), date(2030, 1, 2), date(2030, 1, 3)
        assert [row.day for row in await registry.costs(first, third)] == [first, second, third]
        assert await registry.costs(second, second) == [_row(day=second)]
        assert await registry.costs(third, second) == []

    async def test_many_who_charge_at_once_lose_nothing(self, registry: Registry) -> None:
        models = ["demo/a", "demo/b", "demo/c"]

        async def charge(n: int) -> None:
            mine = [
                an_entry(
                    f"{n}-{model}",
                    kind=EntryKind.ATTEMPT,
                    models=model,
                    account=f"account {place}",
                    attempts=1,
                    seconds=1.0,
                    micros=1,
                )
                for place, model in enumerate(models)
            ]
            await registry.charge(mine if n % 2 else mine[::-1])
            await registry.charge(mine)

        await asyncio.gather(*(charge(n) for n in range(OFTEN)))
        told = await registry.charged([f"account {place}" for place in range(3)])
        assert told == [Charged(seconds=float(OFTEN), micros=OFTEN)] * 3
        assert {(row.model, row.attempts, row.micros) for row in await _rows(registry)} == {
            (model, OFTEN, OFTEN) for model in models
        }
