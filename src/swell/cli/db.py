"""`swell db`: migrations and backups of the database."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from swell.bootstrap.storage import back_up, migration_status, upgrade_store
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import data as stdout
from swell.cli.output import print_json, seconds, talk
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest
from swell.settings.load import Settings


def database(
    upgrade: Annotated[
        bool,
        typer.Option("--upgrade", help="Apply the missing migrations while backends run."),
    ] = False,
    backup: Annotated[
        Path | None,
        typer.Option(
            "--backup",
            metavar="FILE",
            help="Copy the SQLite database to a new file while a backend uses it.",
        ),
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show the migrations of the PostgreSQL database, apply them, or back up SQLite.

    A backup contains every request answered before it began. It contains no files: copy the folder
    of objects after it.
    """
    if upgrade and backup is not None:
        raise InvalidRequest("--upgrade is for PostgreSQL, --backup for SQLite: give one of them")
    settings = settings_from(config, data).settings
    if backup is not None:
        _back_up(settings, backup, as_json)
    elif upgrade:
        _upgrade(settings, as_json)
    else:
        _show_status(settings, as_json)


def _show_status(settings: Settings, as_json: bool) -> None:
    status = asyncio.run(migration_status(settings))
    if as_json:
        print_json(status)
        return
    stdout.print(f"applied: {status['applied']}, known to this version: {status['known']}")
    for name in status["missing"]:
        stdout.print(f"missing: {name}", markup=False)
    if status["compatible_from"] > status["known"]:
        talk.print("this version of Swell is too old for the database: install a newer one")
    elif status["missing"]:
        talk.print("`swell db --upgrade` applies them, and so does a backend when it starts")


def _upgrade(settings: Settings, as_json: bool) -> None:
    applied = asyncio.run(upgrade_store(settings, SystemClock()))
    if as_json:
        print_json({"applied": applied})
        return
    for name in applied:
        stdout.print(name, markup=False)
    talk.print("the database is up to date" if not applied else f"applied {len(applied)}")


def _back_up(settings: Settings, file: Path, as_json: bool) -> None:
    clock = SystemClock()
    started_s = clock.monotonic_s()
    size_bytes = back_up(settings, file)
    took_s = clock.monotonic_s() - started_s
    if as_json:
        print_json({"file": str(file), "bytes": size_bytes, "took_s": round(took_s, 3)})
        return
    talk.print(f"{file}: {size_bytes:,} bytes in {seconds(took_s)}", markup=False)
