"""`swell backup`: a copy of the embedded database, taken while it is in use."""

from pathlib import Path
from typing import Annotated

import typer

from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import print_json, seconds, talk
from swell.clock import SystemClock
from swell.wiring import back_up

__all__ = ["backup"]


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes; a new file.")],
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Copy the SQLite database of the data folder while a backend uses it.

    The copy has everything that was answered before the command began. Files are not in it: copy
    the folder of objects after it.
    """
    settings = settings_from(config, data).settings
    clock = SystemClock()
    started_s = clock.monotonic_s()
    size_bytes = back_up(settings, file)
    took_s = clock.monotonic_s() - started_s
    if as_json:
        print_json({"file": str(file), "bytes": size_bytes, "took_s": round(took_s, 3)})
        return
    talk.print(f"{file}: {size_bytes:,} bytes in {seconds(took_s)}", markup=False)
