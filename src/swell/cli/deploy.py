"""`swell deploy`: checks of a deployment, and startup scripts of worker machines."""

import asyncio
import ctypes
import secrets
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import aiohttp
import typer
import uvloop

from swell.bootstrap.logging import configure_logging
from swell.bootstrap.objects import open_objects
from swell.cli.deployment import Deployment, judge, why_none_joins, worker_url
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import CommandFailed, print_json, talk
from swell.cli.output import data as stdout
from swell.cli.parts import Finding, examine, file_limit, tell, tls
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest, SwellError
from swell.core.redact import hide_secrets
from swell.objects.url_signing import SigningSecret, SigningSecrets
from swell.providers.cloud_init import Cloud, render
from swell.providers.factory import provider_of
from swell.providers.options import MachineOptions, checked
from swell.server.admin.admin_schemas import HealthView
from swell.server.serializers import encode
from swell.settings.environment import process_environment
from swell.settings.load import Settings, load
from swell.settings.pool_settings import PoolTable

#: Longest wait for an answer, in seconds.
_PATIENCE_S: Final = 15.0

#: Answer of `GET /health/live`.
_ALIVE: Final = encode(HealthView(status="ok"))

#: Result of `ntp_adjtime` for an unsynchronized clock. Source: adjtimex(2).
_TIME_ERROR: Final = 5

#: Larger than a `struct timex`, in bytes.
_TIMEX_BYTES: Final = 512


def deploy(
    cloud: Annotated[
        Cloud | None, typer.Argument(metavar="[aws|gcp|azure]", help="Cloud of the worker machine.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(metavar="NAME", help="Worker image, made by `swell build`.")
    ] = None,
    pool: Annotated[str, typer.Option(help="Pool of the worker.")] = "default",
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The backend (worker.url).")
    ] = None,
    gpus: Annotated[bool, typer.Option(help="Give the worker the machine's GPUs.")] = True,
    spot: Annotated[
        bool, typer.Option("--spot", help="The cloud may reclaim the machine.")
    ] = False,
    drain_s: Annotated[
        float, typer.Option(min=0, help="Seconds to finish running tasks before shutdown.")
    ] = 90.0,
    env: Annotated[
        Path | None,
        typer.Option(
            "--env", metavar="FILE", help="File of NAME=VALUE lines instead of the environment."
        ),
    ] = None,
    backends: Annotated[
        int, typer.Option(min=1, help="Number of machines or containers that run a backend.")
    ] = 1,
    offline: Annotated[
        bool, typer.Option("--offline", help="Check the settings only, and open no connection.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on warnings too.")] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Check a deployment, or with a cloud print the startup script of a worker machine.

    The check reads the settings, tries the services that they name (unless --offline), and reports
    settings that are insecure or will not scale. Each line says why, and how to fix it. It exits
    with 1 on failures.

    The startup script contains the key in worker.token (SWELL_WORKER__TOKEN or
    SWELL_WORKER__TOKEN_FILE). The machine pulls the image, runs one worker, hands its tasks over
    when the cloud reclaims it, and shuts down when the worker ends. On Azure a stopped machine
    costs money until it is deleted.
    """
    if cloud is None:
        _check(env, backends, data, config, offline=offline, strict=strict, as_json=as_json)
        return
    if image is None:
        raise InvalidRequest("name the worker image with --image: `swell build` makes one")
    options = {"image": image, "gpus": gpus, "spot": spot, "drain_s": drain_s}
    _print_script(cloud, pool, checked(MachineOptions, options, "options"), url, config)


def _check(
    env: Path | None,
    backends: int,
    data: Path | None,
    config: Path | None,
    *,
    offline: bool,
    strict: bool,
    as_json: bool,
) -> None:
    environment = None if env is None else _variables(env)
    loaded = load({"data_dir": data}, config=config, environment=environment)
    settings = loaded.settings
    configure_logging(settings.log.model_copy(update={"level": "error"}))
    clock = SystemClock()
    found = [Finding("environment", "warn", warning) for warning in loaded.warnings]
    found += judge(Deployment(settings, backends))
    variables = process_environment() if environment is None else environment
    found += [*_file("settings file", _named(config, variables)), *_file("file of variables", env)]
    if not offline:
        with talk.status("trying what the settings name"):
            found += [_certificate(settings, clock), replace(file_limit(), name="open files")]
            found.append(_clock())
            found += uvloop.run(_tried(settings, clock))
    found = [replace(each, detail=hide_secrets(each.detail)) for each in found]
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        for each in found:
            tell(each)
    bad = [each.name for each in found if each.grade == "fail" or (strict and each.grade == "warn")]
    if bad:
        raise CommandFailed(f"not ready to deploy: {', '.join(dict.fromkeys(bad))}")


def _print_script(
    cloud: Cloud, pool: str, options: MachineOptions, url: str | None, config: Path | None
) -> None:
    settings = settings_from(config, None, worker__url=url).settings
    token = settings.worker.token.get_secret_value()
    if not token:
        raise InvalidRequest(
            "set SWELL_WORKER__TOKEN to a key: `swell keys create NAME --scope worker --pool POOL`"
        )
    why = why_none_joins(settings.worker.url)
    if why is not None:
        raise InvalidRequest(
            f"the worker cannot reach the backend at {settings.worker.url or 'no URL'} ({why}): "
            "name its address with --url, such as https://swell.example"
        )
    told = {
        "SWELL_WORKER__URL": settings.worker.url,
        "SWELL_WORKER__TOKEN": token,
        "SWELL_WORKER__POOL": pool,
    }
    stdout.print(
        render(cloud, options, told), markup=False, highlight=False, soft_wrap=True, end=""
    )
    if cloud == "azure":
        talk.print(
            "Azure bills a stopped machine until it is deleted: delete it when its worker has "
            "ended. In pools the autoscaler deletes it."
        )


def _variables(path: Path) -> dict[str, str]:
    """Read a file of `NAME=VALUE` lines, as systemd, docker and compose do.

    Raises:
        InvalidRequest: The file cannot be read, or a line has no `=`.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, is_one, value = text.partition("=")
        if not is_one:
            raise InvalidRequest(f"{path}, line {number}: write NAME=VALUE")
        quote = value[:1]
        is_quoted = len(value) > 1 and quote in ("'", '"') and value.endswith(quote)
        found[name.strip()] = value[1:-1] if is_quoted else value
    return found


def _named(config: Path | None, variables: Mapping[str, str]) -> Path:
    """Return the path of the settings file, which may not exist."""
    return config or Path(variables.get("SWELL_CONFIG") or "swell.toml")


def _file(name: str, path: Path | None) -> list[Finding]:
    """Check whether other users of this machine can read a settings file."""
    if path is None or not path.is_file():
        return []
    if path.stat().st_mode & 0o007:
        return [
            Finding(
                *(name, "warn", f"others on this machine can read {path}"),
                why="settings hold passwords in URLs, and perhaps keys",
                mend=f"chmod 640 {path}, or give secrets as files (SWELL_…_FILE)",
            )
        ]
    return [Finding(name, "ok", f"others on this machine cannot read {path}")]


def _certificate(settings: Settings, clock: Clock) -> Finding:
    try:
        return replace(tls(settings, clock), name="tls")
    except SwellError as error:
        return Finding("tls", "fail", error.detail)


def _clock() -> Finding:
    """Ask the kernel whether a time service sets its clock."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.ntp_adjtime(ctypes.create_string_buffer(_TIMEX_BYTES))
    if state == _TIME_ERROR:
        return Finding(
            *("clock", "warn", "no time service sets this machine's clock"),
            why="signatures of URLs and webhooks depend on it, and so does the order of logs",
            mend="run a time service (systemd-timesyncd, chrony) on the machine itself",
        )
    return Finding("clock", "ok", "set by a time service" if state >= 0 else "unknown")


async def _tried(settings: Settings, clock: Clock) -> list[Finding]:
    """Try the parts, the public address, the bucket's CORS rule, and the clouds."""
    # Workers may not exist before the deployment.
    found = [each for each in await examine(settings, clock) if each.name != "workers"]
    found.append(await _limited("who answers", lambda: _answers(settings)))
    if settings.objects.serve == "redirect":
        found.append(await _limited("bucket for pages", lambda: _for_pages(settings, clock)))
    for name, table in settings.pools.items():
        if table.provider not in ("process", "external"):
            listing = partial(_listed, name, table, settings, clock)
            found.append(await _limited(f"pool {name}", listing))
    return found


async def _limited(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await check()
    except SwellError as error:
        return Finding(name, "fail", error.detail)
    except TimeoutError:
        return Finding(name, "fail", f"no answer within {_PATIENCE_S:.0f} s")
    except (OSError, aiohttp.ClientError) as error:
        return Finding(name, "fail", f"{type(error).__name__}: {error}")


async def _answers(settings: Settings) -> Finding:
    """Request the backend's URL, as workers and clients on other machines do."""
    url = worker_url(settings)
    if not url:
        return Finding("who answers", "ok", "no address is named for workers elsewhere")
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url.rstrip('/')}/health/live", allow_redirects=False) as answer,
        ):
            if answer.status == 200 and await answer.read() == _ALIVE:
                return Finding("who answers", "ok", f"a Swell answers at {url}")
            return Finding(
                *("who answers", "fail", f"another server answers at {url} ({answer.status})"),
                why="workers and clients connect to it",
                mend="make the proxy there forward everything to the backends",
            )
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        return Finding(
            *("who answers", "fail", f"{url} has an untrusted certificate: {error}"),
            why="workers and clients reject it",
            mend="use one from a public authority, for this name",
        )
    except (OSError, aiohttp.ClientError):
        return Finding("who answers", "warn", f"no answer at {url} yet")


