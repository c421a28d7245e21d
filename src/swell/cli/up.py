"""`swell up` and `swell serve`: run the backend, with or without workers."""

import asyncio
import json
import shlex
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiohttp
import typer
import uvloop
from rich.markup import escape

from swell.bootstrap.autoscaler import needs_token
from swell.bootstrap.local_workers import Fleet, build_fleet
from swell.bootstrap.logging import configure_logging
from swell.cli.added import optional_names, with_added
from swell.cli.inputs import as_flags, parse_inputs
from swell.cli.keyring import Keyring, open_keyring
from swell.cli.notify import tell_ready
from swell.cli.options import Browser, Config, Data, Models, places, settings_from
from swell.cli.output import CommandFailed, Exit, talk
from swell.cli.output import data as stdout
from swell.cli.processes import run_member, run_processes
from swell.cli.scaling import scaled
from swell.cli.service import Interrupts, Service, launchable_models, open_service
from swell.cli.sign_in import show_link
from swell.cli.tls import read_again_at_hangup, tell_fingerprint
from swell.client.access import Access
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest, NotFound
from swell.core.provider import Instance
from swell.core.records import ModelCard
from swell.server.billing.cost_routes import instance_ended
from swell.settings.load import Settings

#: Called once when the service is ready; returns True to stop it.
OnReady = Callable[[Keyring], Awaitable[bool]]

#: `swell up` gives up after this many failed starts without a registered worker.
_HOPELESS = 4

#: Exit codes of workers that a restart cannot fix: a model is wrong, or does not exist.
_FINAL = frozenset({Exit.USAGE, Exit.NOT_FOUND})

_POLL_S = 0.05

#: Time for a worker to return its leases, in addition to `worker.handover_s`, in seconds.
_RELEASE_S = 2.0


class WrongModels(InvalidRequest):
    """The workers cannot serve the configured models."""

    title = "No worker can be started"


class MissingModels(NotFound):
    """The workers do not find the configured models."""

    title = "No worker can be started"


@dataclass(slots=True)
class _End:
    """A worker that ended unexpectedly."""

    instance: Instance
    is_told: bool = False


Host = Annotated[str | None, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int | None,
    typer.Option(help="Port to listen on; 0 takes a free one. Without it: 8000 or the next free."),
]


def up(
    workers: Annotated[
        int | None, typer.Option("--workers", "-n", help="Number of workers.")
    ] = None,
    models: Models = None,
    pipelines: Annotated[
        list[str] | None,
        typer.Option(
            "--pipelines",
            metavar="FILE",
            help="Pipelines (server.pipelines): FILE.toml, FILE.py or swell/picture, the default; "
            "may be repeated.",
        ),
    ] = None,
    host: Host = None,
    port: Port = None,
    slots: Annotated[int | None, typer.Option(help="Most tasks that each worker holds.")] = None,
    device: Annotated[str | None, typer.Option(help="Device, such as cpu or cuda:0.")] = None,
    browser: Annotated[bool | None, Browser] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the ready line as JSON on stdout.")
    ] = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Start everything on this machine: backend, queue, file store, workers and web app.

    With pools in the settings (`[pools.NAME]`) the autoscaler starts their workers.
    """
    settings = settings_from(
        config,
        data,
        pool__workers=workers,
        worker__models=_words(models),
        server__pipelines=_words(pipelines),
        worker__slots=slots,
        worker__device=device,
        server__host=host,
        server__port=port,
        client__browser=browser,
    ).settings
    if settings.pools:
        if workers is not None or models or slots is not None or device is not None:
            raise InvalidRequest(
                f"the settings define workers by pools ({', '.join(settings.pools)}): leave out "
                "--workers, --models, --slots and --device, or remove [pools.NAME] there"
            )
        # The autoscaler starts the workers of pools.
        fixed = settings.pool.model_copy(update={"workers": 0})
        _run(settings.model_copy(update={"pool": fixed}), as_json, places(config, data))
        return
    _run(with_added(settings), as_json, places(config, data))


def serve(
    host: Host = None,
    port: Port = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--workers",
            help="Backend processes that share the port (server.processes); more than one needs "
            "PostgreSQL.",
        ),
    ] = None,
    fd: Annotated[int | None, typer.Option("--fd", hidden=True)] = None,
    browser: Annotated[bool | None, Browser] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the ready line as JSON on stdout.")
    ] = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Start the backend only; workers join by URL and key, or come from pools."""
    settings = settings_from(
        config,
        data,
        server__host=host,
        server__port=port,
        client__browser=browser,
        server__processes=processes,
        pool__workers=0,
    ).settings

    if fd is not None:
        configure_logging(settings.log)
        uvloop.run(run_member(settings, SystemClock(), fd))
    elif settings.server.processes > 1:
        configure_logging(settings.log)
        command = [sys.executable, "-m", "swell", "serve", *shlex.split(places(config, data))]
        ready = _teller(settings, as_json, places(config, data))
        uvloop.run(run_processes(settings, SystemClock(), command, ready))
    else:
        _run(settings, as_json, places(config, data))


