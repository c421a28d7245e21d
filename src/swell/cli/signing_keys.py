"""`swell models push --keygen`: a pair of keys, for what was compiled to travel."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from swell.cli.output import print_json, talk
from swell.core.errors import InvalidRequest


def signing() -> ModuleType:
    """Return what signs, `swell.weights.signing`.

    Raises:
        InvalidRequest: Its library, an extra, is not installed.
    """
    try:
        return import_module("swell.weights.signing")
    except ImportError as error:
        raise InvalidRequest("signatures need an extra: pip install 'swell[compiled]'") from error


def make_signing_key(file: Path, as_json: bool) -> None:
    """Make a private key where there is none yet, and print its public key."""
    is_new = not file.exists()
    key = signing().make_key(file) if is_new else signing().read_key(file)
    if as_json:
        print_json({"public": key.public, "id": key.id, "private": str(file)})
        return
    if is_new:
        talk.print(f"private key: {file}. Keep it away from workers.", markup=False)
        talk.print("public key, for worker.compiled_keys in the settings of workers:", markup=False)
    print(key.public)
