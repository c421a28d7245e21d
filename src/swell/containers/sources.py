"""Finds the files of a model's code by parsing its imports, without running it.

The search starts at the model's file and follows each import, also in functions, to modules in the
same folder or on Python's path. An installed package is not followed, but named by its
distribution.
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import swell

_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})

#: Swell's code, which every image has.
SWELL: Final = Path(str(swell.__file__)).resolve().parent

#: Packages of Swell that contain models; their imports are followed.
_MODELS: Final = (
    "swell.models",
    "swell.diffusion.families",
    "swell.weights",
    "swell.diffusion.torch_arrays",
)

#: Packed file by file, even if installed, because most of the distribution is weights.
_DEMOS: Final = "swell_models"


@dataclass(frozen=True, slots=True)
class Module:
    """A file of code, and the folder on Python's path that contains the module."""

    path: Path
    root: Path


@dataclass(slots=True)
class Code:
    """The code of a model."""

    modules: dict[Path, Module] = field(default_factory=dict)
    #: Distributions that the code imports.
    distributions: set[str] = field(default_factory=set)
    #: Imported modules that were not found; the code may not need them.
    missing: set[str] = field(default_factory=set)


def place_of(name: str) -> Module | None:
    """Return the source file of a module by its dotted name; None if it has none."""
    *packages, last = name.split(".")
    root = _root_of(name.partition(".")[0])
    found = _files(root.joinpath(*packages), last) if root else []
    return Module(found[0], root) if root and found else None


def code_of(start: Module) -> Code:
    """Return the code of a model: its file first, then all modules that it imports."""
    code, waiting, installed = Code(), [start], set[str]()
    while waiting:
        module = waiting.pop()
        if module.path not in code.modules:
            code.modules[module.path] = module
            for name in _imports(module):
                waiting += _followed(name, module.root, code.missing, installed)
    if installed:
        # Source: "Recording installed projects", PyPA: a line of RECORD starts with a path.
        # `importlib.metadata.packages_distributions` parses each line, which takes a second.
        lines = re.compile(rf"^(?:{'|'.join(installed)})(?:/|\.[^/,]*(?:py|so|pyd),)", re.MULTILINE)
        code.distributions |= {
            each.name for each in distributions() if lines.search(each.read_text("RECORD") or "")
        }
    return code


def _followed(name: str, root: Path, missing: set[str], installed: set[str]) -> list[Module]:
    """Return the files of an import, or add its first name to `missing` or `installed`."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or (top == "swell" and not name.startswith(_MODELS)):
        return []
    if own := _files(root, name):
        return [Module(each, root) for each in own]
    elsewhere = _root_of(top)
    if elsewhere is None:
        missing.add(top)
        return []
    if _INSTALLED & set(elsewhere.parts) and top not in ("swell", _DEMOS):
        installed.add(top)
        return []
    return [Module(each, elsewhere) for each in _files(elsewhere, name)]


def _files(root: Path, name: str) -> list[Path]:
    """Return the files below a folder that an import runs."""
    found, folder = [], root
    for part in name.split("."):
        ends = ("/__init__.py", ".py", *EXTENSION_SUFFIXES)
        paths = [path for end in ends if (path := folder / f"{part}{end}").is_file()]
        found += paths[:1]
        folder = folder / part
    return found


def _imports(module: Module) -> Iterator[str]:
    """Yield the dotted names that a file imports; nothing if it is not Python."""
    try:
        tree = ast.parse(module.path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    package = module.path.relative_to(module.root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: -node.level], node.module] if node.level else [node.module]
            # A name that is imported from a package may be a module.
            yield from (".".join(filter(None, [*base, each.name])) for each in node.names)


def texts_in(path: Path) -> set[str]:
    """Return the string constants of a Python file."""
    nodes = ast.walk(ast.parse(path.read_bytes())) if path.suffix == ".py" else ()
    found = (node.value for node in nodes if isinstance(node, ast.Constant))
    return {value for value in found if isinstance(value, str)}


def _root_of(top: str) -> Path | None:
    """Return the folder on Python's path that contains a top-level module, or None."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    own = spec.origin if spec.has_location else None
    place = next(iter(spec.submodule_search_locations or ()), own)
    return Path(place).resolve().parent if place else None
