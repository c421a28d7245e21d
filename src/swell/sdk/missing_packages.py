"""Names the package that provides a missing module."""

import importlib
import types
from collections.abc import Mapping
from typing import Final

from swell.core.errors import InvalidModel

#: Modules that models often import → their packages, if the names differ.
_OTHER_NAMES: Final[Mapping[str, str]] = {
    "Crypto": "pycryptodome",
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "clip": "clip-anytorch",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "faiss": "faiss-cpu",
    "fitz": "pymupdf",
    "google.protobuf": "protobuf",
    "magic": "python-magic",
    "open_clip": "open-clip-torch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "taming": "taming-transformers",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}


#: The distribution of demo models and of the weights of all built-in models.
_DEMOS: Final = "swell_models"


def demo_module(name: str) -> types.ModuleType:
    """Import a module of `swell_models`, such as `vqgan_clip`.

    Raises:
        InvalidModel: `swell_models` is not installed.
    """
    try:
        importlib.import_module(_DEMOS)
    except ModuleNotFoundError as error:
        raise InvalidModel(
            f"{_DEMOS} is not installed, built-in models need it: pip install 'swell[embedded]'"
        ) from error
    return importlib.import_module(f"{_DEMOS}.{name}")


def distribution_of(module: str) -> str:
    """Return the package of a module."""
    top = module.partition(".")[0]
    return _OTHER_NAMES.get(module) or _OTHER_NAMES.get(top) or top.replace("_", "-")


#: Begins the requirements of a file (PEP 723).
_BLOCK: Final = "# /// script"


def how_to_get(module: str, source: str = "") -> str:
    """Return how the author of a model can make a module available.

    Args:
        module: The missing module.
        source: Text of the model's file: its own environment must contain everything it imports.
    """
    name = distribution_of(module)
    if any(line.rstrip() == _BLOCK for line in source.splitlines()):
        return f'add "{name}" to `dependencies` in the `{_BLOCK}` block of its file'
    return (
        f"install it in Swell's environment (pip install {name}), or declare it and all other"
        f" packages that the file imports at its top:\n  {_BLOCK}\n  # dependencies = "
        f'["{name}"]\n  # ///'
    )
