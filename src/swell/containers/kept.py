"""What an image is before its models' code, kept by the engine from one build to the next.

An engine looks for each step of a build among all images that it has. Of fifteen steps a change of
the code makes one anew. So what comes before is noted, as the id of the engine's own image, under a
digest of all that it was made of; the next build with the same begins there, and has two steps.

What a note tells of may have been removed by the engine's own means: whoever uses one looks first.
Where packages come from is not part of the digest, as it is no part of what engines compare.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_ID: Final = re.compile(r"[0-9a-f]{64}")

#: The newest notes are kept; each is of one set of packages and settings.
_MOST: Final = 64

#: Options that change nothing of what is made. With any other one, all steps are the engine's.
_HARMLESS: Final = (
    "--isolation",
    "--network",
    "--ulimit",
    "--memory",
    "--cpu-quota",
    "--cpuset-cpus",
)

#: Of the context: made anew for every build, and laid over all else at the end.
_CODE: Final = ("Dockerfile", "tree")

#: Of the context: files whose names are the digests of their content.
_BY_DIGEST: Final = Path("weights", "files")


class Kept:
    """Notes of images, in a folder of this user's.

    Args:
        folder: Where; made when first written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, digest: str) -> str | None:
        """Return the id of the image that was made of this; None where none is known."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            path = self._folder / digest
            image = path.read_text().strip()
            if _ID.fullmatch(image):
                os.utime(path)
                return image
        return None

    def note(self, digest: str, image: str) -> None:
        """Note which image was made of this. Where that fails, the next build is slower."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            fresh = self._folder / f".{digest}.{os.getpid()}"
            fresh.write_text(f"{image}\n")
            fresh.replace(self._folder / digest)
            notes = [path for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
            for oldest in sorted(notes, key=_used_ns)[:-_MOST]:
                oldest.unlink(missing_ok=True)

    def forget(self, digest: str) -> None:
        """Take an image for one that was never made."""
        with contextlib.suppress(OSError):
            (self._folder / digest).unlink()


def digest_of(context: Path, before: str, base: str, words: Sequence[str]) -> str | None:
    """Return a digest of all that an image is made of before the code.

    Args:
        context: The folder that the build sees.
        before: The Dockerfile without its last part.
        base: The id of the image that it begins with.
        words: The engine, and options for it.

    Returns:
        None where options may change what is made.
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
    """Add something with its length, so that nothing is taken for the end of what is before it."""
    found.update(f"{len(data)} ".encode())
    found.update(data)


def _used_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
