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
from pathlib import Path, PurePosixPath
from typing import Final

from swell.containers.dockerfile import DATA
from swell.containers.packing import WEIGHTS, Packed
from swell.containers.wheels import wheel, wheel_name
from swell.weights.cache import WeightCache
from swell.weights.manifest import note_manifest

#: Time of all files: the earliest that every archive format can store.
_WHEN_S: Final = 315_532_800


def write_context(folder: Path, packed: Packed) -> None:
    """Write a build context into an empty folder.

    Args:
        folder: The folder.
        packed: Contents of the context.

    Raises:
        DigestMismatch: The content of baked weights does not match its digest.
        CacheFull: The disk is full.
    """
    (folder / "Dockerfile").write_text(packed.dockerfile)
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
    weights = WEIGHTS if packed.is_baked else DATA / "weights"
    for place, digest in packed.links.items():
        made(place).symlink_to(weights / "files" / digest[:2] / digest)
    if packed.is_baked:
        bake(packed, folder / "weights")
    _even(folder)


def bake(packed: Packed, folder: Path) -> None:
    """Copy weights into a folder that a worker in the image names with `worker.baked_dir`."""
    baked = WeightCache(folder)
    for manifest in packed.manifests:
        note_manifest(baked, manifest)
    for digest, path in packed.contents.items():
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
