"""Checks of a backend's parts: each is tried through its contract, with the configured adapter.

If a running backend has the SQLite database of this folder open, it is asked about it. External
parts are always tried from here.
"""

import asyncio
import os
import resource
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from swell.bootstrap.backend import build_backend, close_backend
from swell.bootstrap.data_folder import self_signed_cert
from swell.bootstrap.objects import open_objects
from swell.bootstrap.storage import (
    external_queues,
    is_shared,
    migration_status,
    open_bus,
    store_file,
)
from swell.bootstrap.tracing import collector_problem
from swell.cli.keyring import LOCAL
from swell.cli.output import CommandFailed
from swell.cli.output import data as stdout
from swell.cli.remote import Remote
from swell.cli.tls import open_cert
from swell.client.access import Access, read_access
from swell.core.broker_types import ReadyTask
from swell.core.clock import Clock
from swell.core.errors import Conflict, NotFound, SwellError
from swell.core.events import TERMINAL_ID, Event, EventKind
from swell.core.records import Scope
from swell.core.task import new_id
from swell.net.origins import host_as_compared
from swell.net.url_policy import bare_url
from swell.objects.object_store import Direct, Objects
from swell.objects.url_signing import SigningSecret, SigningSecrets
from swell.pubsub.local_bus import MemoryBus
from swell.queues.external_queue import ExternalQueues, queue_of
from swell.server.clock_skew import MOST_SKEW_S
from swell.server.dependencies import Backend
from swell.settings.load import Settings

if TYPE_CHECKING:
    from cryptography import x509

#: Longest wait for a part's answer, in seconds.
_PATIENCE_S: Final = 15.0

#: A larger difference of clocks is a warning, in seconds. It affects logs, traces and signatures;
#: leases and deadlines use the backend's clock only.
_SKEW_S: Final = 5.0

#: A certificate or key that expires sooner is a warning.
_SOON: Final = timedelta(days=14)

#: A lower limit of open files is a warning: each event stream needs one.
_FEW_FILES: Final = 4096

#: A slower call to the database is a warning, in seconds.
_SLOW_S: Final = 0.1

#: A worker without a heartbeat for longer is not live, in seconds.
_ALIVE_S: Final = 90.0


