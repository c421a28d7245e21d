"""Finds the files of a model's code by parsing its imports, without running it.

The search starts at the model's file and follows each import, also in functions, to modules in the
same folder or on Python's path. An installed package is not followed, but named by its
distribution.
"""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
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


class Nowhere(Exception):
    """A module does not exist, or has no source file."""


@dataclass(frozen=True, slots=True)
class Module:
    """A file of code.

    Args:
        path: Its path.
        root: The folder on Python's path that contains the module.
    """

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


def place_of(name: str) -> Module:
    """Find the source file of a module by its dotted name.

    Raises:
        Nowhere: The module does not exist, or has no source.
    """
    root = _root_of(name.partition(".")[0])
    if root is None:
        raise Nowhere(name)
    found = list(_files(root, name.split(".")))
    if not found or not _is_whole(found[-1], name):
        raise Nowhere(name)
    return Module(found[-1], root)


def code_of(start: Module) -> Code:
    """Return the code of a model: its file first, then all modules that it imports."""
    code = Code()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module.path in code.modules:
            continue
        code.modules[module.path] = module
        if module.path.suffix == ".py":
            for name in _imports(module):
                waiting += _followed(name, module.root, code)
    return code


def _followed(name: str, root: Path, code: Code) -> list[Module]:
    """Return the files of an import, or add it to `code.distributions` or `code.missing`."""
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return []
    if top == "swell":
        if not name.startswith(_MODELS):
            return []
        return [Module(each, SWELL.parent) for each in _files(SWELL.parent, name.split("."))]
    parts = name.split(".")
    if own := list(_files(root, parts)):
        return [Module(each, root) for each in own]
    elsewhere = _root_of(top)
    if elsewhere is None:
        code.missing.add(top)
        return []
    if _INSTALLED & set(elsewhere.parts) and top != _DEMOS:
        code.distributions.update(_distributions_of(top))
        return []
    return [Module(each, elsewhere) for each in _files(elsewhere, parts)]


def _files(root: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a folder that an import runs."""
    folder = root
    for part in parts:
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            yield package
            # Marks the package as typed.
            if (typed := package.with_name("py.typed")).is_file():
                yield typed
        elif module.is_file():
            yield module
            return
        elif native := [
            path for end in EXTENSION_SUFFIXES if (path := folder / f"{part}{end}").is_file()
        ]:
            yield native[0]
            return
        elif not (folder / part).is_dir():
            return
        folder = folder / part


def _is_whole(path: Path, name: str) -> bool:
    """Whether a file is the module of that name, not a package above it."""
    last = name.rpartition(".")[2]
    return path.stem == last or (path.name == "__init__.py" and path.parent.name == last)


def _imports(module: Module) -> Iterator[str]:
    """Yield the dotted names that a file imports; nothing if it is not Python."""
    try:
        tree = ast.parse(module.path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module)
            if base is not None:
                # A name that is imported from a package may be a module.
                yield from (f"{base}.{each.name}".strip(".") for each in node.names)


def texts_in(path: Path) -> set[str]:
    """Return the string constants of a Python file."""
    tree = ast.parse(path.read_bytes())
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


def _base(node: ast.ImportFrom, module: Module) -> str | None:
    if node.level == 0:
        return node.module
    inner = module.path.relative_to(module.root).parts[: -node.level]
    return ".".join([*inner, *([node.module] if node.module else [])])


def _root_of(top: str) -> Path | None:
    """Return the folder on Python's path that contains a top-level module, or None."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve().parent
    return Path(spec.origin).resolve().parent if spec.origin and spec.has_location else None


@cache
def _distributions_of(top: str) -> tuple[str, ...]:
    """Return the distributions that contain a top-level module.

    The same as `importlib.metadata.packages_distributions`, but faster: it does not parse every
    distribution's list of files.
    """
    names = set()
    for each in distributions():
        tops = (each.read_text("top_level.txt") or "").split()
        if top in tops if tops else _lists(each.read_text("RECORD") or "", top):
            names.add(each.name)
    return tuple(sorted(names))


def _lists(record: str, top: str) -> bool:
    """Whether a RECORD of installed files has a module of that name.

    Source: "Recording installed projects", PyPA specifications: a line starts with the path.
    """
    return (
        re.search(rf"^{re.escape(top)}(?:/|\.[^/,]*(?:py|so|pyd),)", record, re.MULTILINE)
        is not None
    )
