"""What follows from an answer, what signs, and who is sent what, when."""

import asyncio
import base64
import hashlib
import hmac
import random
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from conformance.delivery import Delivery as Rig
from conformance.factories import a_new_task
from conformance.outbox import PostOffice, a_hooked_task
from manual_clock import ManualClock
from sqlite_rig import SqliteRig, turns
from swell.core.errors import Unavailable
from swell.core.outbox import Delivery, DeliveryState
from swell.core.webhook import ENDS, Webhook
from swell.server.webhooks.concurrency_limits import Answering, Room
from swell.server.webhooks.dispatcher import Dispatcher, Undeliverable
from swell.server.webhooks.retry_schedule import result_of, retry_after_s
from swell.server.webhooks.webhook_sender import Answer, HookRequest
from swell.server.webhooks.webhook_signing import new_secret, signature_headers
from swell.settings.backend_settings import WebhooksSettings

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SCHEDULE_S = WebhooksSettings().schedule_s

# ---- signatures


def test_a_secret_has_one_underscore_and_standard_base64() -> None:
    for _ in range(50):
        prefix, key = new_secret().split("_")
        assert prefix == "whsec"
        assert len(base64.b64decode(key, validate=True)) == 32


def test_a_signature_is_that_of_the_standard() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    headers = signature_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        # The example that the libraries of the standard are tested with.
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_during_a_rotation_both_sign() -> None:
    old, new = new_secret(), new_secret()
    told = signature_headers([new, old], "msg_1", 1, b"x")["webhook-signature"].split(" ")
    assert told == ["v1," + _signed(each, b"msg_1.1.x") for each in (new, old)]


