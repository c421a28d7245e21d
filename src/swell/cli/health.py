"""`swell health`: whether the worker of this machine or container lives, which never listens."""

from pathlib import Path
from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import CommandFailed, print_json, talk
from swell.clock import SystemClock
from swell.errors import InvalidRequest
from swell.worker.pulse import STALE_S, read_pulse

__all__ = ["health"]


def health(
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of worker.health_file.")
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Say whether a worker lives, by the file that it writes (worker.health_file).

    Exit code 0: it starts, works or drains; 1: it hangs or is gone. A backend that is away is no
    fault of the worker's, which waits for it.
    """
    path = file or settings_from(config, data).settings.worker.health_file
    if path is None:
        raise InvalidRequest("name the file that the worker writes: worker.health_file, or --file")
    pulse = read_pulse(path)
    if pulse is None:
        raise CommandFailed(f"no worker writes {path}: it has ended, or has not begun")
    age_s = SystemClock().monotonic_s() - pulse.at_s
    # What was written before the machine started anew is of no worker here.
    if not 0 <= age_s <= STALE_S:
        raise CommandFailed(
            f"the worker (process {pulse.pid}, {pulse.state}) has not been heard of for "
            f"{abs(age_s):.0f} s: start it anew"
        )
    if as_json:
        print_json({"pid": pulse.pid, "state": pulse.state, "age_s": round(age_s, 3)})
    else:
        talk.print(f"{pulse.state}, heard of {age_s:.1f} s ago")
