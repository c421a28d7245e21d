"""`swell doctor`: checks of this machine, with fixes."""

import asyncio
import importlib.metadata
import importlib.util
import os
import platform
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import uvloop

from swell.bootstrap.logging import configure_logging
from swell.cli.follow import follow, send
from swell.cli.keyring import Keyring
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import CommandFailed, print_json, seconds, talk
from swell.cli.parts import Finding, examine, file_limit, tell, tls
from swell.cli.redirect import stdout_for_data
from swell.cli.remote import Remote
from swell.cli.up import run_up
from swell.core.clock import Clock, SystemClock
from swell.core.errors import SwellError
from swell.core.redact import hide_secrets
from swell.db.sqlite.sqlite_database import library_version
from swell.runtime.pep723 import needs_of
from swell.sdk.model_loader import load_models
from swell.settings.load import Settings, load

#: Durable commits take about as long as one fsync; slower disks make a slow queue.
_SLOW_FSYNC_S = 0.02

_FSYNCS = 15


def doctor(as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """Check this machine and every configured part, and run one task.

    Each line says what to do. It exits with 1 if something fails.
    """
    settings = settings_from(config, data).settings
    # The findings replace the log messages of the parts.
    configure_logging(settings.log.model_copy(update={"level": "error"}))
    clock = SystemClock()
    findings = []
    for name, check in _checks(settings, clock):
        with talk.status(f"checking {name}"):
            # An adapter's message may contain a URL with a password.
            found = [replace(each, detail=hide_secrets(each.detail)) for each in _run(name, check)]
        findings += found
        if not as_json:
            for finding in found:
                tell(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    bad = [finding.name for finding in findings if finding.grade == "fail"]
    if bad:
        raise CommandFailed(f"failed checks: {', '.join(bad)}")


def _checks(
    settings: Settings, clock: Clock
) -> Iterator[tuple[str, Callable[[], Finding | list[Finding]]]]:
    yield "python", _python
    yield "data folder", lambda: _folder(settings.data_dir)
    yield "disk", lambda: _disk(settings.data_dir, clock)
    yield "sqlite", _sqlite
    yield "onnxruntime", _onnxruntime
    for ref in settings.worker.models:
        yield f"model {ref}", lambda ref=ref: _model(ref)  # type: ignore[misc]
    yield "open files", file_limit
    yield "tls", lambda: tls(settings, clock)
    yield "port", lambda: _port(settings)
    yield "parts", lambda: uvloop.run(examine(settings, clock))
    yield "one task", lambda: _one_task(clock)


def _run(name: str, check: Callable[[], Finding | list[Finding]]) -> list[Finding]:
    try:
        found = check()
    except SwellError as error:
        return [Finding(name, "fail", error.detail)]
    except OSError as error:
        return [Finding(name, "fail", f"{error.strerror}: {error.filename or ''}")]
    return found if isinstance(found, list) else [replace(found, name=name)]


def _python() -> Finding:
    return Finding("", "ok", f"{platform.python_version()} at {sys.executable}")


def _folder(folder: Path) -> Finding:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder):
        pass
    stat = os.statvfs(folder)
    free_bytes = stat.f_bavail * stat.f_frsize
    grade = "ok" if free_bytes > 2**30 else "warn" if free_bytes > 2**26 else "fail"
    detail = f"{folder} can be written, {free_bytes / 2**30:.1f} GiB free"
    if folder.stat().st_mode & 0o077:
        # Swell creates a private folder, so this one existed before.
        grade = "warn" if grade == "ok" else grade
        detail += f"; other users can read it: chmod 700 {folder}"
    return Finding("", grade, detail)


def _disk(folder: Path, clock: Clock) -> Finding:
    times_s = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(_FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            started_s = clock.monotonic_s()
            os.fsync(file.fileno())
            times_s.append(clock.monotonic_s() - started_s)
    middle_s = statistics.median(times_s)
    detail = f"fsync takes {middle_s * 1000:.2f} ms, {max(times_s) * 1000:.1f} ms at most"
    if middle_s > _SLOW_FSYNC_S:
        detail += ": every answer waits for an fsync; a local SSD is much faster"
        return Finding("", "warn", detail)
    return Finding("", "ok", detail)


def _sqlite() -> Finding:
    return Finding("", "ok", library_version())


def _onnxruntime() -> Finding:
    if importlib.util.find_spec("onnxruntime") is None:
        return Finding(
            "",
            "warn",
            "not installed; the built-in picture models need it: pip install 'swell[embedded]'",
        )
    return Finding("", "ok", importlib.metadata.version("onnxruntime"))


def _model(ref: str) -> Finding:
    needs = needs_of(ref)
    if needs:
        detail = (
            f"it has its own environment: `swell models check {ref}` makes it and checks the model"
        )
        return Finding("", "ok", detail)
    with stdout_for_data():
        found = load_models(ref)
        return Finding("", "ok", ", ".join(f"{each.name} {each.version()}" for each in found))


def _port(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            hint = "is Swell running already? Otherwise choose another port with --port"
            return Finding("", "warn", f"{host}:{port}: {error.strerror}; {hint}")
    return Finding("", "ok", f"{host}:{port} is free")


def _one_task(clock: Clock) -> Finding:
    """Run one task with a backend and a worker in a temporary folder."""
    result: dict[str, Any] = {}
    started_s = clock.monotonic_s()

    async def ready(keyring: Keyring) -> bool:
        result["boot_s"] = clock.monotonic_s() - started_s
        async with Remote(keyring.access, 30) as remote:
            sent_s = clock.monotonic_s()
            task = await send(remote, {"model": "demo/upper", "input": {"text": "swell"}})
            result["task"] = await follow(remote, task["id"])
            result["task_s"] = clock.monotonic_s() - sent_s
        return True

    with tempfile.TemporaryDirectory() as folder:
        flags = {"data_dir": folder, "server.port": 0, "worker.models": "demo/upper"}
        flags |= {"log.level": "error"}
        settings = load(flags, environment={}, folder=Path(folder)).settings
        uvloop.run(_within(run_up(settings, clock, ready), 60))
    if "task" not in result:
        return Finding("", "fail", "interrupted")
    task = result["task"]
    if task["state"] != "succeeded" or task["output"] != "SWELL":
        return Finding("", "fail", f"it {task['state']}: {task['error'] or task['output']}")
    times = f"in {seconds(result['task_s'])}; everything started in {seconds(result['boot_s'])}"
    return Finding("", "ok", f"HTTP, queue, worker process and back {times}")


async def _within(work: Any, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await work
    except TimeoutError:
        raise CommandFailed(f"no result within {limit_s:.0f} s") from None