#: Queue for the check of the broker; no model can have this name.
_QUEUE: Final = "doctor"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of a check."""

    name: str
    #: `ok`, `warn` or `fail`.
    grade: str
    detail: str
    #: Why it matters and how to fix it, unless the detail says so.
    why: str = ""
    mend: str = ""


def tell(finding: Finding) -> None:
    """Print a finding."""
    marks = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}
    stdout.print(f"{marks[finding.grade]} {finding.name:18}", end=" ")
    stdout.print(finding.detail, markup=False)
    for head, text in (("why", finding.why), ("do", finding.mend)):
        if text:
            stdout.print(f"{'':24}{head}: {text}", markup=False)


def _ok(detail: str) -> Finding:
    return Finding("", "ok", detail)


def _warn(detail: str) -> Finding:
    return Finding("", "warn", detail)


async def examine(settings: Settings, clock: Clock) -> list[Finding]:
    """Check store, broker, bus, objects, keys, workers and telemetry."""
    findings = [await _named("telemetry", lambda: _telemetry(settings))]
    file = store_file(settings)
    if file is not None and not file.exists():
        store = Finding("store", "ok", f"{file} is made at the first start")
        return [store, *await _of_others(settings, clock), *findings]
    try:
        lacks = await _lacks(settings) if is_shared(settings) else None
        if lacks is not None:
            return [lacks, *await _of_others(settings, clock), *findings]
        async with _opened(settings, clock) as backend:
            return await _of(backend, settings) + findings
    except Conflict as error:
        access = read_access(settings.data_dir)
        if access is None:
            return [Finding("store", "fail", error.detail), *findings]
        others = await _of_others(settings, clock)
        return await _of_running(access, clock, settings) + others + findings
    except SwellError as error:
        detail = f"{error.detail}; see that this machine reaches {_places(settings)}"
        return [Finding("store, bus, objects", "fail", detail), *findings]
    except TimeoutError:
        detail = f"no answer within {2 * _PATIENCE_S:.0f} s from {_places(settings)}"
        return [Finding("store, bus, objects", "fail", detail), *findings]


async def _lacks(settings: Settings) -> Finding | None:
    """Return a finding if a shared database lacks migrations; opening it would apply them."""
    status = await migration_status(settings)
    if status["applied"] and status["missing"]:
        return Finding(
            "store",
            "warn",
            f"it lacks {', '.join(status['missing'])}: `swell db --upgrade` applies them, and so "
            "does a backend that starts; keys and workers are looked at after that",
        )
    return None


def _places(settings: Settings) -> str:
    """Return the addresses of the configured parts, without names and passwords."""
    urls = (settings.store.url, settings.broker.url, settings.bus.url, settings.objects.url)
    parts = [urlsplit(url) for url in urls if "://" in url]
    places = [f"{each.scheme}://{each.netloc.rpartition('@')[2]}{each.path}" for each in parts]
    return ", ".join(places) or f"the data folder {settings.data_dir}"


@asynccontextmanager
async def _opened(settings: Settings, clock: Clock) -> AsyncIterator[Backend]:
    async with asyncio.timeout(2 * _PATIENCE_S):
        backend = await build_backend(settings, clock)
    try:
        yield backend
    finally:
        await close_backend(backend)


async def _of(backend: Backend, settings: Settings) -> list[Finding]:
    checks: list[tuple[str, Callable[[], Awaitable[Finding]]]] = [
        ("store", lambda: _store(backend, settings)),
        ("broker", lambda: _broker(backend, settings)),
        ("bus", lambda: _bus(backend, settings)),
        ("objects", lambda: _objects(backend.objects, backend.clock)),
        ("keys", lambda: _keys(backend)),
        ("workers", lambda: _workers(backend)),
    ]
    return [await _named(name, check) for name, check in checks]


async def _named(name: str, check: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found = await check()
    except SwellError as error:
        return Finding(name, "fail", error.detail)
    except TimeoutError:
        return Finding(name, "fail", f"no answer within {_PATIENCE_S:.0f} s")
    except (OSError, aiohttp.ClientError) as error:
        return Finding(name, "fail", f"{type(error).__name__}: {error}")
    return Finding(name, found.grade, found.detail)


async def _store(backend: Backend, settings: Settings) -> Finding:
    """Write a row, read it back, and measure the time."""
    value = secrets.token_bytes(8)
    started_s = backend.clock.monotonic_s()
    await backend.registry.put_note("doctor", value)
    if await backend.registry.note("doctor") != value:
        return Finding("", "fail", "a row that was written is not found: is it the same database?")
    took_s = backend.clock.monotonic_s() - started_s
    await backend.store.check_writable()
    await backend.store.next_wake_at()
    ahead_s = await backend.store.clock_ahead_s() or 0.0
    if abs(ahead_s) > MOST_SKEW_S:
        return Finding(
            "",
            "fail",
            f"its clock and this one differ by {abs(ahead_s):.0f} s: a backend here would hand out "
            "no leases; run a time service (NTP) on both",
        )
    what = urlsplit(settings.store.url).scheme or "sqlite"
    detail = f"{what} can be written and read, in {took_s * 1000:.1f} ms; its schema is up to date"
    if took_s > _SLOW_S:
        return _warn(f"{detail}; that is slow: every answer waits for it")
    return _ok(detail)


async def _broker(backend: Backend, settings: Settings) -> Finding:
    depths = await backend.broker.depths()
    ready, running = sum(each.ready for each in depths), sum(each.running for each in depths)
    detail = f"answers; {ready} tasks wait, {running} run"
    if not settings.broker.url:
        return _ok(detail)
    queues = external_queues(settings.broker.url)
    try:
        return _ok(f"{detail}; {await _carried(queues, backend.clock)}")
    finally:
        await queues.close()


async def _carried(queues: ExternalQueues, clock: Clock) -> str:
    """Send an ID through a queue that no other process reads; the queue stays."""
    task = ReadyTask(id=new_id(clock.now()), queue=_QUEUE, key_id="", user=None, priority=1)
    started_s = clock.monotonic_s()
    await queues.send(queue_of(task), [task])
    while True:
        messages = await queues.receive(queue_of(task), 10, wait_s=2.0)
        # Also delete messages of an earlier, interrupted check.
        await queues.delete(messages)
        if any(message.task_id == task.id for message in messages):
            took_s = clock.monotonic_s() - started_s
            return f"an id went through a queue in {took_s * 1000:.0f} ms"


async def _bus(backend: Backend, settings: Settings) -> Finding:
    """Send an event to a subscriber, through a second connection if the bus is external."""
    if not (settings.bus.url or backend.is_shared):
        return _ok(f"in this process; {await _round_trip(backend.bus, backend.bus, backend.clock)}")
    other = await open_bus(settings, backend.clock)
    try:
        told = await _round_trip(backend.bus, other, backend.clock)
    finally:
        await other.close()
    return _ok(told)


async def _round_trip(here: MemoryBus, there: MemoryBus, clock: Clock) -> str:
    task_id = secrets.token_hex(16)
    event = Event(task_id=task_id, id=TERMINAL_ID, kind=EventKind.CANCELED)
    subscription = there.subscribe(task_id, after=TERMINAL_ID - 1)
    try:
        started_s = clock.monotonic_s()
        while True:
            here.publish([event])
            # The subscription may not be active yet, so publish again after a timeout.
            if await subscription.next(1.0) is not None:
                took_s = clock.monotonic_s() - started_s
                return f"an event went around in {took_s * 1000:.1f} ms"
    finally:
        subscription.close()


async def _objects(objects: Objects, clock: Clock) -> Finding:
    """Store a file, find it, read it by a signed URL, and delete it."""
    key, data = f"doctor/{secrets.token_hex(8)}.bin", secrets.token_bytes(1000)
    started_s = clock.monotonic_s()
    try:
        await objects.put_new(key, data, "application/octet-stream")
        info = await objects.head(key)
        took_s = clock.monotonic_s() - started_s
        if info.bytes != len(data) or await _read(objects, key) != data:
            return Finding("", "fail", "a stored file cannot be read back unchanged")
        told = await _signed(objects, f"{key}-direct", data)
    finally:
        await objects.delete([key, f"{key}-direct"])
    for each in (key, f"{key}-direct"):
        try:
            await objects.head(each)
        except NotFound:
            continue
        return Finding("", "fail", f"{each} is still there after it was deleted")
    detail = f"stored and found in {took_s * 1000:.1f} ms, {told}, deleted"
    ahead_s = (info.modified_at - clock.now()).total_seconds()
    if abs(ahead_s) > _SKEW_S:
        return _warn(f"{detail}; its clock and this one differ by {abs(ahead_s):.0f} s: {_NTP}")
    return _ok(detail)


_NTP: Final = "signatures and traces go by them, so run a time service (NTP) on both"


async def _read(objects: Objects, key: str) -> bytes:
    return b"".join([part async for part in objects.read(key)])


async def _signed(objects: Objects, key: str, data: bytes) -> str:
    """Write and read a file by signed URLs, as workers and clients do.

    Raises:
        CommandFailed: A signed URL does not work.
    """
    put = await objects.direct("PUT", key, 60)
    if put is None:
        url = urlsplit(objects.sign("GET", key, 60))
        query = dict(part.split("=", 1) for part in url.query.split("&"))
        objects.verify("GET", key, query)
        return "signed for this backend's own URLs"
    await _ask("PUT", put, data)
    get = await objects.direct("GET", key, 60)
    assert get is not None, "what can be put directly can be got directly"
    if await _ask("GET", get) != data:
        raise CommandFailed("a file uploaded by a signed URL cannot be read by one")
    return "written and read by signed URLs"


async def _ask(method: str, where: Direct, data: bytes | None = None) -> bytes:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, where.url, data=data, headers=where.headers) as answer,
    ):
        body = await answer.read()
        if answer.status >= 300:
            raise CommandFailed(
                f"a signed {method} was answered with {answer.status}: check that the key of "
                f"`objects.url` may do this ({body[:120]!r})"
            )
        return body


async def _keys(backend: Backend) -> Finding:
    keys = [
        _Key(each.name, each.scopes, each.revoked_at, each.expires_at)
        for each in await backend.registry.keys()
    ]
    return _of_keys(keys, backend.clock.now())


class _Key(msgspec.Struct, frozen=True):
    """Fields of a key that the checks need."""

    name: str
    scopes: frozenset[Scope]
    revoked_at: datetime | None
    expires_at: datetime | None


class _Keys(msgspec.Struct, frozen=True):
    keys: list[_Key]


def _of_keys(all_keys: Sequence[_Key], now: datetime) -> Finding:
    """Check that operators have a key, and that no key expires soon."""
    keys = [key for key in all_keys if _works(key, now)]
    if not any(Scope.ADMIN in key.scopes for key in keys):
        return _warn("no key has the scope admin: `swell up` and `swell serve` make one")
    ending = [
        f"{key.name!r} on {key.expires_at:%Y-%m-%d}"
        for key in keys
        # A backend extends its local key itself.
        if key.name != LOCAL and key.expires_at is not None and key.expires_at - now < _SOON
    ]
    if ending:
        return _warn(f"{len(keys)} keys; soon to end: {', '.join(ending[:5])}: `swell keys rotate`")
    return _ok(f"{len(keys)} keys work")


def _works(key: _Key, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


async def _workers(backend: Backend) -> Finding:
    now = backend.clock.now()
    live = [
        {
            "name": each.name,
            "models": each.models,
            "release": each.release,
            "clock_ahead_s": each.clock_ahead_s,
        }
        for each in await backend.registry.workers()
        if each.gone_at is None and (now - each.seen_at).total_seconds() < _ALIVE_S
    ]
    return _of_workers(live)


def _of_workers(live: Sequence[dict[str, Any]]) -> Finding:
    """Check live workers: number, versions of models and of Swell, and clocks."""
    if not live:
        return _warn("none is registered: `swell up` starts them, or `swell worker` elsewhere")
    versions: dict[str, set[str]] = {}
    for each in live:
        for model, version in each["models"].items():
            versions.setdefault(model, set()).add(version)
    told = [
        f"{model} in {len(found)} versions (restart the workers with the older ones)"
        for model, found in sorted(versions.items())
        if len(found) > 1
    ]
    own = version_of("swell")
    others = sorted({each["release"] or "unknown" for each in live} - {own})
    if others:
        told.append(f"some have Swell {', '.join(others)}, this is {own}")
    wrong = [each["name"] for each in live if abs(each["clock_ahead_s"]) > _SKEW_S]
    if wrong:
        told.append(f"the clocks of {', '.join(wrong[:5])} differ from the backend's: {_NTP}")
    detail = f"{len(live)} live, with {len(versions)} models"
    return _warn(f"{detail}; {'; '.join(told)}") if told else _ok(detail)


# ---- a running backend


async def _of_running(access: Access, clock: Clock, settings: Settings) -> list[Finding]:
    """Ask the backend that has the database open."""

    async def ready(remote: Remote) -> Finding:
        checks = (await remote.get("/health/ready"))["checks"]
        parts = ", ".join(f"{name} {state}" for name, state in checks.items())
        return _ok(f"it runs at {access.url}: {parts}")

    async def queues(remote: Remote) -> Finding:
        found = (await remote.get("/v1/queues"))["queues"]
        waiting, running = (sum(each[name] for each in found) for name in ("ready", "running"))
        return _ok(f"answers; {waiting} tasks wait, {running} run")

    async def workers(remote: Remote) -> Finding:
        found = (await remote.get("/v1/workers"))["workers"]
        return _of_workers([each for each in found if each["state"] != "lost"])

    async def keys(remote: Remote) -> Finding:
        found = msgspec.convert(await remote.get("/v1/keys"), _Keys)
        return _of_keys(found.keys, clock.now())

    async with Remote(access, _PATIENCE_S) as remote:
        return [
            await _named("backend", lambda: ready(remote)),
            # An external broker has a separate check of that name.
            await _named("queues" if settings.broker.url else "broker", lambda: queues(remote)),
            await _named("keys", lambda: keys(remote)),
            await _named("workers", lambda: workers(remote)),
        ]


# ---- external parts


async def _of_others(settings: Settings, clock: Clock) -> list[Finding]:
    """Check the parts that need no database."""
    checks: list[tuple[str, Callable[[], Awaitable[Finding]]]] = [
        ("objects", lambda: _files(settings, clock))
    ]
    if settings.bus.url or is_shared(settings):
        checks.insert(0, ("bus", lambda: _wire(settings, clock)))
    if not settings.broker.url:
        return [await _named(name, check) for name, check in checks]
    queues = external_queues(settings.broker.url)

    async def through(queues: ExternalQueues) -> Finding:
        return _ok(await _carried(queues, clock))

    try:
        checks.insert(0, ("broker", lambda: through(queues)))
        return [await _named(name, check) for name, check in checks]
    finally:
        await queues.close()


async def _wire(settings: Settings, clock: Clock) -> Finding:
    here = await open_bus(settings, clock)
    try:
        there = await open_bus(settings, clock)
        try:
            return _ok(await _round_trip(here, there, clock))
        finally:
            await there.close()
    finally:
        await here.close()


async def _files(settings: Settings, clock: Clock) -> Finding:
    """Try a bucket, but only check a folder's permissions: opening it would delete old files."""
    url = urlsplit(settings.objects.url)
    if url.scheme == "memory":
        return _ok("in the process")
    if url.scheme not in ("", "file"):
        secret = SigningSecrets(clock, [SigningSecret(secret=secrets.token_bytes(32))])
        return await _objects(await open_objects(settings, clock, secret), clock)
    told = settings.objects.url.removeprefix("file:").removeprefix("//")
    folder = Path(told) if told else settings.data_dir / "objects"
    if not folder.exists():
        return _ok(f"{folder} is made at the first start")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding("", "fail", f"{folder} cannot be read and written: chown or chmod it")
    return _ok(f"{folder} can be written")


