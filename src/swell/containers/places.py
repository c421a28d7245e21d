"""Where files of this machine lie in an image, so that code finds them as it does here.

What lies beside code keeps its place to it. What a module names by a path of this machine keeps
that path, unless the image has folders of its own there, whose rights would change.
"""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from swell.containers.sources import SWELL, Code, Module, texts_in
from swell.core.errors import InvalidModel, InvalidRequest

HOME: Final = PurePosixPath("/opt/swell")
MODELS: Final = HOME / "models"

#: Folders that every image has, with rights that matter.
_SYSTEM: Final = frozenset(
    {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32"}
    | {"proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"}
)

#: What else lies below `MODELS`, beside folders that have numbers.
_TAKEN: Final = frozenset({"added", "weights.json"})


class Places:
    """The places of one image; the same for the same files in the same order."""

    def __init__(self) -> None:
        #: Folders from which modules are imported here → in the image.
        self.roots: dict[Path, PurePosixPath] = {}
        self._files: dict[PurePosixPath, Path] = {}

    def take(self, path: Path, place: PurePosixPath) -> PurePosixPath:
        """Note that a file lies in a place, and return that.

        Raises:
            InvalidModel: Another file does.
        """
        other = self._files.setdefault(place, path)
        if os.path.realpath(other) != os.path.realpath(path):
            raise InvalidModel(f"{other} and {path} would both be {place} in an image: rename one")
        return place

    def below(self, path: Path, root: Path) -> PurePosixPath:
        """Return the place of a file below a folder from which modules are imported."""
        home = self.roots.setdefault(root, MODELS / str(len(self.roots) + 1))
        return home / path.relative_to(root).as_posix()

    def included(self, path: Path) -> Path:
        """Return the root below which a path lies that is to go with the code.

        Raises:
            InvalidRequest: It lies below none, or is hidden.
        """
        root = _deepest(path, self.roots)
        if root is None:
            known = ", ".join(map(str, self.roots)) or "none"
            raise InvalidRequest(
                f"{path} is not in a folder of a model's code ({known}): --include takes"
                " files that the code loads from its own folders"
            )
        if any(part.startswith(".") for part in path.relative_to(root).parts):
            raise InvalidRequest(
                f"{path} is hidden, and hidden files never go in: rename it, if it holds no secret"
            )
        return root

    def declared(self, path: Path, code: Code, source: Path | None) -> list[PurePosixPath]:
        """Return where a file lies for the code that declares it: in one place, seldom in two.

        Args:
            path: Of the file.
            code: All code of the model.
            source: The module that defines the model.

        Raises:
            InvalidModel: There is no place for it.
        """
        path = Path(os.path.normpath(path.absolute()))
        module = code.modules.get(source.resolve()) if source is not None else None
        if source is None or module is None or module.path.is_relative_to(SWELL):
            module = None
        elif _is_literal(path, module):
            return [_own(path)]
        elif (inner := _inner(path, source, module)) is not None:
            return [self.below(module.root / inner, module.root)]
        found = [] if module is None else self._beside(path, module)
        root = _deepest(path, {each.root for each in code.modules.values()})
        if root is not None:
            found.append(self.below(path, root))
        return found or [_own(path)]

    def _beside(self, path: Path, module: Module) -> list[PurePosixPath]:
        """Return the place that lies to a module as a file lies to it here, if it may have one."""
        inner = os.path.relpath(path, module.path.parent)
        folder = self.below(module.path, module.root).parent
        place = PurePosixPath(os.path.normpath(folder / inner))
        if place == MODELS or not place.is_relative_to(MODELS):
            return []
        first = place.relative_to(MODELS).parts[0]
        if first.isdigit() or first in _TAKEN:
            raise InvalidModel(
                f"{path} would be {place} in an image, where other things are: rename {first}"
            )
        return [place]


def _deepest(path: Path, roots: Iterable[Path]) -> Path | None:
    above = [root for root in roots if path.is_relative_to(root)]
    return max(above, key=lambda root: len(root.parts), default=None)


def _inner(path: Path, source: Path, module: Module) -> Path | None:
    """Return a file's path below the root of a module; None if it lies elsewhere.

    Args:
        path: Of the file.
        source: Of the module, as Python has it: links in Python's path are not followed.
        module: The same, with its root as it is.
    """
    depth = len(module.path.relative_to(module.root).parts)
    for root in (module.root, source.parents[depth - 1]):
        if path.is_relative_to(root):
            return path.relative_to(root)
    return None


def _is_literal(path: Path, module: Module) -> bool:
    """Whether a module names a file by its whole path, or by that of a folder above it."""
    if module.path.suffix != ".py":
        return False
    whole = [Path(text) for text in texts_in(module.path) if text.startswith("/")]
    return any(
        path == each or (len(each.parts) > 2 and path.is_relative_to(each)) for each in whole
    )


def _own(path: Path) -> PurePosixPath:
    """Return a file's own path.

    Raises:
        InvalidModel: An image has something else there.
    """
    place = PurePosixPath(path)
    if place.parts[1] in _SYSTEM or place.is_relative_to(HOME):
        raise InvalidModel(
            f"{path} is in a folder that the image reserves: move it into or below "
            "the folder of the model's code, and declare it by its relative path"
        )
    return place
