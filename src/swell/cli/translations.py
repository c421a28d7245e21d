"""`swell models translations`: packages of Argos Translate for `swell/translate`."""

from typing import Annotated

import typer
import uvloop

from swell.cli.options import Json
from swell.cli.output import print_json, table, talk
from swell.config import argos_folders
from swell.weights.argos import bring

__all__ = ["bring_translations"]


def bring_translations(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="FILE.argosmodel, a folder of such files, or the address of a mirror.",
        ),
    ],
    languages: Annotated[
        list[str],
        typer.Option("--from", metavar="CODE", help="Only this language; may be repeated."),
    ] = [],
    as_json: Json = False,
) -> None:
    """Bring packages of Argos Translate, so that prompts of more languages are understood.

    They are unpacked where Argos Translate's own tools look too (ARGOS_PACKAGES_DIR). To translate
    with them needs `pip install 'swell[argos]'`.
    """
    folder = argos_folders()[0]
    with talk.status(f"{source} is unpacked"):
        found = uvloop.run(bring(source, folder, languages))
    if as_json:
        print_json([{"language": one.language, "version": one.version} for one in found])
        return
    table(("FROM", "VERSION"), [(one.language, one.version) for one in found], empty="none")
    talk.print(f"they are in {folder}", markup=False)