def _signed(secret: str, content: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()


# ---- what follows


def a_delivery(tries: int = 0) -> Delivery:
    return Delivery(id="msg_1", task_id="t", event="succeeded", at=NOW, tries=tries, due_at=NOW)


def an_answer(status: int | None = None, **fields: object) -> Answer:
    return Answer(**{"at": NOW, "took_s": 0.0, "status": status, **fields})  # type: ignore[arg-type]


class Middle(random.Random):
    """Adds and takes away nothing."""

    def random(self) -> float:
        return 0.5


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_only_2xx_is_success(status: int) -> None:
    told = result_of(a_delivery(), None, an_answer(status), SCHEDULE_S, Middle())
    assert (told.state, told.attempt.error) == (DeliveryState.DELIVERED, "")


@pytest.mark.parametrize(
    ("status", "word"),
    [(301, "redirect"), (304, "redirect"), (400, "status"), (404, "status"), (500, "status")],
)
def test_everything_else_is_tried_again(status: int, word: str) -> None:
    told = result_of(a_delivery(), None, an_answer(status), SCHEDULE_S, Middle())
    assert (told.state, told.attempt.error) == (DeliveryState.WAITING, word)
    assert told.due_at == NOW + timedelta(seconds=5)


def test_the_schedule_is_gone_through_and_then_it_has_failed() -> None:
    waits = []
    for tries in range(len(SCHEDULE_S)):
        told = result_of(a_delivery(tries), None, an_answer(500), SCHEDULE_S, Middle())
        assert told.due_at is not None
        waits.append((told.due_at - NOW).total_seconds())
    assert waits == [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400]
    last = result_of(a_delivery(len(SCHEDULE_S)), None, an_answer(500), SCHEDULE_S, Middle())
    assert (last.state, last.due_at) == (DeliveryState.FAILED, None)
    assert last.reason


@given(st.integers(0, len(SCHEDULE_S) - 1), st.integers())
def test_waits_are_spread_by_a_tenth(tries: int, seed: int) -> None:
    told = result_of(a_delivery(tries), None, an_answer(500), SCHEDULE_S, random.Random(seed))
    assert told.due_at is not None
    wait_s = (told.due_at - NOW).total_seconds()
    assert 0.9 * SCHEDULE_S[tries] <= wait_s <= 1.1 * SCHEDULE_S[tries]


def test_a_receiver_that_is_gone_is_not_asked_again() -> None:
    told = result_of(a_delivery(), None, an_answer(410), SCHEDULE_S, Middle())
    assert (told.state, told.attempt.error) == (DeliveryState.FAILED, "gone")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_receiver_that_asks_for_time_has_it(status: int) -> None:
    told = result_of(a_delivery(), None, an_answer(status, retry_after="120"), SCHEDULE_S, Middle())
    assert told.due_at == NOW + timedelta(seconds=120)
    sooner = result_of(
        a_delivery(3), None, an_answer(status, retry_after="1"), SCHEDULE_S, Middle()
    )
    assert sooner.due_at == NOW + timedelta(seconds=7200)


def test_others_are_not_heard_about_time() -> None:
    told = result_of(a_delivery(), None, an_answer(500, retry_after="120"), SCHEDULE_S, Middle())
    assert told.due_at == NOW + timedelta(seconds=5)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("0", 0.0),
        (" 17 ", 17.0),
        ("Tue, 01 Jan 2030 00:02:00 GMT", 120.0),
        ("Tue, 01 Jan 2030 00:02:00 -0000", 120.0),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0),
        ("99999999999999999999", 86400.0),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 86400.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("Tue, 99 Jan 2030 00:02:00 GMT", None),
        ("Tue, 01 Jan 99999999999999999999 00:02:00 GMT", None),
        ("Tue, 01 Jan 2030 00:02:00 +99999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, NOW) == wait_s


@given(st.text(max_size=40))
def test_no_retry_after_breaks_anything(header: str) -> None:
    found = retry_after_s(header, NOW)
    assert found is None or 0 <= found <= 86400


# ---- the dispatcher


class Mailbox:
    """Receivers by their URL: what each answers, and what each got."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.got: list[tuple[str, str]] = []
        self.times_s: list[float] = []
        self.answers: dict[str, Callable[[], Answer]] = {}
        #: URLs that answer only once this is set.
        self.held: dict[str, asyncio.Event] = {}
        self.open: dict[str, int] = {}
        self.most: dict[str, int] = {}

    async def send(self, letter: HookRequest, message_id: str) -> Answer:
        url = letter.url
        self.got.append((url, letter.body.decode()))
        self.times_s.append(self.clock.monotonic_s())
        self.open[url] = self.open.get(url, 0) + 1
        self.most[url] = max(self.most.get(url, 0), self.open[url])
        if url in self.held:
            await self.held[url].wait()
        self.open[url] -= 1
        make = self.answers.get(url)
        return an_answer(200, at=self.clock.now()) if make is None else make()

    def answer(self, url: str, *statuses: int) -> None:
        """Answer so, one after the other, and then with 200."""
        left = list(statuses)
        self.answers[url] = lambda: an_answer(left.pop(0) if left else 200, at=self.clock.now())


class House:
    """A dispatcher at work."""

    def __init__(self, **settings: object) -> None:
        self.clock = ManualClock()
        rig = SqliteRig(self.clock, rng=random.Random(1))
        self.store, self.outbox = rig.store, rig.outbox
        self.post = PostOffice(Rig(self.clock, self.store, rig.broker), self.outbox)
        self.mailbox = Mailbox(self.clock)
        self.is_leader = True
        self.gone_ids: list[str] = []
        self.outcomes: list[DeliveryState] = []
        self.paused_places: list[str] = []
        self.dispatcher = Dispatcher(
            self.outbox,
            self.clock,
            self.mailbox.send,
            self,
            WebhooksSettings().model_copy(update=settings),
            Middle(),
        )
        self.outbox.on_post(self.dispatcher.wake)
        self.running: asyncio.Task[None] | None = None

    async def make_request(self, delivery: Delivery) -> HookRequest:
        (task,) = await self.store.get([delivery.task_id])
        if task is None or task.webhook is None:
            raise Undeliverable("nobody wants it")
        body = f"{task.key_id}/{delivery.event}/{delivery.attempt}".encode()
        return HookRequest(
            url=task.webhook.url,
            body=body,
            signing=[],
            inputs_removed=task.inputs_removed,
            outputs_removed=task.outputs_removed,
        )

    def paused(self) -> Sequence[str]:
        return self.paused_places

    async def note_gone(self, delivery: Delivery) -> None:
        self.gone_ids.append(delivery.id)

    def note_attempt(self, delivery: Delivery) -> None:
        self.outcomes.append(delivery.state)

    async def __aenter__(self) -> "House":
        async def leads() -> bool:
            return self.is_leader

        self.running = asyncio.create_task(self.dispatcher.run(leads))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.running is not None
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        for each in self.mailbox.held.values():
            each.set()
        await self.dispatcher.stop()

    async def settle(self) -> None:
        """Let everything run that can without the clock."""
        await turns(100)

    async def pass_time(self, duration_s: float) -> None:
        # The dispatcher looks twice a second.
        for _ in range(int(duration_s * 2)):
            self.clock.advance(0.5)
            await self.settle()


def at(host: str, *events: str, key_id: str = "key-1"):  # type: ignore[no-untyped-def]
    url = f"https://{host}/in"
    return url, a_new_task(webhook=Webhook(url=url, events=events or ENDS), key_id=key_id)


async def test_what_is_due_is_sent_at_once() -> None:
    async with House() as house:
        url, new = at("a.example")
        task = await house.post.ended(new)
        await house.settle()
        assert house.mailbox.got == [(url, "key-1/succeeded/1")]
        (delivery,) = await house.post.all(task_id=task.id)
        assert delivery.state is DeliveryState.DELIVERED
        assert house.outcomes == [DeliveryState.DELIVERED]


async def test_whoever_does_not_lead_sends_nothing_until_it_leads() -> None:
    async with House() as house:
        house.is_leader = False
        await house.post.ended(at("a.example")[1])
        await house.pass_time(2)
        assert house.mailbox.got == []
        house.is_leader = True
        await house.pass_time(1)
        assert len(house.mailbox.got) == 1


async def test_what_fails_is_sent_again_by_the_schedule_and_then_kept() -> None:
    async with House(schedule_s=(5.0, 60.0)) as house:
        url, new = at("a.example")
        house.mailbox.answer(url, 500, 500, 500)
        task = await house.post.ended(new)
        await house.settle()
        await house.pass_time(100)
        assert house.mailbox.times_s == [0.0, 5.0, 65.0]
        (delivery,) = await house.post.all(task_id=task.id)
        assert delivery.state is DeliveryState.FAILED
        assert [each.status for each in delivery.log] == [500, 500, 500]
        assert await house.outbox.replay([delivery.id]) == 1
        await house.settle()
        assert (await house.post.get(delivery)).state is DeliveryState.DELIVERED


async def test_a_receiver_that_puts_off_beyond_all_time_is_not_asked_at_once_again() -> None:
    async with House(schedule_s=(5.0,)) as house:
        url, new = at("a.example")
        never = "Tue, 01 Jan 99999999999999999999 00:02:00 GMT"
        house.mailbox.answers[url] = lambda: an_answer(503, at=house.clock.now(), retry_after=never)
        await house.post.ended(new)
        await house.settle()
        assert house.mailbox.times_s == [0.0]
        await house.pass_time(6)
        assert house.mailbox.times_s == [0.0, 5.0]


async def test_a_task_is_told_in_order() -> None:
    async with House() as house:
        url, new = at("a.example", "started", "succeeded")
        house.mailbox.held[url] = asyncio.Event()
        await house.post.ended(new)
        await house.settle()
        assert [body for _, body in house.mailbox.got] == ["key-1/started/1"]
        house.mailbox.held[url].set()
        await house.settle()
        assert [body for _, body in house.mailbox.got] == ["key-1/started/1", "key-1/succeeded/1"]


async def test_nothing_overtakes_what_is_under_way_though_it_was_dropped() -> None:
    async with House() as house:
        url, new = at("a.example", "progress", "succeeded")
        house.mailbox.held[url] = asyncio.Event()
        task = await house.post.running(new)
        await house.outbox.post(task.id, 1, "progress", {"step": 1})
        await house.settle()
        await house.post.rig.settle(task)
        await house.pass_time(2)
        assert [body for _, body in house.mailbox.got] == ["key-1/progress/1"]
        house.mailbox.held[url].set()
        await house.settle()
        assert [body for _, body in house.mailbox.got][1:] == ["key-1/succeeded/1"]


async def test_a_slow_receiver_holds_nobody_up() -> None:
    async with House(per_receiver=2, at_once=16) as house:
        slow, new = at("slow.example")
        house.mailbox.held[slow] = asyncio.Event()
        for _ in range(20):
            await house.post.ended(new)
        await house.settle()
        # It has not answered yet.
        assert house.mailbox.open[slow] == 1
        quick, other = at("quick.example")
        for _ in range(5):
            await house.post.ended(other)
        await house.settle()
        assert [url for url, _ in house.mailbox.got].count(quick) == 5
        house.mailbox.held[slow].set()
        await house.settle()
        assert [url for url, _ in house.mailbox.got].count(slow) == 20
        assert house.mailbox.most[slow] <= 2


async def test_a_key_with_many_slow_receivers_leaves_room_for_others() -> None:
    async with House(per_receiver=2, at_once=8) as house:
        for number in range(10):
            url, new = at(f"slow{number}.example")
            house.mailbox.held[url] = asyncio.Event()
            await house.post.ended(new)
        quick, other = at("quick.example", key_id="key-2")
        await house.post.ended(other)
        await house.settle()
        assert quick in [url for url, _ in house.mailbox.got]
        # Two thirds of the eight.
        assert sum(house.mailbox.open.values()) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("hanging", "is_known"), [(8, True), (64, False), (600, False)])
async def test_hosts_that_hang_hold_up_no_other_host_of_their_key(
    hanging: int, is_known: bool
) -> None:
    async with House() as house:
        quick, other = at("quick.example")
        if is_known:
            await house.post.ended(other)
            await house.settle()
        # Each has more waiting than it may have under way.
        for number in range(max(hanging, 200)):
            url, new = at(f"slow{number % hanging}.example")
            house.mailbox.held[url] = asyncio.Event()
            await house.post.ended(new)
        await house.settle()
        assert sum(house.mailbox.open.values()) == hanging
        await house.post.ended(other)
        await house.settle()
        assert house.mailbox.got[-1][0] == quick
        assert house.mailbox.times_s[-1] == 0.0


@pytest.mark.slow
async def test_hosts_that_answered_before_they_hang_hold_up_no_other_host_of_their_key() -> None:
    async with House() as house:
        urls = [at(f"slow{number}.example") for number in range(40)]
        for _, new in urls:
            await house.post.ended(new)
        await house.settle()
        house.mailbox.held.update({url: asyncio.Event() for url, _ in urls})
        for _ in range(10):
            for _, new in urls:
                await house.post.ended(new)
        await house.settle()
        quick, other = at("quick.example")
        await house.post.ended(other)
        await house.settle()
        assert house.mailbox.got[-1] == (quick, "key-1/succeeded/1")
        assert sum(house.mailbox.open.values()) == 40 * 8


async def test_a_receiver_has_one_request_under_way_until_it_answers() -> None:
    async with House(per_receiver=3) as house:
        url, new = at("a.example")
        house.mailbox.held[url] = asyncio.Event()
        for _ in range(5):
            await house.post.ended(new)
        await house.settle()
        assert house.mailbox.open[url] == 1
        held, house.mailbox.held[url] = house.mailbox.held[url], asyncio.Event()
        held.set()
        await house.settle()
        assert house.mailbox.open[url] == 3


async def test_however_many_keys_have_slow_receivers_another_is_told_at_once() -> None:
    async with House(at_once=256) as house:
        for number in range(12 * 30):
            url, new = at(f"slow{number}.example", key_id=f"hostile-{number % 12}")
            house.mailbox.held[url] = asyncio.Event()
            await house.post.ended(new)
        await house.settle()
        assert sum(house.mailbox.open.values()) < 256
        quick, other = at("quick.example", key_id="key-2")
        await house.post.ended(other)
        await house.settle()
        assert house.mailbox.times_s[-1] == 0.0
        assert house.mailbox.got[-1][0] == quick


async def test_a_host_that_many_keys_name_has_two_thirds_of_all_places() -> None:
    async with House(at_once=256) as house:
        slow, _ = at("slow.example")
        house.mailbox.held[slow] = asyncio.Event()
        for number in range(200):
            await house.post.ended(at("slow.example", key_id=f"key-{number}")[1])
        await house.settle()
        assert house.mailbox.open[slow] == 171


async def test_a_key_with_more_slow_receivers_than_are_read_at_once_leaves_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swell.server.webhooks.dispatcher._READ_AT_ONCE", 20)
    async with House(per_receiver=1, at_once=6) as house:
        for number in range(30):
            url, new = at(f"slow{number}.example")
            house.mailbox.held[url] = asyncio.Event()
            await house.post.ended(new)
        quick, other = at("quick.example", key_id="key-2")
        await house.post.ended(other)
        await house.pass_time(2)
        assert quick in [url for url, _ in house.mailbox.got]


async def test_two_keys_with_one_host_have_their_own_shares() -> None:
    async with House(per_receiver=1) as house:
        url, new = at("shared.example")
        await house.settle()
        house.mailbox.held[url] = asyncio.Event()
        for key_id in ("key-1", "key-1", "key-2"):
            await house.post.ended(msgspec.structs.replace(new, key_id=key_id))
        await house.settle()
        assert sorted(body[:5] for _, body in house.mailbox.got) == ["key-1", "key-2"]


def a_place(number: int, *, key: str = "k", host: str = "https://h.example") -> Delivery:
    return Delivery(
        id=f"msg_{number}",
        task_id=f"t{number}",
        key_id=key,
        place=f"{key} {host}",
        event="succeeded",
        at=NOW,
    )


@pytest.mark.slow
@given(st.integers(2, 300), st.integers(1, 12), st.integers(1, 200))
def test_no_key_has_more_than_its_share_and_newcomers_find_a_slot(
    at_once: int, keys: int, each_wants: int
) -> None:
    places = [
        a_place(number, key=f"key-{number % keys}", host=f"https://{number}.example")
        for number in range(keys * each_wants)
    ]
    room = Room(at_once, at_once, [], ())
    held = Counter(each.key_id for each in places if room.take(each))
    assert held.total() + room.free == at_once
    assert max(held.values()) <= max(1, -(-2 * at_once // 3))
    is_full = room.free == 0
    assert room.take(a_place(-1, key="another")) is not is_full
    if at_once > 8 * keys:
        assert not is_full


def test_an_attempt_waits_for_its_task_its_receiver_its_host_and_its_key() -> None:
    first = a_place(1)
    room = Room(100, 2, [first], {first.place})
    # An earlier event of its task is under way.
    assert not room.take(msgspec.structs.replace(first, id="msg_later"))
    assert room.full_places() == []
    assert room.take(a_place(2))
    # The receiver has its requests.
    assert not room.take(a_place(3))
    assert room.full_places() == [first.place]
    hanging = "https://other.example"
    assert room.take(a_place(4, host=hanging))
    # The receiver hangs.
    assert not room.take(a_place(5, host=hanging))
    while room.take(a_place(room.free + 10, host=f"https://{room.free}.example")):
        pass
    # A third is for other keys.
    assert room.free == 33
    assert room.take(a_place(8, key="another"))
    crowd = [a_place(number, key=f"key-{number}") for number in range(67)]
    # The host has its share.
    assert not Room(100, 8, crowd, ()).take(a_place(70, key="new"))


def test_a_receiver_answers_until_it_leaves_so_many_requests_in_a_row_unanswered() -> None:
    answering = Answering(3)
    assert "a" not in answering
    answering.note("a", has_answered=True)
    for _ in range(2):
        answering.note("a", has_answered=False)
        answering.note("a", has_answered=False)
        assert "a" in answering
        answering.note("a", has_answered=True)
    for _ in range(3):
        answering.note("a", has_answered=False)
    assert "a" not in answering
    answering.note("a", has_answered=False)
    assert "a" not in answering


def test_so_many_receivers_are_remembered_those_that_answered_last() -> None:
    answering = Answering(8)
    answering.note("a", has_answered=True)
    for number in range(9_999):
        answering.note(str(number), has_answered=True)
    answering.note("a", has_answered=True)
    answering.note("new", has_answered=True)
    assert "a" in answering
    assert "0" not in answering
    assert "1" in answering


async def test_a_receiver_that_is_gone_is_noted() -> None:
    async with House() as house:
        url, new = at("a.example")
        house.mailbox.answer(url, 410)
        await house.post.ended(new)
        await house.settle()
        (delivery,) = await house.post.all()
        assert (delivery.state, house.gone_ids) == (DeliveryState.FAILED, [delivery.id])


async def test_what_is_paused_waits() -> None:
    async with House() as house:
        _, new = at("a.example")
        house.paused_places = ["key-1 https://a.example"]
        await house.post.ended(new)
        await house.pass_time(2)
        assert house.mailbox.got == []
        house.paused_places = []
        house.dispatcher.wake()
        await house.settle()
        assert len(house.mailbox.got) == 1


async def test_an_answer_that_comes_after_an_erasure_is_not_kept() -> None:
    async with House() as house:
        url, new = at("a.example")
        house.mailbox.held[url] = asyncio.Event()
        house.mailbox.answers[url] = lambda: an_answer(200, at=house.clock.now(), text="a red fox")
        task = await house.post.ended(new)
        await house.settle()
        await house.store.erase(task.id)
        house.mailbox.held[url].set()
        await house.settle()
        (delivery,) = await house.post.all()
        assert (delivery.state, delivery.answers) == (DeliveryState.DELIVERED, ("",))
        # What is sent from now on has nothing of it, so that the answer may stay.
        await house.outbox.replay([delivery.id])
        await house.settle()
        assert (await house.post.get(delivery)).answers == ("", "a red fox")


async def test_what_cannot_be_sent_any_more_has_failed() -> None:
    async with House() as house:
        house.make_request = _nobody  # type: ignore[method-assign]
        await house.post.ended(a_hooked_task())
        await house.settle()
        (delivery,) = await house.post.all()
        assert (delivery.state, delivery.reason) == (DeliveryState.FAILED, "nobody wants it")


async def _nobody(delivery: Delivery) -> HookRequest:
    raise Undeliverable("nobody wants it")


async def test_a_fault_of_ours_is_an_attempt_that_failed() -> None:
    async with House() as house:
        right, house.make_request = house.make_request, _broken  # type: ignore[method-assign]
        await house.post.ended(a_hooked_task())
        await house.settle()
        (delivery,) = await house.post.all()
        assert (delivery.state, delivery.log[0].error) == (DeliveryState.WAITING, "internal")
        house.make_request = right  # type: ignore[method-assign]
        await house.pass_time(6)
        assert (await house.post.get(delivery)).state is DeliveryState.DELIVERED


async def _broken(delivery: Delivery) -> HookRequest:
    raise RuntimeError("a mistake")


async def test_an_attempt_whose_result_cannot_be_told_is_logged_and_not_repeated_at_once() -> None:
    # No calendar has a moment after so long.
    with capture_logs() as logs:
        async with House(schedule_s=(float("inf"),)) as house:
            url, new = at("a.example")
            house.mailbox.answer(url, 500)
            await house.post.ended(new)
            await house.settle()
            assert len(house.mailbox.got) == 1
            await house.pass_time(1)
            (delivery,) = await house.post.all()
            assert delivery.state is DeliveryState.DELIVERED
    (entry,) = [each for each in logs if each["log_level"] == "error"]
    assert entry["exc_info"] is True
    assert entry["id"] == delivery.id


async def test_while_the_store_is_away_no_attempt_is_used_up() -> None:
    async with House(schedule_s=()) as house:
        right, house.make_request = house.make_request, _away  # type: ignore[method-assign]
        await house.post.ended(a_hooked_task())
        await house.pass_time(3)
        (delivery,) = await house.post.all()
        assert (delivery.state, delivery.tries) == (DeliveryState.WAITING, 0)
        house.make_request = right  # type: ignore[method-assign]
        await house.pass_time(1)
        assert (await house.post.get(delivery)).state is DeliveryState.DELIVERED


async def _away(delivery: Delivery) -> HookRequest:
    raise Unavailable("the store is away")


async def test_while_the_store_is_away_nothing_is_sent_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with House() as house:
        tell = house.outbox.record_attempts

        async def away(told: object) -> list[Delivery | None]:
            raise Unavailable("the store is away")

        monkeypatch.setattr(house.outbox, "record_attempts", away)
        await house.post.ended(a_hooked_task())
        await house.pass_time(3)
        assert len(house.mailbox.got) == 1
        monkeypatch.setattr(house.outbox, "record_attempts", tell)
        await house.pass_time(1)
        (delivery,) = await house.post.all()
        assert delivery.state is DeliveryState.DELIVERED
        assert len(house.mailbox.got) == 1


async def test_what_was_under_way_when_it_died_is_sent_again_under_the_same_id() -> None:
    house = House()
    async with house:
        url, new = at("a.example")
        house.mailbox.held[url] = asyncio.Event()
        await house.post.ended(new)
        await house.settle()
        assert house.running is not None
        house.running.cancel()
        (before,) = await house.post.due()
        again = House()
        again.store, again.post = house.store, house.post
        successor = Dispatcher(
            house.outbox, house.clock, again.mailbox.send, again, WebhooksSettings(), Middle()
        )
        running = asyncio.create_task(successor.run(_always))
        await house.settle()
        running.cancel()
        assert again.mailbox.got == house.mailbox.got
        assert (await house.post.get(before)).state is DeliveryState.DELIVERED


async def _always() -> bool:
    return True
