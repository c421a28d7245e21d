"""`swell db`: the schema of the PostgreSQL database that backends share."""

import asyncio

from swell.cli.options import Config, Json, settings_from
from swell.cli.output import data as stdout
from swell.cli.output import group, print_json, talk
from swell.clock import SystemClock
from swell.wiring import schema_of_store, upgrade_store

__all__ = ["app"]

app = group("The schema of the database in store.url.")


@app.command("status")
def show_status(as_json: Json = False, config: Config = None) -> None:
    """Tell which migrations the database has had, and which it lacks. Changes nothing."""
    status = asyncio.run(schema_of_store(settings_from(config, None).settings))
    if as_json:
        print_json(status)
        return
    stdout.print(f"applied: {status['applied']}, this Swell knows: {status['known']}")
    for name in status["missing"]:
        stdout.print(f"missing: {name}", markup=False)
    if status["compatible_from"] > status["known"]:
        talk.print("this Swell is too old for the database: install a newer one")
    elif status["missing"]:
        talk.print("`swell db upgrade` applies what is missing, and so does a backend that starts")


@app.command("upgrade")
def upgrade(as_json: Json = False, config: Config = None) -> None:
    """Apply the migrations that the database lacks, while backends go on."""
    applied = asyncio.run(upgrade_store(settings_from(config, None).settings, SystemClock()))
    if as_json:
        print_json({"applied": applied})
        return
    for name in applied:
        stdout.print(name, markup=False)
    talk.print("the database is up to date" if not applied else f"applied {len(applied)}")
