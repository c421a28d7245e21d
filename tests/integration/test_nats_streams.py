"""Streams of NATS as operators have changed them."""

import secrets

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from conformance.lanes import LANE, a_letter, received
from servers import NatsServer
from swell.brokers.nats import NatsQueues
from swell.errors import Unavailable


async def carries(queues: NatsQueues) -> bool:
    letter = a_letter()
    await queues.send(LANE, [letter])
    (message,) = await received(queues, 1)
    await queues.bury([message])
    return message.body == letter.body


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
            for stream in (name, f"{name}-dead"):
                config = (await client.jetstream().stream_info(stream)).config
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
            await queues.send(LANE, [a_letter()])
    finally:
        await queues.close()
        await client.close()


async def test_whoever_reads_a_lane_holds_messages_as_long_as_it_was_told(
    nats_server: NatsServer,
) -> None:
    name = f"t{secrets.token_hex(4)}"
    client = Client()
    await client.connect(nats_server.url)
    queues = NatsQueues(f"{nats_server.url}/{name}", hold_s=30.0)
    try:
        for hold_s in (300.0, 40.0):
            queues.hold_for(hold_s)
            await queues.receive(LANE, 1, wait_s=0)
            reader = await client.jetstream().consumer_info(name, LANE.name)
            assert reader.config.ack_wait == hold_s
    finally:
        await queues.close()
        await client.close()
