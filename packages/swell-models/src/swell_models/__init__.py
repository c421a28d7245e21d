"""Demo models of Swell, and the weights of all its built-in models."""

from pathlib import Path
from typing import Final

__all__ = ["path"]

_WEIGHTS: Final = Path(__file__).with_name("weights")


def path(name: str) -> Path:
    """Return where a file of weights lies, such as `upscale.onnx`.

    In an image of a worker that is a link to where its content comes when the worker starts.

    Raises:
        FileNotFoundError: There is no such file; another version of this distribution may have it.
    """
    found = _WEIGHTS / name
    if Path(name).name != name or not (found.is_file() or found.is_symlink()):
        raise FileNotFoundError(f"swell-models has no file {name!r}")
    return found
