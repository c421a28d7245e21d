"""Under which name a module is installed, where that is not its own. Pure."""

from collections.abc import Mapping
from typing import Final

__all__ = ["distribution_of", "how_to_get"]

#: Modules that models import often → the distributions that bring them.
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


def distribution_of(module: str) -> str:
    """Return what brings a module: its own name unless it is known to be another."""
    top = module.partition(".")[0]
    return _OTHER_NAMES.get(module) or _OTHER_NAMES.get(top) or top.replace("_", "-")


def how_to_get(module: str) -> str:
    """Return what the author of a model may write so that a module is there."""
    name = distribution_of(module)
    return (
        "let its file ask for it in a block at the top, `# /// script`, "
        f'`# dependencies = ["{name}"]`, `# ///`, or install it beside Swell: pip install {name}'
    )