async def _telemetry(settings: Settings) -> Finding:
    """Send an empty request to the collector to see whether it accepts spans."""
    endpoint = bare_url(settings.telemetry.endpoint)
    if not endpoint:
        return _ok("no traces are wanted")
    if reason := await collector_problem(settings):
        return _warn(
            f"{endpoint} takes no spans ({reason}): does it take OTLP over HTTP, and what do "
            "OTEL_EXPORTER_OTLP_HEADERS and the like say?"
        )
    return _ok(f"{endpoint} takes spans")


# ---- this machine


def file_limit() -> Finding:
    """Check the limit of open files and connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = hard if hard != resource.RLIM_INFINITY else soft
    if limit != resource.RLIM_INFINITY and limit < _FEW_FILES:
        return _warn(
            f"at most {limit} open files: each connection and event stream is one; raise it "
            "(ulimit -Hn, or LimitNOFILE of systemd)"
        )
    return _ok("no limit" if limit == resource.RLIM_INFINITY else f"up to {limit:,}")


def tls(settings: Settings, clock: Clock) -> Finding:
    """Check the server's certificate: key, expiry and names.

    Raises:
        InvalidRequest: The certificate and key cannot be used.
    """
    server = settings.server
    cert, key = server.tls_cert, server.tls_key
    if cert is None and server.tls != "off":
        cert = self_signed_cert(settings)
        key = cert.with_name("key.pem")
        if not cert.exists():
            return _ok("one for trials is made at the first start")
    if cert is None or key is None:
        is_open = server.host not in ("127.0.0.1", "localhost", "::1")
        text = "off"
        if is_open and not (server.public_url or "").startswith("https://"):
            return _warn(f"{text}, and {server.host} is open to others: keys would go in the clear")
        return _ok(text)
    open_cert(cert, key)
    found = _certificate(cert)
    if found is None:
        return _warn(f"{cert} is there; when it ends is told with: pip install 'swell[tls]'")
    now, until = clock.now(), found.not_valid_after_utc
    if until <= now:
        return Finding("", "fail", f"{cert} has ended on {until:%Y-%m-%d}: put a new one there")
    if found.not_valid_before_utc > now:
        return Finding("", "fail", f"{cert} begins on {found.not_valid_before_utc:%Y-%m-%d}")
    told = f"{cert} is good until {until:%Y-%m-%d}"
    doubts = ["renew it"] if until - now < _SOON else []
    if key.stat().st_mode & 0o007:
        doubts.append(f"others on this machine can read its key: chmod 600 {key}")
    names = [*server.hosts, *_host_of(server.public_url)]
    if missing := [name for name in dict.fromkeys(names) if not _is_for(found, name)]:
        doubts.append(f"it is not for {', '.join(missing[:5])}: clients will not trust it there")
    return _warn(f"{told}; {'; '.join(doubts)}") if doubts else _ok(told)


def _certificate(cert: Path) -> "x509.Certificate | None":
    try:
        from cryptography import x509  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    try:
        return x509.load_pem_x509_certificate(cert.read_bytes())
    except ValueError as error:
        raise CommandFailed(f"{cert} is no certificate in PEM: {error}") from error


def _host_of(public_url: str | None) -> list[str]:
    """Return the host of `server.public_url` if it is an HTTPS URL."""
    if not (public_url or "").startswith("https://"):
        return []
    name = urlsplit(public_url).hostname
    return [] if name is None else [host_as_compared(str(name))]


def _is_for(cert: "x509.Certificate", host: str) -> bool:
    """Whether a certificate is valid for a host (RFC 9525, section 6)."""
    from cryptography import x509  # noqa: PLC0415 - an extra

    try:
        found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    if host in map(str, found.get_values_for_type(x509.IPAddress)):
        return True
    names = [name.lower() for name in found.get_values_for_type(x509.DNSName)]
    return host in names or f"*.{host.partition('.')[2]}" in names
