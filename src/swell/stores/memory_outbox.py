"""An outbox in memory, beside the tasks of `MemoryStore`."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec

from swell.clock import Clock
from swell.db.posting import Posting
from swell.errors import InvalidRequest
from swell.outbox import (
    OVERTAKEN,
    Backlog,
    Delivery,
    DeliveryFilter,
    DeliveryPage,
    DeliveryState,
    Post,
    Told,
    Watch,
    after_try,
    may_quote_removed,
    posted,
)
from swell.task import Task, TaskState
from swell.webhook import ENDS, PASSING

#: A task and a receiver.
_Line = tuple[str, str]


class MemoryOutbox:
    """Deliveries in a dictionary, oldest first.

    Args:
        clock: The time.
        tasks: Those of the store.
    """

    def __init__(self, clock: Clock, tasks: Mapping[str, Task]) -> None:
        self._clock = clock
        self._tasks = tasks
        self._posting = Posting()
        self._deliveries: dict[str, Delivery] = {}

    def watch(self, watches: Sequence[Watch]) -> None:
        self._posting.watch(watches)

    def on_post(self, wake: Callable[[], None]) -> None:
        self._posting.on_post(wake)

    def note(self, before: Task, after: Task) -> None:
        """Write what is to be delivered because a task has changed."""
        if after.webhook is None and not self._posting.watches:
            return
        now = self._clock.now()
        posts = self._posting.deliveries(before, after, now)
        lines = {_line(each) for each in posts}
        if self._posting.overtakes(after):
            self._overtake(lines, now)
            if self._posting.drops_passing(after):
                self._drop(lambda each: _line(each) in lines and each.event in PASSING)
        self._add(posts)

    def forget(self, task_id: str) -> None:
        """Forget what was to be delivered of a task that is gone."""
        gone = [each.id for each in self._deliveries.values() if each.task_id == task_id]
        for each in gone:
            del self._deliveries[each]

    def forget_answers(self, task_id: str) -> None:
        """Forget what may quote the data of a task."""
        for each in list(self._deliveries.values()):
            if each.task_id == task_id:
                self._put(msgspec.structs.replace(each, answers=(), data=None))

    async def post(self, posts: Sequence[Post]) -> None:
        now = self._clock.now()
        for post in posts:
            task = self._tasks.get(post.task_id)
            if task is None or task.state is not TaskState.RUNNING or task.attempt != post.attempt:
                continue
            data = msgspec.Raw(msgspec.json.encode(post.data))
            found = posted(task, post.event, data, self._posting.watches, now)
            lines = {_line(each) for each in found}
            self._overtake(lines, now)
            if post.event != "artifact":
                self._drop(partial(_is_replaced, lines=lines, event=post.event))
            self._add(found)

    async def due(
        self, *, per_place: int, limit: int = 1000, without: Collection[str] = ()
    ) -> list[Delivery]:
        now = self._clock.now()
        heads: dict[tuple[str, str], Delivery] = {}
        for each in self._waiting():
            heads.setdefault(_line(each), each)
        found: list[Delivery] = []
        counts: dict[str, int] = {}
        for each in sorted(heads.values(), key=_due_at):
            n = counts.get(each.place, 0)
            if _due_at(each) <= now and n < per_place and each.place not in without:
                counts[each.place] = n + 1
                found.append(each)
        return found[:limit]

    async def next_due_at(self, *, without: Collection[str] = ()) -> datetime | None:
        waiting = [each for each in self._waiting() if each.place not in without]
        return min(map(_due_at, waiting), default=None)

    async def tell(self, told: Sequence[Told]) -> list[Delivery | None]:
        found: list[Delivery | None] = []
        for each in told:
            before = self._deliveries.get(each.id)
            if before is None or before.tries != each.tries:
                found.append(None)
                continue
            task = self._tasks.get(before.task_id)
            quotes = task is None or may_quote_removed(
                each, inputs_removed=task.inputs_removed, outputs_removed=task.outputs_removed
            )
            has_later = self._has_later(before)
            after = after_try(before, each, has_later=has_later, quotes_removed=quotes)
            self._put(after)
            found.append(after)
        return found

    async def get(self, ids: Sequence[str]) -> list[Delivery | None]:
        return [self._deliveries.get(each) for each in ids]

    async def page(
        self, where: DeliveryFilter, *, limit: int = 50, cursor: str | None = None
    ) -> DeliveryPage:
        newest_first = list(reversed(self._deliveries.values()))
        if cursor is not None:
            ids = [each.id for each in newest_first]
            if cursor not in ids:
                raise InvalidRequest("the cursor is not one that a listing returned; leave it out")
            newest_first = newest_first[ids.index(cursor) + 1 :]
        found = [each for each in newest_first if _matches(each, where)]
        page = found[:limit]
        more = len(found) > limit and bool(page)
        return DeliveryPage(deliveries=tuple(page), cursor=page[-1].id if more else None)

    async def replay(self, ids: Sequence[str]) -> int:
        now = self._clock.now()
        ended = [self._deliveries[each] for each in ids if each in self._deliveries]
        ended = [each for each in ended if each.due_at is None]
        for each in ended:
            waiting = DeliveryState.WAITING
            self._put(
                msgspec.structs.replace(
                    each, state=waiting, tries=0, due_at=now, ended_at=None, reason=""
                )
            )
        if ended:
            self._posting.wake()
        return len(ended)

    async def give_up(self, endpoint: str, reason: str, *, but: str = "") -> int:
        waiting = [each for each in self._waiting() if endpoint and each.endpoint == endpoint]
        given = [each for each in waiting if each.id != but]
        for each in given:
            self._end(each, DeliveryState.FAILED, reason, self._clock.now())
        return len(given)

    async def retire(self, before: datetime, *, limit: int = 1000) -> int:
        old = [
            each.id
            for each in self._deliveries.values()
            if each.ended_at is not None and each.ended_at <= before
        ][:limit]
        for each in old:
            del self._deliveries[each]
        return len(old)

    async def backlog(self) -> Backlog:
        waiting = self._waiting()
        return Backlog(len(waiting), min((each.at for each in waiting), default=None))

    def _waiting(self) -> list[Delivery]:
        return [each for each in self._deliveries.values() if each.due_at is not None]

    def _has_later(self, delivery: Delivery) -> bool:
        line = [each.id for each in self._waiting() if _line(each) == _line(delivery)]
        order = list(self._deliveries)
        return any(order.index(each) > order.index(delivery.id) for each in line)

    def _overtake(self, lines: Collection[_Line], now: datetime) -> None:
        for each in self._waiting():
            if _line(each) in lines and each.tries > 0 and each.event not in ENDS:
                self._end(each, DeliveryState.SKIPPED, OVERTAKEN, now)

    def _drop(self, is_needless: Callable[[Delivery], bool]) -> None:
        for each in self._waiting():
            if each.tries == 0 and is_needless(each):
                del self._deliveries[each.id]

    def _end(self, each: Delivery, state: DeliveryState, reason: str, now: datetime) -> None:
        self._put(
            msgspec.structs.replace(each, state=state, due_at=None, ended_at=now, reason=reason)
        )

    def _add(self, posts: Sequence[Delivery]) -> None:
        for each in posts:
            self._put(each)
        if posts:
            self._posting.wake()

    def _put(self, delivery: Delivery) -> None:
        self._deliveries[delivery.id] = delivery


def _line(delivery: Delivery) -> _Line:
    return delivery.task_id, delivery.endpoint


def _is_replaced(delivery: Delivery, lines: Collection[_Line], event: str) -> bool:
    return _line(delivery) in lines and delivery.event == event


def _due_at(delivery: Delivery) -> datetime:
    assert delivery.due_at is not None, "it waits"
    return delivery.due_at


def _matches(delivery: Delivery, where: DeliveryFilter) -> bool:
    wanted = (
        (where.task_id, delivery.task_id),
        (where.endpoint, delivery.endpoint),
        (where.key_id, delivery.key_id),
        (where.state, delivery.state),
    )
    is_recent = where.since is None or delivery.at >= where.since
    return is_recent and all(value is None or value == actual for value, actual in wanted)
