"""`swell autoscale`, and the autoscaler inside a backend process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import msgspec
import typer
import uvloop

from swell.bootstrap.autoscaler import Access, Autoscaler, build_autoscaler, needs_token
from swell.bootstrap.backend import build_backend, close_backend
from swell.bootstrap.logging import configure_logging
from swell.bootstrap.storage import is_shared
from swell.cli.added import ref_of
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import CommandFailed, print_json, table, talk
from swell.cli.service import Interrupts, Service
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest
from swell.core.event_bus import MessageKind, PeerMessage
from swell.core.provider import InstanceState
from swell.settings.load import Settings

#: Time for a worker to return its leases, in addition to `worker.handover_s`, in seconds.
_RELEASE_S = 2.0

_POLL_S = 0.1


def autoscale(
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what it would do now, and why; change nothing. It does not read reclaim "
            "notices in queues of providers.",
        ),
    ] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Run the autoscaler as its own process. If several run, one leads."""
    settings = settings_from(config, data).settings
    if not settings.pools:
        raise InvalidRequest(
            "no pools: define them in swell.toml, as [pools.NAME] with provider, "
            "models, least and most"
        )
    if not dry_run and not is_shared(settings):
        raise InvalidRequest(
            "an embedded database has one process, which scales its pools itself (`swell up` or "
            "`swell serve`): to scale apart, set store.url to a PostgreSQL"
        )
    configure_logging(settings.log)
    uvloop.run(_dry_run(settings, as_json) if dry_run else _run(settings, SystemClock()))


@contextlib.asynccontextmanager
async def scaled(
    settings: Settings,
    clock: Clock,
    service: Service,
    token: str,
    interrupts: Interrupts,
) -> AsyncIterator["asyncio.Task[None]"]:
    """Run the autoscaler next to a backend while the block runs.

    Yields a task that ends if the autoscaler fails; it never ends without pools.

    Args:
        settings: Settings with the pools.
        clock: The time.
        service: The backend.
        token: Key of workers that end with this process; empty if it starts none.
        interrupts: The second signal ends draining early.
    """
    if not settings.pools:
        idle = asyncio.create_task(_for_ever())
        yield idle
        idle.cancel()
        return
    fleet = service.app.service.fleet

    async def wake() -> None:
        await fleet.refresh()
        await service.backend.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])

    access = Access(service.url, "" if needs_token(settings) else token)
    autoscaler = build_autoscaler(
        settings,
        clock,
        service.backend,
        access,
        wake=wake,
        ref_of=lambda ref: ref_of(ref, settings),
    )
    running = asyncio.create_task(autoscaler.controller.run())
    try:
        yield running
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await _leave(settings, autoscaler, interrupts)


