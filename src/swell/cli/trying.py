"""`swell models try`: serves a model on trial, here or as a worker of a server."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from pydantic import SecretStr

from swell.bootstrap.logging import configure_logging
from swell.cli.added import ref_of
from swell.cli.adding import write_trial
from swell.cli.options import Config, Data, Key, settings_from
from swell.cli.output import CommandFailed, Refused, print_json, talk
from swell.cli.output import data as stdout
from swell.cli.remote import Remote, call
from swell.client.access import find_access
from swell.core.clock import SystemClock
from swell.core.errors import Conflict, InvalidRequest
from swell.sdk.model_loader import load_models
from swell.settings.load import Settings

if TYPE_CHECKING:
    from swell.cli.keyring import Keyring

#: Interval for checking the file and the workers, in seconds.
_LOOK_S = 0.5


def try_model(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="FILE.py, a diffusers folder, a module, or a built-in or added model.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Name of the model, for a folder."),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option("--reload", help="Load FILE.py as a new version when it changes."),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Join this server as a worker."),
    ] = None,
    key: Key = None,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="With --url: API key with the scope worker, safer in SWELL_WORKER__TOKEN. Without "
            "it, --key makes one that is revoked at the end.",
        ),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    device: Annotated[str | None, typer.Option(help="Device, such as cpu or cuda:0.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the ready line as JSON on stdout.")
    ] = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Serve a model on trial until Ctrl-C: only requests that name its version reach it.

    Without --url it starts a backend and a worker here. An edited file becomes a new version: at
    the next start, or at once with --reload.
    """
    if reload and (url is not None or not file.endswith(".py")):
        raise InvalidRequest("--reload is for a FILE.py served on this machine: leave it out")
    settings = settings_from(
        config,
        data,
        server__port=port,
        client__url=url,
        client__key=key,
        worker__url=url,
        worker__token=token,
        worker__device=device,
        worker__stage="trial",
    ).settings
    with _served(file, name, settings) as ref:
        if url is None:
            _serve(settings, ref, reload, as_json)
        else:
            _join(settings, ref, as_json)


@contextmanager
def _served(file: str, name: str | None, settings: Settings) -> Iterator[str]:
    """Yield the reference of a model; for a folder, of a temporary file that describes it."""
    if not Path(file).is_dir():
        if name is not None:
            raise InvalidRequest("--name is for folders of weights; code names its model itself")
        yield ref_of(file, settings)
        return
    with tempfile.TemporaryDirectory(prefix="swell-trial-") as folder:
        yield str(write_trial(file, name, Path(folder)))


def _chosen(settings: Settings, ref: str) -> Settings:
    """Return the settings of a worker that serves only this model."""
    worker = settings.worker.model_copy(update={"models": (ref,), "optional": (), "added": False})
    return settings.model_copy(update={"worker": worker})


def _serve(settings: Settings, ref: str, reload: bool, as_json: bool) -> None:
    # Imported here because other commands about models do not need the service.
    from swell.cli.sign_in import show_link  # noqa: PLC0415
    from swell.cli.up import run_up  # noqa: PLC0415

    pool = settings.pool.model_copy(update={"workers": max(1, settings.pool.workers)})
    chosen = _chosen(settings, ref).model_copy(update={"pool": pool, "pools": {}})
    configure_logging(chosen.log)
    looking: set[asyncio.Task[None]] = set()

    async def ready(keyring: "Keyring") -> bool:
        versions = await _live(keyring)
        # Read the file's time before the message, because the user may save right after it.
        saved = _saved(Path(ref)) if reload else None
        _tell(keyring.access.url, versions, as_json, keyring.access.key)
        if not as_json:
            show_link(settings, keyring.access)
        if reload:
            timeout_s = settings.client.timeout_s
            reloading = _reload(Path(ref), saved, versions, keyring, timeout_s, as_json)
            looking.add(asyncio.create_task(reloading))
        return False

    async def run() -> None:
        try:
            await run_up(chosen, SystemClock(), ready)
        finally:
            for task in looking:
                task.cancel()

    uvloop.run(run())


