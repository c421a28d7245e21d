"""Writes the build context.

    Dockerfile  swell-….whl
    weights/files/9f/9f86…       only for a baked image
    tree/…                       copied to the image's root: models, links, weights.json

All files get the same time, and the same permissions except for executables. So a build's cache
depends only on their content.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from swell.containers.dockerfile import DATA
from swell.containers.packing import WEIGHTS, Packed
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
        is_baked: Whether the image contains weights.
        manifests: Manifests that name the baked weights.
    """

    dockerfile: str
    packed: Packed
    is_baked: bool = False
    manifests: Sequence["Listing"] = ()


def write_context(folder: Path, parts: Parts) -> None:
    """Write a build context into an empty folder.

    Args:
        folder: The folder.
        parts: Contents of the context.

    Raises:
        DigestMismatch: The content of baked weights does not match its digest.
        CacheFull: The disk is full.
    """
    packed = parts.packed
    (folder / "Dockerfile").write_text(parts.dockerfile)
    (folder / wheel_name()).write_bytes(wheel())

    def made(place: PurePosixPath) -> Path:
        path = folder / "tree" / place.relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    for place, source in packed.files.items():
        # With the permissions, so that `_even` sees which files are programs.
        shutil.copy(source, made(place))
    for place, data in packed.texts.items():
        made(place).write_bytes(data)
    weights = WEIGHTS if parts.is_baked else DATA / "weights"
    for place, digest in packed.links.items():
        made(place).symlink_to(weights / "files" / digest[:2] / digest)
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