def _run(settings: Settings, as_json: bool, found_by: str) -> None:
    configure_logging(settings.log)
    uvloop.run(run_up(settings, SystemClock(), _teller(settings, as_json, found_by)))


def _teller(settings: Settings, as_json: bool, found_by: str) -> OnReady:
    """Return a function that prints the ready line with the key."""

    async def ready(keyring: Keyring) -> bool:
        workers = await keyring.backend.registry.workers()
        there = {name for worker in workers if not worker.gone_at for name in worker.models}
        cards = await keyring.backend.registry.models()
        names = launchable_models(settings)
        for name in (each for each in optional_names(settings) if each not in there):
            logs = escape(str(settings.data_dir / "logs"))
            talk.print(f"[yellow]left out[/] {escape(name)}: loading failed, see {logs}")
        command = trial(served(cards, there, names), found_by)
        _tell_ready(settings, keyring.access, as_json, command)
        tell_ready()
        return False

    return ready


def served(
    cards: Sequence[ModelCard], there: Collection[str], names: Sequence[str]
) -> list[ModelCard]:
    """Return the models that workers serve, pipelines first.

    Args:
        cards: Cards of all registered models.
        there: Names of the models that workers have.
        names: Names in the order of the settings.
    """

    def is_served(card: ModelCard) -> bool:
        if card.pipeline is None:
            return card.name in there
        return all(stage.model in there for stage in card.pipeline.stages)

    def place(card: ModelCard) -> int:
        if card.pipeline is not None:
            return -1
        return names.index(card.name) if card.name in names else len(names)

    return sorted(filter(is_served, cards), key=place)


async def run_up(settings: Settings, clock: Clock, on_ready: OnReady) -> None:
    """Run the backend and its workers until a signal arrives or `on_ready` returns True.

    Without workers, SIGHUP loads the certificate again instead of ending the process.

    Raises:
        Conflict: Another backend runs on the same data folder.
        CommandFailed: The port is taken, or no worker could be started.
        WrongModels, MissingModels: No worker can serve these models.
    """
    interrupts = Interrupts()
    interrupts.install()
    async with (
        open_service(settings, clock, hurry=interrupts.second) as service,
        open_keyring(
            service.backend,
            settings.data_dir,
            service.url,
            service.local_url,
            pools=_pools_of(settings),
            ca_file=service.ca_file,
        ) as keyring,
        scaled(settings, clock, service, keyring.worker_token, interrupts) as scaling,
    ):
        if settings.pool.workers == 0:
            read_again_at_hangup(service.tls)
        ends: list[_End] = []
        fleet = build_fleet(
            settings,
            clock,
            url=service.url,
            token=keyring.worker_token,
            on_end=lambda instance: ends.append(_End(instance)),
        )
        keeping = asyncio.create_task(fleet.run())
        main = asyncio.create_task(_until_done(settings, service, fleet, ends, keyring, on_ready))
        stop = asyncio.create_task(interrupts.first.wait())
        try:
            await asyncio.wait(
                {main, stop, keeping, scaling, service.serving},
                return_when=asyncio.FIRST_COMPLETED,
            )
            for ended in (main, keeping, scaling, service.serving):
                if ended.done():
                    ended.result()
            if service.serving.done():
                raise CommandFailed("the HTTP service ended: see its log above")
        finally:
            for task in (main, stop, keeping):
                task.cancel()
            await asyncio.gather(main, stop, keeping, return_exceptions=True)
            await _drain(settings, fleet, interrupts)


def _pools_of(settings: Settings) -> list[str]:
    """Return the pools of the workers that this process starts."""
    if settings.pool.workers > 0:
        return [settings.worker.pool]
    outliving = needs_token(settings)
    return [
        name
        for name, table in settings.pools.items()
        if name not in outliving and table.provider != "external"
    ]


async def _until_done(
    settings: Settings,
    service: Service,
    fleet: Fleet,
    ends: list[_End],
    keyring: Keyring,
    on_ready: OnReady,
) -> None:
    """Wait until the service is ready, call `on_ready`, and report workers that end."""
    is_told = False
    talk.print(f"Listening on {service.url}", markup=False)
    if fleet.making:
        talk.print(f"Making an environment for {', '.join(fleet.making)}", markup=False)
    if fleet.keepers:
        n, names = settings.pool.workers, ", ".join(settings.worker.models) or "no models"
        which = "1 worker" if n == 1 else f"{n} workers"
        talk.print(f"Starting {which}: {names}", markup=False)
    service.app.service.cards.is_starting = bool(fleet.keepers)
    with talk.status("Swell is starting"):
        while (why := await _why_not_ready(settings, service, fleet)) is not None:
            if why and not is_told:
                # Read requests work already, and systemd stops a service that never gets ready.
                is_told = True
                tell_ready()
                talk.print(
                    f"[yellow]not ready[/]: {escape(why)}; {service.url} answers read requests"
                )
            _check_final(ends, fleet)
            await _take_ends(ends, fleet, service)
            if len(ends) >= _HOPELESS:
                raise CommandFailed("no worker could be started: see the lines above")
            await asyncio.sleep(_POLL_S)
    service.app.service.cards.is_starting = False
    tell_fingerprint(service.tls)
    if await on_ready(keyring):
        return
    while True:
        await _take_ends(ends, fleet, service)
        await asyncio.sleep(_POLL_S * 10)


