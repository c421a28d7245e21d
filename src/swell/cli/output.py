"""Output of commands: data on stdout, messages on stderr, and exit codes."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from swell.client.errors import Refused
from swell.core.errors import InvalidRequest, NotFound, SwellError
from swell.core.redact import hide_secrets
from swell.core.telemetry import printable

__all__ = [
    "CommandFailed",
    "Exit",
    "Group",
    "Refused",
    "ago",
    "data",
    "dollars",
    "exit_code",
    "explain",
    "group",
    "print_json",
    "seconds",
    "table",
    "talk",
]


class Exit(IntEnum):
    """Exit codes; the reference of the command line lists them."""

    OK = 0
    #: The command or the task failed.
    FAILED = 1
    #: The command line, a setting or a model file is wrong.
    USAGE = 2
    #: The task, model or file does not exist.
    NOT_FOUND = 3
    #: The server refused the request.
    REFUSED = 4
    #: The backend did not answer for too long: `swell.worker.worker_loop.NO_BACKEND`.
    NO_BACKEND = 5
    #: The worker's GPU stays unusable: `swell.runtime.ipc_messages.DEVICE_BROKEN`.
    DEVICE_BROKEN = 75
    INTERRUPTED = 130


#: Messages for people.
talk = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

#: Data for programs and pipes.
data = Console(highlight=False, emoji=False, soft_wrap=True)


_PIPE_WIDTH = 1000

_TWO_HOURS_S = 7200


class CommandFailed(SwellError):
    """A command failed; the message says what to do next."""

    code, title = "command_failed", "The command failed"


class Group(TyperGroup):
    """A group of commands that prints explanations of errors instead of tracebacks."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, each with the first sentence of its help."""
        self.write_commands(ctx, formatter, "Commands", self.list_commands(ctx))

    def write_commands(self, ctx: Any, formatter: Any, heading: str, names: Iterable[str]) -> None:
        """Write some commands under a heading."""
        commands: dict[str, Any] = {name: self.get_command(ctx, name) for name in names}
        with formatter.section(heading):
            formatter.write_dl([(n, c.get_short_help_str(limit=200)) for n, c in commands.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn Swell's errors into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except SwellError as error:
            explain(error)
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
        except BrokenPipeError:
            # The reader, such as `head`, has closed the pipe; discard the rest at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.OK) from None


def group(help_text: str) -> typer.Typer:
    """Return an empty group of commands."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
    )


def exit_code(error: SwellError) -> Exit:
    """Return the exit code for an error."""
    if isinstance(error, Refused):
        return Exit.NOT_FOUND if error.http_status == 404 else Exit.REFUSED
    if isinstance(error, NotFound):
        return Exit.NOT_FOUND
    return Exit.USAGE if isinstance(error, InvalidRequest) else Exit.FAILED


def explain(error: SwellError) -> None:
    """Print an error for people."""
    heading = error.heading if isinstance(error, Refused) else error.title
    detail = hide_secrets(error.detail)
    if detail.startswith(heading):
        talk.print(f"[bold red]{escape(detail)}[/]")
    else:
        talk.print(f"[bold red]{escape(heading)}[/]")
        talk.print(f"  {escape(detail)}")
    fields = error.problem.get("errors") if isinstance(error, Refused) else error.errors
    for field in fields if isinstance(fields, Sequence) else ():
        if isinstance(field, Mapping):
            where = str(field.get("pointer") or field.get("name") or "")
            talk.print(f"  [yellow]{escape(where)}[/] {escape(str(field.get('detail', '')))}")
    if isinstance(error, Refused):
        hint = _HINTS.get(error.http_status)
        if hint:
            talk.print(f"  {hint}")
        request_id = error.problem.get("request_id")
        if request_id and error.http_status >= 500:
            talk.print(f"  request {escape(str(request_id))}: search for it in the server's log")


_HINTS = {
    401: "give a key with --key or SWELL_KEY: `swell keys create NAME` makes one on the server's "
    "machine",
    403: "use a key with the scope that this needs: `swell keys create NAME --scope admin`",
    429: "wait a moment and try again",
    503: "see `swell workers` and `swell queues`, then try again",
}


def print_json(value: Any) -> None:
    """Print JSON on stdout: indented for a person's terminal, one line for a program."""
    indent = 2 if sys.stdout.isatty() else None
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # A lone surrogate, which UTF-8 cannot encode, becomes `?`.
    _write(text.encode(errors="replace").decode() + "\n")


def _write(text: str) -> None:
    """Write the whole text to stdout.

    With `PYTHONUNBUFFERED`, as in many containers, `sys.stdout.write` silently drops the rest of
    the text if a signal arrives while a pipe is full.
    """
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        sys.stdout.write(text)
        return
    left = memoryview(text.encode(sys.stdout.encoding, sys.stdout.errors or "strict"))
    while left:
        left = left[buffer.write(left) or 0 :]
    buffer.flush()


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Print a table on stdout, or a message on stderr if it has no rows.

    Args:
        columns: Headings.
        rows: Cells by row; None is shown as a dash, and control characters are escaped.
        empty: Message for a table without rows.
    """
    if not rows:
        talk.print(empty)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*(escape("-" if cell is None else printable(str(cell))) for cell in row))
    # Do not fold lines in a pipe.
    (data if sys.stdout.isatty() else Console(width=_PIPE_WIDTH, emoji=False)).print(grid)


def ago(moment: str | None, now: datetime) -> str | None:
    """Return the age of an RFC 3339 time, such as `3 min`."""
    if moment is None:
        return None
    past_s = (now - datetime.fromisoformat(moment).astimezone(UTC)).total_seconds()
    for size_s, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if past_s >= 2 * size_s:
            return f"{past_s / size_s:.0f} {unit}"
    return f"{max(0.0, past_s):.0f} s"


def seconds(value: float | None) -> str | None:
    """Return a readable duration, such as `1.5 s`."""
    if value is None:
        return None
    if 0 < value < 0.0005:
        return "< 1 ms"
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 99.95:
        return f"{value:.1f} s"
    return f"{value / 60:.1f} min" if value < _TWO_HOURS_S else f"{value / 3600:.1f} h"


def dollars(micros: float | None) -> str | None:
    """Return millionths of a dollar as an amount in dollars."""
    return None if micros is None else f"${micros / 1e6:.6f}"