async def _leave(settings: Settings, autoscaler: Autoscaler, interrupts: Interrupts) -> None:
    """Drain the workers that end with this process; others continue."""
    await autoscaler.controller.close()
    outliving = needs_token(settings)
    own = [pool for pool in autoscaler.pools if pool.name not in outliving]
    drain_s, release_s = settings.pool.drain_s, settings.worker.handover_s + _RELEASE_S

    async def end(grace_s: float) -> list[str]:
        ids = []
        for pool in own:
            listed = await pool.provider.instances(pool.name)
            mine = [each.id for each in listed if each.state is not InstanceState.ENDED]
            await pool.provider.terminate(mine, grace_s=grace_s)
            ids += mine
        return ids

    async def ended() -> None:
        while await _living(autoscaler, own_names):
            await asyncio.sleep(_POLL_S)

    own_names = [pool.name for pool in own]
    if await end(drain_s + release_s + _RELEASE_S):
        with talk.status("workers finish their tasks; press Ctrl-C again to stop now"):
            waiting = asyncio.create_task(ended())
            insisted = asyncio.create_task(interrupts.second.wait())
            await asyncio.wait(
                {waiting, insisted}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not waiting.done():
                await end(release_s)
                await waiting
            insisted.cancel()
    await autoscaler.close()


async def _living(autoscaler: Autoscaler, names: Sequence[str]) -> bool:
    for pool in autoscaler.pools:
        if pool.name in names:
            listed = await pool.provider.instances(pool.name)
            if any(each.state is not InstanceState.ENDED for each in listed):
                return True
    return False


async def _run(settings: Settings, clock: Clock) -> None:
    interrupts = Interrupts()
    interrupts.install()
    backend = await build_backend(settings, clock)
    try:

        async def wake() -> None:
            await backend.bus.broadcast([PeerMessage(kind=MessageKind.WORKERS)])

        url = settings.autoscale.url or settings.server.public_url
        if not url:
            raise InvalidRequest(
                "workers need the address of the backend: set autoscale.url or server.public_url"
            )
        autoscaler = build_autoscaler(
            settings,
            clock,
            backend,
            Access(url, ""),
            wake=wake,
            ref_of=lambda ref: ref_of(ref, settings),
        )
        talk.print(f"scaling {', '.join(settings.pools)}", markup=False)
        running = asyncio.create_task(autoscaler.controller.run())
        stop = asyncio.create_task(interrupts.first.wait())
        try:
            await asyncio.wait({running, stop}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
                raise CommandFailed("the autoscaler ended: see its log above")
        finally:
            for task in (running, stop):
                task.cancel()
            await asyncio.gather(running, stop, return_exceptions=True)
            await _leave(settings, autoscaler, interrupts)
    finally:
        await close_backend(backend)


async def _dry_run(settings: Settings, as_json: bool) -> None:
    backend = await build_backend(settings, clock := SystemClock())
    try:
        autoscaler = build_autoscaler(
            settings, clock, backend, Access("http://127.0.0.1", "-"), wake=_nobody
        )
        looked = await autoscaler.controller.look()
        await autoscaler.close()
    finally:
        await close_backend(backend)
    if looked is None:
        raise CommandFailed("the database cannot be read: see the log above")
    sight, plan, actions = looked
    if as_json:
        told = {
            "observation": sight.observation,
            "plan": plan,
            "decisions": actions.decisions,
            "busy_known": sight.held is not None,
            "queues_left_alone": queues_left_alone(settings),
        }
        print_json(msgspec.to_builtins(told))
        return
    rows: list[tuple[Any, ...]] = []
    for view in sight.observation.pools:
        pool = plan.pools.get(view.pool)
        if pool is not None:
            now = (view.ready, view.busy, len(view.booting), view.draining)
            rows.append((view.pool, pool.desired, *now, pool.launch, pool.cancel_boots, pool.drain))
    columns = ("POOL", "DESIRED", "READY", "BUSY", "BOOTING", "DRAINING")
    table((*columns, "LAUNCH", "CANCEL", "DRAIN"), rows, empty="no pools")
    for reason in plan.reasons:
        talk.print(f"  {reason.about}: {reason.text}", markup=False)
    for relief in plan.relief:
        talk.print(
            f"  {relief.model}: {relief.admitted:.0%} of new tasks can start in time, a new one "
            f"waits {relief.wait_s:.0f} s",
            markup=False,
        )

    if sight.held is None and any(view.ready for view in sight.observation.pools):
        talk.print(
            "  no backend has reported which workers are busy: all count as busy, and none is "
            "stopped",
            markup=False,
        )
    if left := queues_left_alone(settings):
        talk.print(
            f"  reclaim notices may wait in queues that only the running autoscaler reads: "
            f"{', '.join(left)}",
            markup=False,
        )


def queues_left_alone(settings: Settings) -> list[str]:
    """Return the pools with a queue of reclaim notices, which a dry run must not read.

    Reading changes the queue: Amazon SQS counts each receipt, and moves messages with too many
    receipts to a dead-letter queue, if there is one.
    """
    return [name for name, pool in settings.pools.items() if pool.options.get("notices_queue")]


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def _nobody() -> None:
    """Do nothing: a dry run needs no wake-up."""
