"""`swell health`: checks that the worker of this machine or container is alive."""

from pathlib import Path
from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import CommandFailed, print_json, talk
from swell.core.clock import SystemClock
from swell.core.errors import InvalidRequest
from swell.worker.liveness_file import STALE_S, read_pulse


def health(
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Health file, instead of worker.health_file."),
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Check that the worker of this machine or container is alive (worker.health_file).

    Exit code 0: it starts, works or drains; 1: it hangs or has ended. It stays healthy while the
    server is unreachable.
    """
    path = file or settings_from(config, data).settings.worker.health_file
    if path is None:
        raise InvalidRequest("name the health file of the worker: worker.health_file, or --file")
    pulse = read_pulse(path)
    if pulse is None:
        raise CommandFailed(f"no worker writes {path}: it has ended or not started")
    age_s = SystemClock().monotonic_s() - pulse.at_s
    # A negative age means that the file is from before a reboot.
    if not 0 <= age_s <= STALE_S:
        raise CommandFailed(
            f"the worker (pid {pulse.pid}, {pulse.state}) last wrote {abs(age_s):.0f} s ago: "
            "restart it"
        )
    if as_json:
        print_json({"pid": pulse.pid, "state": pulse.state, "age_s": round(age_s, 3)})
    else:
        talk.print(f"{pulse.state}, last written {age_s:.1f} s ago")
