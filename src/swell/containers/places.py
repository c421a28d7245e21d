"""Decides the paths of files in an image, so that code finds them there as it does here.

A file near a module keeps its path relative to the module. A file that a module names by its
absolute path keeps this path, unless it is in a system folder of the image.
"""

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from swell.containers.dockerfile import HOME
from swell.containers.sources import SWELL, Code, Module, texts_in
from swell.core.errors import InvalidModel, InvalidRequest

MODELS: Final = HOME / "models"

#: System folders of every image; their permissions must not change.
_SYSTEM: Final = frozenset(
    {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32"}
    | {"proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"}
)

#: Names below `MODELS` that are not numbers.
_TAKEN: Final = frozenset({"added", "weights.json"})


class Places:
    """Places of files in one image; the same files in the same order get the same places."""

    def __init__(self) -> None:
        #: Folder on Python's path here → in the image.
        self.roots: dict[Path, PurePosixPath] = {}
        self._files: dict[PurePosixPath, Path] = {}

    def take(self, path: Path, place: PurePosixPath) -> PurePosixPath:
        """Reserve a place for a file, and return it.

        Raises:
            InvalidModel: Another file has this place.
        """
        other = self._files.setdefault(place, path)
        if os.path.realpath(other) != os.path.realpath(path):
            raise InvalidModel(f"{other} and {path} would both be {place} in an image: rename one")
        return place

    def below(self, path: Path, root: Path) -> PurePosixPath:
        """Return the place of a file below a folder on Python's path."""
        home = self.roots.setdefault(root, MODELS / str(len(self.roots) + 1))
        return home / path.relative_to(root).as_posix()

    def included(self, path: Path) -> Path:
        """Return the root that contains an additional file or folder.

        Raises:
            InvalidRequest: No root contains the path, or it is hidden.
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

    def declared(self, path: Path, code: Code, source: str) -> list[PurePosixPath]:
        """Return the place of a declared file; in rare cases two places.

        Args:
            path: Path of the file.
            code: Code of the model.
            source: File of the module that defines the model; empty for none.

        Raises:
            InvalidModel: The file's place is taken or reserved.
        """
        path = Path(os.path.normpath(path.absolute()))
        module = code.modules.get(Path(source).resolve())
        found = []
        if module is not None and not module.path.is_relative_to(SWELL):
            if _is_literal(path, module):
                return [_own(path)]
            # The same folder by its two names, if Python's path contains a link.
            depth = len(module.path.relative_to(module.root).parts)
            for home in (module.root, Path(source).parents[depth - 1]):
                if path.is_relative_to(home):
                    return [self.below(module.root / path.relative_to(home), module.root)]
            found = self._beside(path, module)
        root = _deepest(path, {each.root for each in code.modules.values()})
        if root is not None:
            found.append(self.below(path, root))
        return found or [_own(path)]

    def _beside(self, path: Path, module: Module) -> list[PurePosixPath]:
        """Return the place with the same path relative to the module; empty if outside `MODELS`."""
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
    above = (root for root in roots if path.is_relative_to(root))
    return max(above, key=lambda root: len(root.parts), default=None)


def _is_literal(path: Path, module: Module) -> bool:
    """Whether a module names the absolute path of a file or of a folder above it."""
    whole = [Path(text) for text in texts_in(module.path) if text.startswith("/")]
    return any(
        path == each or (len(each.parts) > 2 and path.is_relative_to(each)) for each in whole
    )


def _own(path: Path) -> PurePosixPath:
    """Return the path of a file on this machine as its place.

    Raises:
        InvalidModel: The image reserves this folder.
    """
    place = PurePosixPath(path)
    if place.parts[1] in _SYSTEM or place.is_relative_to(HOME):
        raise InvalidModel(
            f"{path} is in a folder that the image reserves: move it into or below "
            "the folder of the model's code, and declare it by its relative path"
        )
    return place
