"""`swell worker`: runs one worker, which connects to a backend by URL and key."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop

from swell.bootstrap.environments import model_home
from swell.bootstrap.logging import configure_logging
from swell.bootstrap.worker import begin_worker, build_worker, worker_name
from swell.cli.added import with_added
from swell.cli.options import Config, Data, Models, settings_from
from swell.cli.output import talk
from swell.core.clock import Clock, SystemClock
from swell.settings.environment import configure_libraries
from swell.settings.load import Settings
from swell.worker.liveness_file import keep_pulse

if TYPE_CHECKING:
    # Imported after the model process has started.
    from swell.worker.worker_loop import Worker


def run_worker(
    url: Annotated[str | None, typer.Option(metavar="URL", help="The backend.")] = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="API key with the scope worker; safer in SWELL_WORKER__TOKEN."
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Poll the queue service directly: nats://… or sqs://…, as the backend's "
            "broker.url.",
        ),
    ] = None,
    models: Models = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Most tasks held at once.")] = None,
    name: Annotated[str | None, typer.Option(help="Name shown to operators.")] = None,
    pool: Annotated[str | None, typer.Option(help="Pool of the worker.")] = None,
    device: Annotated[str | None, typer.Option(help="Device, such as cpu or cuda:0.")] = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Run one worker until SIGTERM; a second SIGTERM makes it hand its tasks over."""
    settings = settings_from(
        config,
        data,
        worker__url=url,
        worker__token=token,
        worker__broker=broker,
        worker__models=",".join(models) if models else None,
        worker__slots=slots,
        worker__name=name,
        worker__pool=pool,
        worker__device=device,
    ).settings
    raise typer.Exit(serve_worker(with_added(settings)))


def serve_worker(settings: Settings) -> int:
    """Run one worker, and return its exit code."""
    configure_libraries()
    clock = SystemClock()
    home = model_home(settings, settings.worker.models, lambda line: talk.print(line, markup=False))

    async def work() -> int:
        worker: Worker | None = None
        async with _pulse(settings.worker.health_file, clock, lambda: _state(worker)):
            # The model process imports its modules while this process imports the rest.
            origin = await begin_worker(settings, clock, home)
            configure_logging(settings.log, worker=worker_name(settings))
            worker = build_worker(settings, clock, origin)
            return await worker.run()

    return uvloop.run(work())


def _state(worker: "Worker | None") -> str:
    if worker is None:
        return "starting"
    return "draining" if worker.is_draining else "working"


@contextlib.asynccontextmanager
async def _pulse(file: Path | None, clock: Clock, state: Callable[[], str]) -> AsyncIterator[None]:
    """Write the liveness file, if one is configured, while the block runs."""
    if file is None:
        yield
        return
    beating = asyncio.create_task(keep_pulse(file, clock, state))
    try:
        yield
    finally:
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
