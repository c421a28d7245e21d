"""The dispatcher with real connections, a database and the system's clock."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web

from conformance.factories import a_lease_request, a_new_task, a_settlement
from loopback import listening
from swell.core.clock import SystemClock
from swell.core.outbox import Delivery, DeliveryFilter, DeliveryState
from swell.core.webhook import ENDS, Webhook
from swell.db.sqlite import SqliteDatabase
from swell.db.task_store import Store
from swell.db.webhook_deliveries import Outbox
from swell.net.safe_http import Outbound
from swell.net.url_policy import UrlPolicy
from swell.queues.table_broker import Broker
from swell.server.webhooks.dispatcher import Dispatcher
from swell.server.webhooks.webhook_sender import HookRequest, send
from swell.server.webhooks.webhook_signing import new_secret
from swell.settings.backend_settings import WebhooksSettings

#: An attempt at a receiver that hangs takes so long, in seconds: longer than the test waits.
TIMEOUT_S = 60.0
PATIENCE_S = 20.0


class Shop:
    """One key whose tasks name webhooks, and the dispatcher that sends them."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        self.database = SqliteDatabase.open(folder / "swell.db", clock)
        self.store = Store(self.database)
        self.broker = Broker(self.database)
        self.outbox = Outbox(self.database)
        self.outbound = Outbound(
            UrlPolicy.of(["127.0.0.1"], ["any"], "webhooks"), TIMEOUT_S, connections=0
        )
        self.dispatcher = Dispatcher(
            self.outbox, clock, partial(send, self.outbound, clock), self, WebhooksSettings()
        )
        self.outbox.on_post(self.dispatcher.wake)

    async def make_request(self, delivery: Delivery) -> HookRequest:
        (task,) = await self.store.get([delivery.task_id])
        assert task is not None
        assert task.webhook is not None
        return HookRequest(url=task.webhook.url, body=b"{}", signing=[new_secret()])

    def paused(self) -> Sequence[str]:
        return ()

    async def note_gone(self, delivery: Delivery) -> None:
        pass

    def note_attempt(self, delivery: Delivery) -> None:
        pass

    async def end_tasks(self, urls: Sequence[str]) -> None:
        """Accept and end a task for each of these webhooks."""
        await self.store.accept([a_new_task(webhook=Webhook(url=url, events=ENDS)) for url in urls])
        tasks = await self.broker.lease(a_lease_request(len(urls)))
        assert len(tasks) == len(urls)
        await self.store.settle([a_settlement(task, None) for task in tasks])


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    shop = Shop(tmp_path)

    async def leads() -> bool:
        return True

    running = asyncio.create_task(shop.dispatcher.run(leads))
    yield shop
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await shop.dispatcher.stop(grace_s=0.0)
    await shop.outbound.close()
    await shop.database.close()


@contextlib.contextmanager
def hanging(n: int) -> Iterator[list[str]]:
    """Listen at n ports, and answer nothing."""
    with contextlib.ExitStack() as open_:
        sockets = [open_.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
            each.listen(32)
        yield [f"http://127.0.0.1:{each.getsockname()[1]}/in" for each in sockets]


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "each_has"), [(8, 20), (100, 3)])
async def test_receivers_that_hang_hold_up_no_other_receiver_of_their_key(
    shop: Shop, hosts: int, each_has: int
) -> None:
    got = asyncio.Queue[str]()

    async def take(request: web.Request) -> web.Response:
        await got.put(request.path)
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/{rest:.*}", take)
    with hanging(hosts) as silent:
        async with listening(app, patience_s=1.0) as url, asyncio.timeout(PATIENCE_S):
            await shop.end_tasks(silent * each_has)
            for number in range(5):
                await shop.end_tasks([f"{url}/{number}"])
                assert await got.get() == f"/{number}"
        page = await shop.outbox.page(DeliveryFilter(state=DeliveryState.WAITING), limit=1000)
        # None of them was given up for that.
        assert len([each for each in page.deliveries if each.tries == 0]) >= hosts * each_has
