"""What models say of themselves, in a process of its own: their code may do anything.

It runs in the environment of the models, and imports nothing that a model process does not import.
"""

import json
import sys

from swell.errors import SwellError
from swell.model import load_models

__all__ = ["main"]


def main() -> None:
    """Entry point: `python -m swell.containers.look REF`; tells one line of JSON."""
    out, sys.stdout = sys.stdout, sys.stderr
    try:
        told: object = [
            {
                "name": each.name,
                "version": each.version(),
                "files": [str(path) for path in each.files],
                "samples": [str(path) for path in each.samples.values()],
            }
            for each in load_models(sys.argv[1])
        ]
    except SwellError as error:
        told = {"refused": error.code, "detail": error.detail}
    out.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
