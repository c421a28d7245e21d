"""What does the code have that the documentation does not tell of, and which links are dead?

Names come from the code: settings, routes, commands with their options, metrics, events, errors and
options of providers; each must stand on its page, as code. The site is built, strictly, and its
links are followed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer.main
from typer.core import TyperGroup

from machine import ROOT, report, say
from swell.cli import app
from swell.core import errors
from swell.core.events import EventKind
from swell.core.webhook import EVENTS
from swell.providers.factory import KINDS, options_of
from swell.providers.process import ProcessOptions
from swell.server.metrics import METRICS, PROCESS_METRICS
from swell.server.routes import ROUTES
from swell.settings.describe import describe

sys.path.insert(0, str(ROOT / "docs"))

import build


def names() -> dict[str, set[str]]:
    """Page below docs/ → what must stand on it."""
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.SwellError)
    ]
    options = {name for kind in KINDS for name in options_of(kind).model_fields}
    return {
        "reference/settings.md": {each.key for each in describe()}
        | {each.variable for each in describe()},
        "reference/http.md": {f"{each.method} {each.public_path}" for each in ROUTES},
        "reference/cli.md": set(commands(typer.main.get_command(app), "swell")),
        "reference/metrics.md": {*METRICS, *PROCESS_METRICS},
        "reference/providers.md": options | set(ProcessOptions.model_fields) | {"process", *KINDS},
        "use-the-api.md": {kind.value for kind in EventKind},
        "webhooks.md": set(EVENTS),
        "errors.md": {kind.code for kind in kinds if kind is not errors.SwellError},
    }


def commands(command: Any, called: str) -> Iterator[str]:
    """Yield the commands below one that are not hidden, and their options."""
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from commands(inner, f"{called} {name}")
        return
    yield called
    for parameter in command.params:
        if parameter.name != "help" and not getattr(parameter, "hidden", False):
            yield from (name for name in parameter.opts if name.startswith("-"))


def missing(wanted: Mapping[str, set[str]], texts: Mapping[str, str]) -> list[str]:
    """Return what is not told, each behind its page."""
    gaps = []
    for page, all_of in wanted.items():
        told = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", texts[page], flags=re.S)))
        gaps += [f"{page}: {name}" for name in sorted(all_of - told)]
    return gaps


def dead_links() -> list[str]:
    """Build the site and return what is doubtful in it."""
    with tempfile.TemporaryDirectory(prefix="swell-site-") as folder:
        try:
            html = build.build(site=Path(folder))
        except (subprocess.CalledProcessError, ValueError) as error:
            return [str(error)]
        return build.dead_links(build.seen(html))


def main() -> None:
    """Compare, build, report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    wanted = names()
    gaps = missing(wanted, {page: (ROOT / "docs" / page).read_text() for page in wanted})
    dead = dead_links()
    for each in (*gaps, *dead):
        say(each)
    counts = {page: len(all_of) for page, all_of in wanted.items()}
    report(len(gaps) + len(dead), {"names": counts, "gaps": gaps, "dead_links": dead})


if __name__ == "__main__":
    main()
