"""The commands of `swell --help`."""

from collections.abc import Iterator
from typing import Any

import typer.main
from typer.testing import CliRunner

from swell.cli import _COMMANDS, app

#: More would make `swell --help` unreadable: give an existing command an option instead.
MOST = 45


def leaves(command: Any, path: str = "swell") -> Iterator[str]:
    names = command.list_commands(None) if hasattr(command, "list_commands") else None
    if names is None:
        if not command.hidden:
            yield path
        return
    for name in names:
        yield from leaves(command.get_command(None, name), f"{path} {name}")


def test_there_are_few_commands() -> None:
    found = list(leaves(typer.main.get_command(app)))
    assert len(found) <= MOST, found


def test_every_command_has_one_heading() -> None:
    root = typer.main.get_command(app)
    shown = [name for names in _COMMANDS.values() for name in names]
    tops = {path.split()[1] for path in leaves(root)}
    assert (sorted(shown), list(_COMMANDS)) == (sorted(tops), ["Start", "Use", "Operate", "Grow"])


def test_the_help_shows_whole_sentences_under_their_headings() -> None:
    for words in ([], ["models"], ["tasks"]):
        done = CliRunner().invoke(app, [*words, "--help"], terminal_width=80)
        assert done.exit_code == 0
        assert not [line for line in done.output.splitlines()[2:] if line.endswith("...")]
    text = CliRunner().invoke(app, ["--help"]).output
    places = [text.index(f"\n{heading}:\n") for heading in _COMMANDS]
    assert places == sorted(places)


def test_a_mistyped_command_is_met_with_the_one_that_is_close() -> None:
    assert "Did you mean 'run'?" in CliRunner().invoke(app, ["runn"]).output
