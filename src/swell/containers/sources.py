"""Which files a model's code consists of, found by reading it: nothing is imported or run.

From the model's own file on, each import is followed: to a module that lies beside it, or anywhere
on Python's path but where packages are installed, and to what that imports in turn. What is
installed is told by the name of its distribution. Imports within functions count too.
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

#: Swell's own code, which an image has anyway.
SWELL: Final = Path(str(swell.__file__)).resolve().parent

#: Parts of it in which models are, whose imports are theirs.
_MODELS: Final = (
    "swell.models",
    "swell.diffusion.families",
    "swell.weights",
    "swell.diffusion.torch_arrays",
)

#: Goes into an image file by file, installed or not: most of the distribution is weights.
_DEMOS: Final = "swell_models"


class Nowhere(Exception):
    """A module that is named has no source that could be read."""


@dataclass(frozen=True, slots=True)
class Module:
    """A file of code.

    Args:
        path: Where it lies.
        root: The folder on Python's path from which it is imported.
    """

    path: Path
    root: Path


@dataclass(slots=True)
class Code:
    """What was found."""

    modules: dict[Path, Module] = field(default_factory=dict)
    #: Distributions whose modules are imported.
    distributions: set[str] = field(default_factory=set)
    #: Modules that are imported somewhere, and not to be found: perhaps never needed.
    missing: set[str] = field(default_factory=set)


def place_of(name: str) -> Module:
    """Return where the source of a module lies that is named by its dotted name.

    Raises:
        Nowhere: There is no such module, or it has no source.
    """
    root = _root_of(name.partition(".")[0])
    if root is None:
        raise Nowhere(name)
    found = list(_files(root, name.split(".")))
    if not found or not _is_whole(found[-1], name):
        raise Nowhere(name)
    return Module(found[-1], root)


def code_of(start: Module) -> Code:
    """Return all code that a model's file consists of, the file itself first."""
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
    """Return the files behind an import; note what is installed, and what is missing."""
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
    """Yield the files that are run for an import, as far as they lie below a folder."""
    folder = root
    for part in parts:
        package, module = folder / part / "__init__.py", folder / f"{part}.py"
        if package.is_file():
            yield package
            # Says that it has types, where it has.
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
    """Whether a file is the module of that name, and not one that it lies in."""
    last = name.rpartition(".")[2]
    return path.stem == last or (path.name == "__init__.py" and path.parent.name == last)


def _imports(module: Module) -> Iterator[str]:
    """Yield the dotted names that a file imports; none if it is not Python."""
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
                # What is imported from a package may be a module of it.
                yield from (f"{base}.{each.name}".strip(".") for each in node.names)


def texts_in(path: Path) -> set[str]:
    """Return the texts that stand in a file of Python."""
    tree = ast.parse(path.read_bytes())
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {node.value for node in nodes if isinstance(node.value, str)}


def _base(node: ast.ImportFrom, module: Module) -> str | None:
    if node.level == 0:
        return node.module
    inner = module.path.relative_to(module.root).parts[: -node.level]
    return ".".join([*inner, *([node.module] if node.module else [])])


def _root_of(top: str) -> Path | None:
    """Return the folder on Python's path that has a module; None if there is none."""
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
    """Return the distributions that a module on Python's path comes from.

    As `importlib.metadata.packages_distributions` has it, for one module and without taking each
    distribution's list of files apart.
    """
    names = set()
    for each in distributions():
        tops = (each.read_text("top_level.txt") or "").split()
        if top in tops if tops else _lists(each.read_text("RECORD") or "", top):
            names.add(each.name)
    return tuple(sorted(names))


def _lists(record: str, top: str) -> bool:
    """Whether a list of installed files has a module of that name.

    Source: "Recording installed projects", PyPA specifications: a line begins with the path.
    """
    return (
        re.search(rf"^{re.escape(top)}(?:/|\.[^/,]*(?:py|so|pyd),)", record, re.MULTILINE)
        is not None
    )
