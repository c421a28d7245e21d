"""Options that many commands share, and the settings that they make."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from swell.config import Loaded, load

__all__ = ["Config", "Data", "Inputs", "Json", "Key", "Models", "Url", "places", "settings_from"]

Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings instead of ./swell.toml.")
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="The data folder (data_dir).")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="The server (client.url, SWELL_URL).")
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="API key (client.key, SWELL_KEY).")
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        metavar="K=V",
        help="One input value; K=@FILE reads a file. May be repeated.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--models",
        "-m",
        metavar="REF",
        help="A model to serve: a built-in one, FILE.py or a module; may be repeated.",
    ),
]


def places(config: Path | None, data: Path | None) -> str:
    """Return the options with which another command has the settings of this one, as text."""
    given = {"--data": data, "--config": config}
    return "".join(f" {name} {shlex.quote(str(path))}" for name, path in given.items() if path)


def settings_from(config: Path | None, data: Path | None, **flags: Any) -> Loaded:
    """Return the settings of this call.

    Args:
        config: `--config`.
        data: `--data`.
        flags: Other settings by key, with `__` for the dot; None where the flag was not given.
    """
    keyed = {name.replace("__", "."): value for name, value in flags.items()}
    return load({"data_dir": data, **keyed}, config=config)