async def _reload(
    file: Path,
    saved: tuple[int, int] | None,
    known: dict[str, str],
    keyring: "Keyring",
    timeout_s: float,
    as_json: bool,
) -> None:
    """Drain the worker whenever the file changes; the next worker loads the new version."""
    while True:
        await asyncio.sleep(_LOOK_S)
        now = _saved(file)
        if now in (saved, None):
            continue
        saved = now
        talk.print(f"{file} changed: loading it as a new version", markup=False)
        async with Remote(keyring.access, timeout_s) as remote:
            for worker in (await remote.get("/v1/workers"))["workers"]:
                if worker["state"] not in ("gone", "draining"):
                    await remote.post(f"/v1/workers/{worker['id']}/drain")
        known = await _new_version(keyring, known, timeout_s, as_json)


async def _new_version(
    keyring: "Keyring", known: dict[str, str], timeout_s: float, as_json: bool
) -> dict[str, str]:
    """Wait for a worker with a new version, announce it, and return the versions served."""
    for _ in range(round(timeout_s / _LOOK_S)):
        await asyncio.sleep(_LOOK_S)
        there = await _live(keyring)
        if there and there != known:
            _tell(keyring.access.url, there, as_json, None)
            return there
    talk.print("no new version: the model did not change, or see the lines above")
    return known


async def _live(keyring: "Keyring") -> dict[str, str]:
    """Return model → version of all live workers."""
    versions: dict[str, str] = {}
    for worker in await keyring.backend.registry.workers():
        if worker.gone_at is None and not worker.draining:
            versions |= worker.models
    return versions


def _saved(file: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        there = file.stat()
        return there.st_mtime_ns, there.st_size
    return None


def _join(settings: Settings, ref: str, as_json: bool) -> None:
    # Imported here because other commands do not need it.
    from swell.cli.worker import serve_worker  # noqa: PLC0415

    url = settings.client.url.rstrip("/")
    versions = {each.name: each.version() for each in load_models(ref)}
    made: dict[str, str] | None = None
    if find_access(settings).key:
        _check_free(settings, versions)
        if not settings.worker.token.get_secret_value():
            made = call(settings, lambda remote: _worker_key(remote, sorted(versions)))
    update: dict[str, object] = {"name": "trial"}
    if made is not None:
        update["token"] = SecretStr(made["key"])
    chosen = _chosen(settings, ref)
    chosen = chosen.model_copy(update={"worker": chosen.worker.model_copy(update=update)})
    _tell(url, versions, as_json, None)
    try:
        code = serve_worker(chosen)
    finally:
        if made is not None:
            call(settings, lambda remote: remote.delete(f"/v1/keys/{made['id']}"))
    raise typer.Exit(code)


async def _worker_key(remote: Remote, models: list[str]) -> dict[str, str]:
    body = {"name": "swell models try", "scopes": ["worker"], "models": models}
    made: dict[str, str] = await remote.post("/v1/keys", body)
    return made


def _check_free(settings: Settings, versions: dict[str, str]) -> None:
    """Check that the trial gets no task that names no version.

    Raises:
        Conflict: Another version of the model is live, but was never promoted.
    """
    known = call(settings, lambda remote: remote.get("/v1/models"))["models"]
    for card in known:
        version = versions.get(card["name"])
        if version not in (None, card["version"]) and card["stage"] == "live":
            if _is_staged(settings, card["name"]):
                continue
            raise Conflict(
                f"version {card['version']} of {card['name']} is live there and was never "
                "promoted, so your version would get traffic: run `swell models rollout "
                f"{card['name']}:{card['version']} --promote` first, or rename your model"
            )


def _is_staged(settings: Settings, model: str) -> bool:
    """Whether an operator has chosen the live version of a model."""
    try:
        told = call(settings, lambda remote: remote.get(f"/v1/models/{model}/adoption"))
    except Refused:
        # The key lacks permission, or the server is older than this endpoint.
        return False
    return bool(told["is_staged"])


def _tell(url: str, versions: dict[str, str], as_json: bool, key: str | None) -> None:
    if not versions:
        raise CommandFailed("no model is served")
    pages = {name: f"{url}/models/{name}:{version}" for name, version in versions.items()}
    if as_json:
        print_json({"ready": True, "url": url, "key": key, "models": versions, "pages": pages})
        return
    for name, page in pages.items():
        stdout.print(f"{name} {versions[name]} is on trial: {page}", markup=False)
        talk.print(
            f"  Try it: swell tasks submit {name}:{versions[name]} -i NAME=VALUE --watch",
            markup=False,
        )
    talk.print("  Ctrl-C stops the trial")
