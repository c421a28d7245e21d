"""`swell models pull --argos`: packages of Argos Translate for `swell/translate`."""

import uvloop

from swell.cli.output import print_json, table, talk
from swell.sdk.missing_packages import demo_module
from swell.settings.environment import argos_folders


def bring_translations(source: str, languages: list[str], as_json: bool) -> None:
    """Unpack packages of Argos Translate.

    Args:
        source: A file, a folder of files, or the URL of a mirror.
        languages: Source languages of the packages; empty for all.
        as_json: Print the unpacked packages as JSON.
    """
    argos_packages = demo_module("argos_packages")
    folder = argos_folders()[0]
    with talk.status(f"{source}: unpacking"):
        found = uvloop.run(argos_packages.bring(source, folder, languages))
    if as_json:
        print_json([{"language": one.language, "version": one.version} for one in found])
        return
    table(("FROM", "VERSION"), [(one.language, one.version) for one in found], empty="none")
    talk.print(f"unpacked to {folder}", markup=False)
