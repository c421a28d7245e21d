"""Writes the reference of commands and settings from the code; a test compares the pages."""

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperGroup

from swell.cli.output import data as stdout
from swell.settings.describe import describe


class Part(StrEnum):
    """Pages of the reference."""

    CLI = "cli"
    SETTINGS = "settings"


def reference(
    part: Annotated[Part, typer.Argument(help="cli or settings.")], ctx: typer.Context
) -> None:
    """Print a page of the reference as Markdown."""
    root = ctx.find_root().command
    text = settings_markdown() if part is Part.SETTINGS else commands_markdown(root)
    stdout.print(text, end="", markup=False, soft_wrap=True)


_KEYS = """
## Keys

The database stores hashes of keys: a key that was not saved when it was shown is lost, and must be
replaced. A backend makes two keys when it starts (`swell keys ls` lists them):

| name | used by | where | good until |
|---|---|---|---|
| `this machine` | the commands below, and the browser that opens the link of `swell up` or \
`swell open`; scope `admin` | `access.json` of the data folder, mode 0600 | it is revoked; with \
a shared database, a day after the backend of that folder ran last |
| `workers of swell up` | the workers that the backend starts, in their pools | in their processes \
| the backend ends |

`swell up`, `swell demo` and `swell serve` print a link that signs in if they run in a terminal, or
listen on this machine only and write to a pipe; never to a file. `swell open` prints it again, and
`--json` prints the key.

Make a key for each application with `swell keys create NAME`, and one for workers elsewhere with
`swell keys create NAME --scope worker`.""".replace("\\\n", "").split("\n")


def settings_markdown() -> str:
    """Return `docs/reference/settings.md`."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `swell reference settings`. -->",
        "",
        "Flags override the environment, which overrides `swell.toml` (or the file that",
        "`--config` or `SWELL_CONFIG` names), which overrides the defaults. `swell config",
        "--origin` shows where each value comes from. An unknown key is an error; an unknown",
        "variable is ignored with a warning. A secret may be given as a file: add `_FILE` to its",
        "variable. `SWELL_URL` and `SWELL_KEY` are short for `SWELL_CLIENT__URL` and",
        "`SWELL_CLIENT__KEY`; `HF_ENDPOINT` and `HF_TOKEN`, which a hub's own client reads, are",
        "short for `SWELL_WORKER__HUB_URL` and `SWELL_WORKER__HUB_TOKEN`. Providers of workers set",
        "`SWELL_INSTANCE_ID`, short for `SWELL_WORKER__INSTANCE`.",
    ]
    heading = None
    for each in describe():
        group = each.key.rpartition(".")[0] or "top"
        if group != heading:
            heading = group
            lines += ["", "## General" if group == "top" else f"## `[{group}]`", ""]
            lines += ["| key | variable | holds | default | |", "|---|---|---|---|---|"]
        default = _show_default(each.default)
        lines.append(
            f"| `{each.key}` | `{each.variable}` | {each.kind} | {default} | {each.description} |"
        )
    return "\n".join(lines) + "\n"


def commands_markdown(root: Any) -> str:
    """Return `docs/reference/cli.md`.

    Args:
        root: The command `swell`.
    """
    lines = [
        "# The command line",
        "",
        "<!-- Written by `swell reference cli`. -->",
        "",
        "Data goes to stdout, messages to stderr; `--json` prints data as JSON.",
        "`NO_COLOR` is respected. `swell --version` prints the version.",
        "",
        "| exit code | |",
        "|---|---|",
        "| 0 | ok |",
        "| 1 | something failed, or the task did not succeed |",
        "| 2 | the command line, a setting or a model file is wrong |",
        "| 3 | not found |",
        "| 4 | the server refused |",
        "| 5 | a worker got no answer from its backend for `worker.give_up_s` |",
        "| 75 | a worker's GPU stays unusable |",
        "| 130 | interrupted |",
        *_KEYS,
    ]
    for path, command in _walk(root, "swell"):
        lines += ["", f"## `{path}`", "", _plain(command.help or "")]
        rows = [row for parameter in command.params for row in _row(parameter)]
        if rows:
            lines += ["", "| | |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from _walk(inner, f"{path} {name}")
    else:
        yield path, command


def _row(parameter: Any) -> Iterator[str]:
    if getattr(parameter, "hidden", False) or parameter.name == "help":
        return
    text = _plain(getattr(parameter, "help", None) or "").replace("|", "\\|")
    if isinstance(parameter, TyperArgument):
        yield f"| `{parameter.metavar or (parameter.name or '').upper()}` | {text} |"
        return
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    yield f"| {names} | {text} |"


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _show_default(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{', '.join(map(str, value)) if isinstance(value, list) else value}`"
