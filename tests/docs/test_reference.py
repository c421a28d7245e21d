import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from swell.cli import app
from swell.cli.reference import commands_markdown, settings_markdown

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
WEB = Path(__file__).parents[2] / "web"


def test_the_reference_of_settings_is_what_the_code_says() -> None:
    assert (REFERENCE / "settings.md").read_text() == settings_markdown(), "run `make docs`"


def test_the_reference_of_commands_is_what_the_code_says() -> None:
    written = commands_markdown(typer.main.get_command(app))
    assert (REFERENCE / "cli.md").read_text() == written, "run `make docs`"


@pytest.mark.skipif(
    not (WEB / "node_modules" / "openapi-typescript").is_dir(), reason="npm has installed nothing"
)
def test_the_types_of_the_web_app_are_what_the_code_says() -> None:
    api = subprocess.run(
        [sys.executable, "-m", "swell.server.openapi"], capture_output=True, check=True
    )
    types = subprocess.run(
        ["node", WEB / "schema.js"], input=api.stdout, capture_output=True, check=True
    )
    written = WEB / "src" / "lib" / "api" / "schema.ts"
    assert written.read_bytes() == types.stdout, "run `make docs`"


def test_every_command_and_option_says_what_it_does() -> None:
    text = commands_markdown(typer.main.get_command(app))
    silent = [
        line for line in text.splitlines() if line.startswith("| `") and line.endswith("|  |")
    ]
    assert silent == []