def _check_final(ends: list[_End], fleet: Fleet) -> None:
    """Give up if a worker has ended in a way that a restart cannot fix.

    Raises:
        WrongModels, MissingModels: With the last lines of the worker's log.
    """
    for end in ends:
        if end.instance.exit_code in _FINAL:
            lines = _tail(fleet.provider.log_path(end.instance.id)).splitlines()
            kind = MissingModels if end.instance.exit_code == Exit.NOT_FOUND else WrongModels
            raise kind("\n  ".join(line.strip() for line in lines))


async def _why_not_ready(settings: Settings, service: Service, fleet: Fleet) -> str | None:
    """Return why the service is not ready: empty while workers start, None if it is ready.

    It is ready if it answers, and a worker of each pool has registered.
    """
    if fleet.keepers:
        workers = await service.backend.registry.workers()
        there = {each.pid for each in workers if each.gone_at is None}
        for keeper in fleet.keepers:
            instances = await fleet.provider.instances(keeper.pool)
            if not there & {fleet.provider.pid(each.id) for each in instances}:
                return ""
    async with (
        aiohttp.ClientSession() as session,
        # The public name may not lead here before the service is ready, and the certificate need
        # not cover the local address. The request has no secret, so skip the verification.
        session.get(f"{service.local_url}/health/ready", ssl=False) as answer,
    ):
        return None if answer.status == 200 else str((await answer.json())["detail"])


async def _drain(settings: Settings, fleet: Fleet, interrupts: Interrupts) -> None:
    """Let workers finish their tasks; a second signal makes them hand the tasks over."""
    drain_s, release_s = settings.pool.drain_s, settings.worker.handover_s + _RELEASE_S
    # Add time for returning leases.
    ids = await fleet.drain(drain_s + release_s + _RELEASE_S)
    if ids:
        with talk.status("workers finish their tasks; press Ctrl-C again to stop now"):
            ended = asyncio.create_task(fleet.provider.wait_ended(ids))
            insisted = asyncio.create_task(interrupts.second.wait())
            await asyncio.wait(
                {ended, insisted}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not ended.done():
                await fleet.drain(release_s)
                await ended
            insisted.cancel()
    await fleet.provider.close()


async def _take_ends(ends: list[_End], fleet: Fleet, service: Service) -> None:
    """Report workers that ended, and mark them as gone before their heartbeat times out."""
    for end in ends:
        if end.is_told:
            continue
        end.is_told = True
        await instance_ended(service.app.service, end.instance)
        path = fleet.provider.log_path(end.instance.id)
        how = f"exit code {end.instance.exit_code}"
        talk.print(f"[yellow]a worker ended[/] ({how}); last lines of {escape(str(path))}:")
        talk.print(_tail(path), markup=False)


def _tail(path: Path, lines: int = 14) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def trial(cards: Sequence[ModelCard], found_by: str = "") -> str:
    """Return a command that submits the example of the first model that has one.

    Args:
        cards: Cards of served models; the first with an example without files is used.
        found_by: Options with which the command finds the server.
    """
    for card in cards:
        for example in card.examples:
            flags = as_flags(example)
            try:
                is_whole = parse_inputs(_pairs(flags), card.input_schema) == example
            except InvalidRequest:
                is_whole = False  # the example has a placeholder for a file
            if is_whole:
                words = f"swell tasks submit {card.name} {flags}".rstrip()
                return f"{words} --watch{found_by}"
    return f"swell tasks submit MODEL -i name=value --watch{found_by}"


def _pairs(flags: str) -> list[str]:
    return [word for word in shlex.split(flags) if word != "-i"]


def _tell_ready(settings: Settings, access: Access, as_json: bool, command: str) -> None:
    if as_json:
        line = {"ready": True, "url": access.url, "key": access.key}
        stdout.print(json.dumps(line), markup=False)
        stdout.file.flush()
        return
    stdout.print(f"Swell is ready: {access.url}", markup=False)
    show_link(settings, access)
    talk.print(f"  Try it: {command}", markup=False, soft_wrap=True)
    talk.print("  `swell models ls` lists the models; Ctrl-C stops")


def _words(models: list[str] | None) -> str | None:
    return ",".join(models) if models else None
