"""What every registry must do with quotas and credits. Subclass and give `registry`."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from swell.core.quota import (
    ANY_USER,
    Account,
    Ask,
    Credit,
    Place,
    Quota,
    Settled,
    Use,
    day_of,
    month_of,
    place_of,
)
from swell.db.registry import Registry

NOW = datetime(2030, 1, 31, 12, 30, 0, 123_457, tzinfo=UTC)
KEY: Place = place_of("key-1", None)
ANNA: Place = place_of("key-1", "anna")


def an_ask(task_id: str = "t1", **fields: Any) -> Ask:
    """Return a task of key-1 to be accepted now."""
    values: dict[str, Any] = {"id": task_id, "key_id": "key-1", "at": NOW}
    return Ask(**(values | fields))


def _a_credit(credit_id: str = "c1", micros: int = 1_000, **fields: Any) -> Credit:
    """Return credits of key-1."""
    values: dict[str, Any] = {"id": credit_id, "key_id": "key-1", "micros": micros, "at": NOW}
    return Credit(**(values | fields))


async def _use_of(registry: Registry, place: Place, at: datetime = NOW) -> Use:
    """Return the use of a day; the month has the same."""
    sheet = await registry.sheet([place], at)
    day, month = sheet.use(place, day_of(at)), sheet.use(place, month_of(at))
    assert day == month
    return day


async def _account_of(registry: Registry, place: Place) -> Account:
    """Return the credits of an account."""
    return (await registry.sheet([place], NOW)).account(place)


class QuotasConformance:
    """The guarantees of `swell.core.records` about quotas, credits and reservations."""

    async def test_quotas_are_kept_replaced_and_dropped(self, registry: Registry) -> None:
        own = Quota(key_id="key-1", tasks_per_day=5, is_prepaid=True)
        of_users = Quota(key_id="key-1", user=ANY_USER, samples_per_month=2**40)
        anna = Quota(key_id="key-1", user="anna", micros_per_day=7)
        assert await registry.quotas() == []
        for each in (anna, of_users, own):
            await registry.put_quota(each)
        assert await registry.quotas() == [own, of_users, anna]
        changed = Quota(key_id="key-1", tasks_per_month=3)
        await registry.put_quota(changed)
        assert await registry.quotas() == [changed, of_users, anna]
        assert await registry.drop_quota("key-1", ANY_USER)
        assert not await registry.drop_quota("key-1", ANY_USER)
        assert await registry.quotas() == [changed, anna]
        assert await registry.quota_keys() == frozenset({"key-1"})

    async def test_a_user_who_is_called_like_everybody_is_one_user(
        self, registry: Registry
    ) -> None:
        await registry.put_quota(Quota(key_id="key-1", user=ANY_USER, tasks_per_day=1))
        for user in ("*", "=", "=*", "anna"):
            asked = [an_ask(f"a{user}", user=user)], [an_ask(f"b{user}", user=user)]
            first, second = await registry.reserve(asked)
            assert (first.refused_by is None, second.refused_by is None) == (True, False)

    async def test_nothing_is_counted_where_there_is_no_quota(self, registry: Registry) -> None:
        [verdict] = await registry.reserve([[an_ask(user="anna")]])
        assert verdict.refused_by is None
        assert verdict.standings == ()
        assert await registry.holds(after="", before=NOW + timedelta(1), limit=9) == []
        assert await _use_of(registry, KEY) == Use()

    async def test_a_reservation_counts_for_the_key_and_its_user(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", tasks_per_day=9))
        await registry.put_quota(Quota(key_id="key-1", user="anna", samples_per_month=9))
        await registry.reserve([[an_ask("t1", user="anna", samples=4, micros=70)]])
        await registry.reserve([[an_ask("t2", user="otto", samples=2, micros=30)]])
        assert await _use_of(registry, KEY) == Use(tasks=2, samples=6, held=100)
        assert await _use_of(registry, ANNA) == Use(tasks=1, samples=4, held=70)
        assert await _use_of(registry, place_of("key-1", "otto")) == Use()

    async def test_a_group_beyond_a_limit_is_refused_whole(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", samples_per_day=10))
        first = [an_ask("t1", samples=6)]
        second = [an_ask("t2", samples=1), an_ask("t3", samples=4)]
        third = [an_ask("t4", samples=4)]
        told = await registry.reserve([first, second, third])
        assert [each.refused_by is None for each in told] == [True, False, True]
        refused_by = told[1].refused_by
        assert refused_by is not None
        assert (told[1].asked, refused_by.left, refused_by.limit) == (5, 4, 10)
        assert refused_by.name == "samples-day"
        assert await _use_of(registry, KEY) == Use(tasks=2, samples=10)
        held = await registry.holds(after="", before=NOW + timedelta(1), limit=9)
        assert [each.id for each in held] == ["t1", "t4"]

    async def test_a_user_is_refused_by_his_own_quota_before_that_of_each_user(
        self, registry: Registry
    ) -> None:
        await registry.put_quota(Quota(key_id="key-1", user=ANY_USER, tasks_per_day=1))
        await registry.put_quota(Quota(key_id="key-1", user="anna", tasks_per_day=2))
        asked = [[an_ask(f"{user}{n}", user=user)] for user in ("anna", "otto") for n in range(3)]
        told = await registry.reserve(asked)
        assert [each.refused_by is None for each in told] == [True, True, False, True, False, False]
        [verdict] = await registry.reserve([[an_ask("nobody")]])
        assert verdict.refused_by is None

    async def test_days_and_months_reset(self, registry: Registry) -> None:
        quota = Quota(key_id="key-1", tasks_per_day=1, tasks_per_month=2)
        await registry.put_quota(quota)
        yesterday, tomorrow = NOW - timedelta(days=1), NOW + timedelta(days=1)
        asked = [[an_ask("a", at=yesterday)], [an_ask("b", at=yesterday)], [an_ask("c", at=NOW)]]
        told = await registry.reserve(asked)
        assert [each.refused_by is None for each in told] == [True, False, True]
        # The month is used up, and over tomorrow.
        told = await registry.reserve([[an_ask("d", at=tomorrow)]])
        assert told[0].refused_by is None

    async def test_the_true_cost_is_spent_in_the_period_in_which_it_was_accepted(
        self, registry: Registry
    ) -> None:
        await registry.put_quota(Quota(key_id="key-1", micros_per_day=100))
        await registry.reserve([[an_ask("t1", micros=60)], [an_ask("t2", micros=40)]])
        [verdict] = await registry.reserve([[an_ask("t3", micros=1)]])
        assert verdict.refused_by is not None
        assert await registry.release([Settled("t1", 25), Settled("t2")]) == 2
        assert await _use_of(registry, KEY) == Use(tasks=2, samples=1, micros=25)
        [verdict] = await registry.reserve([[an_ask("t3", micros=75)]])
        assert verdict.refused_by is None
        assert verdict.standings[0].left == 0

    async def test_samples_made_count_instead_of_samples_held(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", samples_per_day=10))
        asked = [[an_ask(f"t{n}", samples=3)] for n in range(3)]
        assert [each.refused_by for each in await registry.reserve(asked)] == [None] * 3
        ends = [Settled("t0", 0, 5), Settled("t1", 0, 1), Settled("t2", None, 3)]
        assert await registry.release(ends) == 3
        assert await _use_of(registry, KEY) == Use(tasks=3, samples=6)

    async def test_what_never_was_a_task_leaves_nothing(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", is_prepaid=True, tasks_per_month=9))
        await registry.grant(_a_credit())
        await registry.reserve([[an_ask("t1", micros=300)], [an_ask("t2", micros=300)]])
        assert await registry.release([Settled("t1", was_task=False), Settled("t2")]) == 2
        assert await _use_of(registry, KEY) == Use(tasks=1)
        assert await _account_of(registry, KEY) == Account(granted=1_000)

    async def test_a_task_is_released_once(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", is_prepaid=True))
        await registry.grant(_a_credit())
        await registry.reserve([[an_ask("t1", micros=300)]])
        assert await registry.release([Settled("t1", 200), Settled("t1", 900)]) == 1
        assert await registry.release([Settled("t1", 900), Settled("unknown", 5)]) == 0
        assert await _account_of(registry, KEY) == Account(granted=1_000, spent=200)

    async def test_nothing_is_accepted_that_credits_do_not_cover(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", user="anna", is_prepaid=True))
        asked = [an_ask("t1", user="anna", micros=600)]
        [verdict] = await registry.reserve([asked])
        assert verdict.refused_by is not None
        assert verdict.refused_by.name == "user-credits"
        assert await registry.grant(_a_credit(user="anna"))
        [verdict] = await registry.reserve([asked])
        assert verdict.refused_by is None
        [verdict] = await registry.reserve([[an_ask("t2", user="anna", micros=600)]])
        assert verdict.refused_by is not None
        assert (verdict.asked, verdict.refused_by.left) == (600, 400)
        await registry.release([Settled("t1")])
        [verdict] = await registry.reserve([[an_ask("t2", user="anna", micros=600)]])
        assert verdict.refused_by is None
        # It has cost more than was held: then credits are below 0, and nothing more is accepted.
        await registry.release([Settled("t2", 1_001)])
        assert (await _account_of(registry, ANNA)).left == -1
        [verdict] = await registry.reserve([[an_ask("t3", user="anna", micros=0)]])
        assert verdict.refused_by is not None

    async def test_where_nothing_is_known_of_the_cost_some_credits_are_needed(
        self, registry: Registry
    ) -> None:
        await registry.put_quota(Quota(key_id="key-1", is_prepaid=True))
        [verdict] = await registry.reserve([[an_ask("t1", micros=0)]])
        assert verdict.refused_by is not None
        await registry.grant(_a_credit(micros=1))
        [verdict] = await registry.reserve([[an_ask("t1", micros=0)]])
        assert verdict.refused_by is None

    async def test_a_later_quota_does_not_change_reservations(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", tasks_per_day=9))
        await registry.reserve([[an_ask("t1", micros=50)]])
        await registry.put_quota(Quota(key_id="key-1", tasks_per_day=9, is_prepaid=True))
        await registry.release([Settled("t1", 50)])
        assert await _account_of(registry, KEY) == Account()
        assert await _use_of(registry, KEY) == Use(tasks=1, samples=1, micros=50)

    async def test_credits_are_granted_once_and_listed_newest_first(
        self, registry: Registry
    ) -> None:
        first, second = _a_credit("c1", 500, note="paid"), _a_credit("c2", -200, user="anna")
        assert await registry.grant(first)
        assert not await registry.grant(_a_credit("c1", 900))
        assert await registry.grant(second)
        other = _a_credit("c3", 7, key_id="key-2")
        assert await registry.grant(other)
        assert await registry.credits("key-1", limit=9) == [second, first]
        assert await registry.credits(None, limit=2) == [other, second]
        assert await registry.credit_places() == [KEY, ANNA, place_of("key-2", None)]
        assert (await _account_of(registry, ANNA)).left == -200

    async def test_concurrent_reservations_never_exceed_a_limit(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", tasks_per_day=100, is_prepaid=True))
        await registry.put_quota(Quota(key_id="key-1", user=ANY_USER, samples_per_day=12))
        await registry.grant(_a_credit(micros=2_000))

        async def ask(number: int) -> bool:
            asked = an_ask(f"t{number:03}", user=f"u{number % 3}", micros=100)
            [verdict] = await registry.reserve([[asked]])
            if verdict.refused_by is None and number % 2:
                # Some end early, and cost less.
                await registry.release([Settled(asked.id, 40)])
            return verdict.refused_by is None

        accepted = sum(await asyncio.gather(*(ask(number) for number in range(90))))
        account, use = await _account_of(registry, KEY), await _use_of(registry, KEY)
        assert accepted == use.tasks <= 36
        assert account.left >= 0
        assert account.held == use.held
        assert account.spent == use.micros
        assert account.held + account.spent > 1_000
        for user in range(3):
            assert (await _use_of(registry, place_of("key-1", f"u{user}"))).samples <= 12
        held = await registry.holds(after="", before=NOW + timedelta(1), limit=99)
        await registry.release([Settled(each.id, 100) for each in held])
        account = await _account_of(registry, KEY)
        assert (account.held, account.spent) == (0, (await _use_of(registry, KEY)).micros)

    async def test_reservations_are_listed_by_ids_in_pages(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", tasks_per_day=9))
        for number in range(3):
            at = NOW + timedelta(seconds=number)
            await registry.reserve([[an_ask(f"t{number}", at=at, user="anna", micros=number)]])
        before = NOW + timedelta(seconds=2)
        first = await registry.holds(after="", before=before, limit=1)
        assert [(each.id, each.micros, each.users) for each in first] == [("t0", 0, {"": False})]
        second = await registry.holds(after="t0", before=before, limit=9)
        assert [each.id for each in second] == ["t1"]

    async def test_days_of_long_ago_are_forgotten_and_months_kept(self, registry: Registry) -> None:
        await registry.put_quota(Quota(key_id="key-1", tasks_per_day=9))
        await registry.reserve([[an_ask("t1")]])
        await registry.forget_uses(NOW.date())
        assert (await _use_of(registry, KEY)).tasks == 1
        await registry.forget_uses(NOW.date() + timedelta(days=1))
        sheet = await registry.sheet([KEY], NOW)
        assert sheet.use(KEY, day_of(NOW)).tasks == 0
        assert sheet.use(KEY, month_of(NOW)).tasks == 1
