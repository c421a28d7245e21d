"""Names the package that provides a missing module, and the requirements of a model's file."""

import ast
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Final

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


def distribution_of(module: str) -> str:
    """Return the package of a module."""
    top = module.partition(".")[0]
    return _OTHER_NAMES.get(module) or _OTHER_NAMES.get(top) or top.replace("_", "-")


#: Begins the requirements of a file (PEP 723).
_BLOCK: Final = "# /// script"

#: Modules in every environment of a model.
_ALWAYS_THERE: Final = frozenset({"swell", "msgspec", "numpy", "PIL", "psutil", "pydantic"})


def imported(source: str, siblings: Collection[str] = ()) -> list[str]:
    """Return the third-party modules that a file imports, in order; none if it is not Python.

    Args:
        source: Its text.
        siblings: Names of modules in the same folder.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    own = _ALWAYS_THERE | sys.stdlib_module_names | set(siblings)
    found = (name for node in ast.walk(tree) for name in _names(node))
    return list(dict.fromkeys(name for name in found if name.partition(".")[0] not in own))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        yield node.module


def how_to_get(module: str, source: str = "", siblings: Collection[str] = ()) -> str:
    """Return how the author of a model can make a module available.

    Args:
        module: The missing module.
        source: Text of the model's file: its own environment must contain everything it imports.
        siblings: Names of modules in the same folder.
    """
    name = distribution_of(module)
    if any(line.rstrip() == _BLOCK for line in source.splitlines()):
        return f'add "{name}" to `dependencies` in the `{_BLOCK}` block of its file'
    others = map(distribution_of, imported(source, siblings))
    listed = ", ".join(f'"{each}"' for each in dict.fromkeys([name, *others]))
    return (
        f"install it in Swell's environment (pip install {name}), or declare all"
        f" requirements at the top of the file:\n  {_BLOCK}\n  # dependencies = "
        f"[{listed}]\n  # ///"
    )
