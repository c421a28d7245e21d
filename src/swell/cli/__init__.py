"""The command `swell`.

Data goes to stdout, messages to stderr. Exit codes: 0 ok, 1 failed, 2 wrong usage, 3 not found,
4 refused by the server, 5 no backend (`swell worker`), 130 interrupted.

A command's module is imported when the command runs, so that `swell tasks ls` does not import a web
server.
"""

import gc
import sys
from importlib import import_module
from importlib.metadata import version as version_of
from typing import Annotated, Any, Final

import typer

from swell.cli.output import Group

#: Heading of `swell --help` → command → module and function or group in it.
_COMMANDS: Final = {
    "Start": {
        "up": ("up", "up"),
        "demo": ("demo", "demo"),
        "open": ("sign_in", "open_browser"),
        "run": ("run", "run_model"),
        "models": ("models", "app"),
    },
    "Use": {
        "tasks": ("tasks", "app"),
        "keys": ("keys", "app"),
        "webhooks": ("webhooks", "app"),
        "quotas": ("quotas", "quotas"),
        "costs": ("costs", "show_costs"),
    },
    "Operate": {
        "serve": ("up", "serve"),
        "worker": ("worker", "run_worker"),
        "queues": ("fleet", "list_queues"),
        "workers": ("fleet", "list_workers"),
        "pools": ("fleet", "list_pools"),
        "doctor": ("doctor", "doctor"),
        "health": ("health", "health"),
        "config": ("config", "show_config"),
        "db": ("db", "database"),
    },
    "Grow": {
        "autoscale": ("scaling", "autoscale"),
        "build": ("build", "build"),
        "deploy": ("deploy", "deploy"),
        "simulate": ("simulate", "simulate"),
    },
}

_PLACES: Final = {name: place for each in _COMMANDS.values() for name, place in each.items()} | {
    "reference": ("reference", "reference")
}

_HIDDEN: Final = frozenset({"reference"})


class _Root(Group):
    """Finds commands in their modules."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        # Typer suggests one of these names instead of a mistyped one.
        self.commands = {name: self for name in _PLACES if name not in _HIDDEN}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(_PLACES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command with a name, or None."""
        if cmd_name not in _PLACES:
            return None
        module, attribute = _PLACES[cmd_name]
        found = getattr(import_module(f"{__name__}.{module}"), attribute)
        if isinstance(found, typer.Typer):
            command: Any = typer.main.get_command(found)
        else:
            single = typer.Typer(add_completion=False, rich_markup_mode=None)
            single.command(cmd_name, hidden=cmd_name in _HIDDEN)(found)
            command = typer.main.get_command(single)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings."""
        for heading, names in _COMMANDS.items():
            self.write_commands(ctx, formatter, heading, names)


# A plain traceback, because the pretty one shows local variables, which may hold keys.
app = typer.Typer(
    cls=_Root, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        sys.stdout.write(f"swell {version_of('swell')}\n")
        raise typer.Exit


@app.callback()
def _swell(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Serve open generative models: HTTP backend, durable queue, GPU workers and web app."""


def main() -> None:
    """Run the command line of this process."""
    try:
        app()
    finally:
        # Spares the interpreter a collection of garbage at exit.
        gc.freeze()