async def _for_pages(settings: Settings, clock: Clock) -> Finding:
    """Send the bucket a CORS preflight request, as a browser does."""
    secret = SigningSecrets(clock, [SigningSecret(secret=secrets.token_bytes(32))])
    objects = await open_objects(settings, clock, secret)
    where = await objects.direct("GET", "deploy/check", 60)
    if where is None:
        return Finding("bucket for pages", "ok", "files come from the backends")
    parts = urlsplit(settings.server.public_url or "https://swell.example")
    origin = f"{parts.scheme}://{parts.netloc}"
    asks = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    async with (
        aiohttp.ClientSession() as session,
        session.options(where.url, headers=asks) as answer,
    ):
        allowed = answer.headers.get("Access-Control-Allow-Origin")
    if answer.status < 300 and allowed in ("*", origin):
        return Finding("bucket for pages", "ok", f"pages of {origin} may read from it")
    return Finding(
        *("bucket for pages", "warn", f"the bucket does not allow pages of {origin}"),
        why="objects.serve = redirect sends browsers there, and the bucket refuses scripts",
        mend="give the bucket a CORS rule for GET from that origin, or serve files through",
    )


async def _listed(name: str, table: PoolTable, settings: Settings, clock: Clock) -> Finding:
    """List a pool's machines: this tries the credentials and changes nothing."""
    provider = provider_of(
        *(table.provider, table.options, clock),
        deployment=settings.autoscale.deployment,
        where=f"pools.{name}.options",
        spot=table.spot,
    )
    try:
        there = len(await provider.instances(name))
    finally:
        await provider.close()
    return Finding(f"pool {name}", "ok", f"{table.provider} lists {there} machines of it")
