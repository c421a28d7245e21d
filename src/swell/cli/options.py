"""Options that several commands share, and the settings from them."""

import functools
import inspect
import ipaddress
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer
from rich.markup import escape

from swell.cli.output import talk
from swell.settings.load import Loaded, load

T = TypeVar("T")

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file instead of ./swell.toml."),
]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Data folder (data_dir).")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Server (client.url, SWELL_URL).")
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="API key (client.key, SWELL_KEY).")
]
Browser = typer.Option(
    "--browser/--no-browser", help="Open a browser on a desktop (client.browser)."
)
Prompt = Annotated[
    str | None,
    typer.Argument(
        help="Text of the input `prompt`, or of the only required text.", show_default=False
    ),
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input",
        "-i",
        metavar="K=V",
        help="An input, such as prompt='a fox'; K=@FILE reads a file. May be repeated.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--models",
        "-m",
        metavar="REF",
        help="Model to serve: a built-in one, FILE.py or a module; may be repeated.",
    ),
]


def places(config: Path | None, data: Path | None) -> str:
    """Return `--data` and `--config` as text, for a suggested command with the same settings."""
    given = {"--data": data, "--config": config}
    return "".join(f" {name} {shlex.quote(str(path))}" for name, path in given.items() if path)


def settings_from(config: Path | None, data: Path | None, **flags: Any) -> Loaded:
    """Load the settings of a command.

    Args:
        config: `--config`.
        data: `--data`.
        flags: Other settings by key, with `__` for the dot; None if the flag is missing.
    """
    keyed = {name.replace("__", "."): value for name, value in flags.items()}
    loaded = load({"data_dir": data, **keyed}, config=config)
    for warning in loaded.warnings:
        talk.print(f"[yellow]warning[/]: {escape(warning)}")
    return loaded


def in_place_of(
    command: Callable[..., T],
    parameter: str,
    options: Mapping[str, tuple[Any, Any]],
    make: Callable[..., Any],
    *,
    are_last: bool = False,
) -> Callable[..., T]:
    """Replace a parameter of a command with several options.

    Args:
        command: The command; it gets the parameter by name.
        parameter: Name of the parameter.
        options: Name → option and its default, in the order of `--help`.
        make: Called with the options by name; returns the parameter's value.
        are_last: Whether the options come after the command's own, instead of at the parameter's
            position.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    kinds: dict[str, tuple[Any, Any]] = {}
    for name, each in own.items():
        if name != parameter:
            kinds[name] = hints[name], each.default
        elif not are_last:
            kinds |= options
    kinds |= options
    shown = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in kinds.items()
    ]

    @functools.wraps(command)
    def with_options(*first: Any, **others: Any) -> T:
        given = dict(zip(kinds, first, strict=False)) | others
        made = make(**{name: given.pop(name, default) for name, (_, default) in options.items()})
        return command(**{parameter: made}, **given)

    with_options.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in shown}
    return with_options


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
