"""Streams of NATS as operators have changed them."""

import secrets

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from conformance.external import QUEUE, a_ready_task, received
from servers import NatsServer
from swell.core.errors import Unavailable
from swell.queues.nats_queue import NatsQueues


async def carries(queues: NatsQueues) -> bool:
    task = a_ready_task()
    await queues.send(QUEUE, [task])
    (message,) = await received(queues, 1)
    await queues.delete([message])
    return message.task_id == task.id


async def test_a_stream_that_an_operator_has_changed_is_used_as_it_is(
    nats_server: NatsServer,
) -> None:
    name = f"t{secrets.token_hex(4)}"
    client = Client()
    await client.connect(nats_server.url)
    try:
        for round_ in range(2):
            queues = NatsQueues(f"{nats_server.url}/{name}")
            assert await carries(queues)
            await queues.close()
            config = (await client.jetstream().stream_info(name)).config
            assert config.description == (None if round_ == 0 else "of operations")
            config.description, config.max_bytes = "of operations", 1 << 20
            await client.jetstream().update_stream(config)
    finally:
        await client.close()


async def test_a_stream_that_is_for_something_else_is_refused(nats_server: NatsServer) -> None:
    name = f"t{secrets.token_hex(4)}"
    client = Client()
    await client.connect(nats_server.url)
    queues = NatsQueues(f"{nats_server.url}/{name}")
    try:
        await client.jetstream().add_stream(StreamConfig(name=name, subjects=[f"{name}.other"]))
        with pytest.raises(Unavailable, match="not for Swell's queues"):
            await queues.send(QUEUE, [a_ready_task()])
    finally:
        await queues.close()
        await client.close()
