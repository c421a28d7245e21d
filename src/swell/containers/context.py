"""Writes the build context.

    Dockerfile  requirements.txt  constraints.txt  swell-….whl  needs.json
    weights/files/9f/9f86…       only for a baked image
    tree/…                       copied to the image's root: models, links, weights.json

All files get the same time, and the same permissions except for executables. So a build's cache
depends only on their content.
"""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from swell.containers.packing import DATA, WEIGHTS, Packed
from swell.containers.pins import Pins
from swell.containers.wheels import wheel, wheel_name

if TYPE_CHECKING:
    from swell.weights.weight_index import Listing

#: Time of all files: the earliest that every archive format can store.
_WHEN_S: Final = 315_532_800


@dataclass(frozen=True, slots=True)
class Parts:
    """Contents of a build context.

    Args:
        dockerfile: Text of the Dockerfile.
        packed: Files of the models.
        pins: Packages.
        constraints: Text of a constraints file that replaces the constraints of `pins`, or None.
        is_baked: Whether the image contains weights.
        manifests: Manifests that name the baked weights.
    """

    dockerfile: str
    packed: Packed
    pins: Pins
    constraints: str | None = None
    is_baked: bool = False
    manifests: Sequence["Listing"] = ()


def write_context(folder: Path, parts: Parts, swell: Callable[[], bytes] = wheel) -> None:
    """Write a build context into an empty folder.

    Args:
        folder: The folder.
        parts: Contents of the context.
        swell: Returns Swell's wheel.

    Raises:
        DigestMismatch: The content of baked weights does not match its digest.
        CacheFull: The disk is full.
    """
    packed = parts.packed
    _text(folder / "Dockerfile", parts.dockerfile)
    _text(folder / "requirements.txt", _lines(parts.pins.requirements))
    _text(folder / "constraints.txt", parts.constraints or _lines(parts.pins.constraints))
    _bytes(folder / wheel_name(), swell())
    if packed.needs:
        told = {"requirements": packed.needs.requirements, "python": packed.needs.python}
        _text(folder / "needs.json", json.dumps(told) + "\n")
    tree = folder / "tree"
    for place, path in packed.files.items():
        _copy(path, _inside(tree, place))
    for place, data in packed.texts.items():
        _bytes(_inside(tree, place), data)
    for place, digest in packed.links.items():
        link = _inside(tree, place)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(content_place(digest, is_baked=parts.is_baked))
    if parts.is_baked:
        bake(packed.contents, folder / "weights", parts.manifests)
    _even(folder)


def bake(contents: Mapping[str, Path], folder: Path, manifests: Iterable["Listing"] = ()) -> None:
    """Copy weights into a folder that a worker in the image names with `worker.baked_dir`.

    Args:
        contents: SHA-256 → a file that should have it.
        folder: The folder, laid out as a cache of weights.
        manifests: Versions whose manifest a model's listing names.

    Raises:
        DigestMismatch: A file has another content.
        CacheFull: The disk is full.
    """
    # Builds without weights do not need these modules.
    from swell.weights.cache import WeightCache  # noqa: PLC0415
    from swell.weights.manifest import note_manifest  # noqa: PLC0415

    baked = WeightCache(folder)
    for manifest in manifests:
        note_manifest(baked, manifest)
    for digest, path in contents.items():
        baked.add(path, path.name, digest)
    for left in ("locks", "partial"):
        shutil.rmtree(folder / left, ignore_errors=True)


def content_place(digest: str, *, is_baked: bool) -> PurePosixPath:
    """Return the path of a weights file in a container, as in the weight cache."""
    root = WEIGHTS if is_baked else DATA / "weights"
    return root / "files" / digest[:2] / digest


def _inside(tree: Path, place: PurePosixPath) -> Path:
    return tree / place.relative_to("/")


def _lines(lines: tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _text(path: Path, text: str) -> None:
    _bytes(path, text.encode())


def _bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if source.stat().st_mode & stat.S_IXUSR:
        target.chmod(0o755)


def _even(folder: Path) -> None:
    """Give all files the same time and the same permissions, except that executables stay so."""
    for place, folders, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            os.utime(path, (_WHEN_S, _WHEN_S), follow_symlinks=False)
        for name in folders:
            Path(place, name).chmod(0o755)
            os.utime(Path(place, name), (_WHEN_S, _WHEN_S))
    folder.chmod(0o755)
