"""Notes about the images of earlier builds without the models' code.

For each of about fifteen steps, an engine searches all its images for a cached layer, although a
change of the code affects only the last step. So a note has the id of the image before this step,
under a digest of its inputs. The next build with the same digest starts from this image and has two
steps.

The engine may have removed the image, so callers check that it exists. Like an engine's cache key,
the digest does not depend on the package index.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_ID: Final = re.compile(r"[0-9a-f]{64}")

#: Number of notes that are kept, most recently used first.
_MOST: Final = 64

#: Options that do not affect the image. With any other option, notes are not used.
_HARMLESS: Final = (
    "--isolation",
    "--network",
    "--ulimit",
    "--memory",
    "--cpu-quota",
    "--cpuset-cpus",
)

#: Parts of the context that belong to the last step.
_CODE: Final = ("Dockerfile", "tree")

#: Folder of the context with files that are named by their digests.
_BY_DIGEST: Final = Path("weights", "files")


class Kept:
    """Notes about images, in a folder of this user.

    Args:
        folder: The folder; created when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, digest: str) -> str | None:
        """Return the id of the image with this digest, or None."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            path = self._folder / digest
            image = path.read_text().strip()
            if _ID.fullmatch(image):
                os.utime(path)
                return image
        return None

    def note(self, digest: str, image: str) -> None:
        """Note the image with this digest. An I/O error is ignored: the next build is slower."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = self._folder / f".{digest}.{os.getpid()}"
            fresh.write_text(f"{image}\n")
            fresh.replace(self._folder / digest)
            notes = [path for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
            for oldest in sorted(notes, key=_used_ns)[:-_MOST]:
                oldest.unlink(missing_ok=True)

    def forget(self, digest: str) -> None:
        """Remove the note with this digest."""
        with contextlib.suppress(OSError):
            (self._folder / digest).unlink()


def digest_of(context: Path, before: str, base: str, words: Sequence[str]) -> str | None:
    """Return a digest of all inputs of the image before the models' code.

    Args:
        context: The build context.
        before: The Dockerfile without its last part.
        base: Id of the base image.
        words: The engine and its options.

    Returns:
        None if an option may affect the image.
    """
    if not all(word.partition("=")[0] in _HARMLESS for word in words[1:]):
        return None
    found = hashlib.sha256()
    for told in (*words, base, before):
        _add(found, told.encode())
    for name, path in sorted(_files(context)):
        _add(found, name.encode())
        _add(found, f"{path.lstat().st_mode:o} {path.lstat().st_size}".encode())
        if path.is_symlink():
            _add(found, os.readlink(path).encode())
        elif not Path(name).is_relative_to(_BY_DIGEST):
            _add(found, path.read_bytes())
    return found.hexdigest()


def _files(context: Path) -> Iterator[tuple[str, Path]]:
    for place, _, names in os.walk(context):
        for name in names:
            path = Path(place, name)
            inside = path.relative_to(context)
            if inside.parts[0].partition(".")[0] not in _CODE:
                yield inside.as_posix(), path


def _add(found: "hashlib._Hash", data: bytes) -> None:
    """Add data with its length, so that different sequences never give the same bytes."""
    found.update(f"{len(data)} ".encode())
    found.update(data)


def _used_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
