"""Files on their way out of a worker, and what of them stays in its memory."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest

from conformance.dispatch import MemoryDispatch
from manual_clock import ManualClock
from swell.core.records import ModelCard
from swell.protocol.worker_messages import Ask, Registration, Upload
from swell.runtime.ipc_messages import Part, Pixels
from swell.worker.encoder_pool import Encoders
from swell.worker.inflight import Brought, InflightTask, InflightTasks, Parts
from swell.worker.task_results import Delivery, Uploader
from swell.worker.task_spans import TaskTraces

SIDE = 16


@pytest.fixture
async def encoders() -> AsyncIterator[Encoders]:
    # A thread lets go of what it was given a little after it is done.
    encoders = Encoders(1)
    yield encoders
    encoders.close()


def a_delivery(encoders: Encoders, dispatch: MemoryDispatch) -> Delivery:
    courier = Uploader(dispatch, dispatch.clock, lambda: "w")
    traces = TaskTraces(dispatch.clock, "w")
    return Delivery(encoders, courier, "png", traces)


async def a_held(dispatch: MemoryDispatch) -> tuple[InflightTask, Parts]:
    """Return a task that a worker has just taken, and its files: none is on its way."""
    card = ModelCard(name="test/files", version="1")
    worker = await dispatch.register(Registration(name="w", models=[card]))
    await dispatch.submit("test/files")
    grant = await dispatch.lease(Ask(worker_id=worker.worker_id, n=1))
    held = InflightTasks(slots=1).hold(grant.tasks[0], "key", 0.0)
    held.parts = Parts()
    return held, held.parts


def a_part(index: int, data: bytes) -> Part:
    return Part(1, index, 5 + index, 5, Pixels("RGB", SIDE, SIDE, data, "", b"{}", 5 + index))


async def test_pixels_of_files_that_are_there_are_let_go_of_while_their_task_goes_on(
    encoders: Encoders,
) -> None:
    dispatch = MemoryDispatch(ManualClock())
    delivery = a_delivery(encoders, dispatch)
    held, parts = await a_held(dispatch)
    pixels = [bytes([n]) * (3 * SIDE * SIDE) for n in range(3)]
    before = [sys.getrefcount(data) for data in pixels]
    told: list[Brought] = []
    for index in range(3):
        bring = asyncio.create_task(delivery.bring(held, a_part(index, pixels[index])))
        parts.add(index, bring, told.append)
        await bring
    brought = await parts.first(3)
    assert [sys.getrefcount(data) for data in pixels] == before
    assert told == brought
    assert [(each.index, each.seed) for each in brought] == [(0, 5), (1, 6), (2, 7)]
    assert all(each.artifact.key in dispatch.objects for each in brought)


async def test_pixels_are_let_go_of_before_the_file_that_they_became_is_stored(
    encoders: Encoders,
) -> None:
    pixels = bytes(3 * SIDE * SIDE)
    before = sys.getrefcount(pixels)
    seen: list[int] = []

    class Slow(MemoryDispatch):
        async def put(self, upload: Upload, data: bytes, content_type: str) -> None:
            seen.append(sys.getrefcount(pixels))
            await super().put(upload, data, content_type)

    dispatch = Slow(ManualClock())
    held, _ = await a_held(dispatch)
    await a_delivery(encoders, dispatch).bring(held, a_part(0, pixels))
    assert seen == [before]
