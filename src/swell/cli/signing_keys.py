"""`swell models keygen`: a pair of keys, for what was compiled to travel."""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from swell.cli.options import Json
from swell.cli.output import print_json, talk
from swell.errors import InvalidRequest

__all__ = ["make_signing_key", "signing"]


def signing() -> ModuleType:
    """Return what signs, `swell.weights.signing`.

    Raises:
        InvalidRequest: Its library, an extra, is not installed.
    """
    try:
        return import_module("swell.weights.signing")
    except ImportError as error:
        raise InvalidRequest(
            "signatures need what is not installed: pip install 'swell[compiled]'"
        ) from error


def make_signing_key(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the private key is, or is to be.")
    ],
    show: Annotated[
        bool, typer.Option("--show", help="Print the public key of one that is there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a private key that signs what was compiled, and print its public key.

    The public key goes into worker.compiled_keys of workers. The private key stays with whoever
    runs `swell models push --compiled`: no worker needs it, and whoever has it runs programs on
    every worker that trusts it.
    """
    key = signing().read_key(file) if show else signing().make_key(file)
    if as_json:
        print_json({"public": key.public, "id": key.id, "private": str(file)})
        return
    if not show:
        talk.print(f"the private key is in {file}: keep it away from workers", markup=False)
        talk.print("for the settings of workers, worker.compiled_keys:", markup=False)
    print(key.public)
