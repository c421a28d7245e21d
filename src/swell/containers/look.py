"""Loads models in a separate process, because their code may do anything, and describes them.

The process runs in the models' environment and imports only modules that a model process imports.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from swell.core.errors import InvalidModel, InvalidRequest, NotFound, SwellError

if TYPE_CHECKING:
    from swell.runtime.venvs import Home

#: Longest time to load a model, in seconds.
_LOOK_S: Final = 300.0


class Looked(NamedTuple):
    """Description of a model; paths are text, for JSON."""

    name: str
    version: str
    #: Files and samples that it declares.
    files: Sequence[str]
    #: The file that defines it; empty for none.
    source: str = ""


def look(ref: str, home: "Home") -> list[Looked]:
    """Load and describe the models of a reference in a separate process.

    Raises:
        NotFound, InvalidModel: As `load_models` does.
    """
    try:
        ran = subprocess.run(
            [home.python, "-m", "swell.containers.look", ref],
            env=dict(home.variables) if home.variables else None,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LOOK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InvalidModel(f"importing {ref} takes longer than {_LOOK_S:.0f} s") from None
    said = ((ran.stdout or ran.stderr).strip().splitlines() or ["nothing"])[-1]
    try:
        told = json.loads(said)
    except ValueError:
        raise InvalidModel(f"importing {ref} failed: its process ended, and said: {said}") from None
    if isinstance(told, dict):
        kinds = {kind.code: kind for kind in (NotFound, InvalidModel)}
        raise kinds.get(told["refused"], InvalidRequest)(told["detail"])
    return [Looked(*each) for each in told]


def described(ref: str) -> list[Looked]:
    """Load and describe the models of a reference in this process."""
    # Imported here because only the separate process needs it.
    from swell.sdk.model_loader import load_models  # noqa: PLC0415

    return [
        Looked(
            each.name,
            each.version(),
            [str(path) for path in (*each.files, *each.samples.values())],
            str(each.source or ""),
        )
        for each in load_models(ref)
    ]


def main() -> None:
    """Entry point: `python -m swell.containers.look REF`; writes one line of JSON."""
    out, sys.stdout = sys.stdout, sys.stderr
    ref = sys.argv[1]
    told: list[Looked] | dict[str, str]
    try:
        told = described(ref)
    except SwellError as error:
        told = {"refused": error.code, "detail": error.detail}
    except SystemExit as end:
        # For example from argparse.
        told = {
            "refused": InvalidModel.code,
            "detail": f"importing {ref} exits the process (exit code {end.code!r}), as a "
            'script does: move its script part below if __name__ == "__main__":',
        }
    out.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
