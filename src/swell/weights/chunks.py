"""Files of weights as chunks, each named by its SHA-256, and the manifest that says how they join.

Weights travel as objects below one address:

    chunks/9f/9f86…                 up to 16 MiB of a file, whatever files have them
    manifests/60/6030….json         which files a version has, and of which chunks
    versions/owner/name/VERSION.json    which manifest a version is; never replaced by another

A manifest has a digest of its own, so that whoever knows that one needs to trust nobody: every
chunk is compared with it. Nothing here does I/O but `cut`.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from swell.weights.files import open_file
from swell.weights.formats import check_name
from swell.weights.listing import Entry, InvalidListing, Listing, check_digest, check_identity

#: Bytes of a chunk. Large enough that a request costs little beside it, small enough that a cut
#: connection loses little and the last ones end together; see decision 37 for what was measured.
CHUNK_BYTES: Final = 16 << 20

#: What a manifest may ask for: chunks are held in memory one by one, and a manifest as a whole.
LEAST_CHUNK_BYTES: Final = 4096
MOST_CHUNK_BYTES: Final = 64 << 20
MAX_MANIFEST_BYTES: Final = 64 << 20
MAX_FILES: Final = 10_000
MAX_BYTES: Final = 1 << 44

_FORMAT: Final = 1
_CHUNK_KEY: Final = re.compile(r"chunks/([0-9a-f]{2})/\1[0-9a-f]{62}")
_BLOCK_BYTES: Final = 1 << 20


class ChunkedFile(msgspec.Struct, frozen=True):
    """A file, and what it is made of.

    Args:
        sha256: Of all of it.
        bytes: Its size.
        chunks: SHA-256 of each of its chunks, in order.
    """

    sha256: str
    bytes: int
    chunks: tuple[str, ...]


class Manifest(msgspec.Struct, frozen=True):
    """All files of one version of a model, by their names.

    Args:
        model: `owner/name`.
        version: What identifies these weights among the model's.
        chunk_bytes: Size of every chunk but the last of a file.
        files: Name below the model's folder, with `/`, to content.
        source: Where they came from, for people.
        format: Changed where older readers would be wrong.
    """

    model: str
    version: str
    chunk_bytes: int
    files: dict[str, ChunkedFile]
    source: str = ""
    format: int = _FORMAT

    @property
    def listing(self) -> Listing:
        """The same as the cache notes it."""
        files = {name: Entry(file.sha256, file.bytes) for name, file in self.files.items()}
        return Listing(self.model, self.version, files, self.source)

    @property
    def digest(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(write_manifest(self)).hexdigest()

    @property
    def chunks(self) -> dict[str, int]:
        """The size of each chunk by its digest, in the order of the files."""
        return {
            digest: size
            for file in self.files.values()
            for digest, _, size in spans(file, self.chunk_bytes)
        }

    def file_key(self, name: str) -> str:
        """Return what names a file's content by its chunks, for a place to gather them in."""
        file = self.files[name]
        told = f"{self.chunk_bytes} {file.bytes} {' '.join(file.chunks)}"
        return hashlib.sha256(told.encode()).hexdigest()


class Pointer(msgspec.Struct, frozen=True):
    """Which manifest a version is."""

    manifest: str


def spans(file: ChunkedFile, chunk_bytes: int) -> Iterator[tuple[str, int, int]]:
    """Yield (digest, first byte, size) of each chunk of a file."""
    for number, digest in enumerate(file.chunks):
        at = number * chunk_bytes
        yield digest, at, min(chunk_bytes, file.bytes - at)


def cut(
    path: Path, chunk_bytes: int = CHUNK_BYTES, seen: Callable[[int], None] = lambda size: None
) -> ChunkedFile:
    """Read a file and return what it is made of.

    Args:
        path: Where it is.
        chunk_bytes: Size of every chunk but the last.
        seen: Told of the bytes of each block that was read; what it raises ends the reading.

    Raises:
        OSError: It is not there, or cannot be read.
    """
    whole, chunk, left = hashlib.sha256(), hashlib.sha256(), chunk_bytes
    digests: list[str] = []
    size = 0
    with open_file(path) as file:
        while block := file.read(min(_BLOCK_BYTES, left)):
            whole.update(block)
            chunk.update(block)
            size += len(block)
            left -= len(block)
            if left == 0:
                digests.append(chunk.hexdigest())
                chunk, left = hashlib.sha256(), chunk_bytes
            seen(len(block))
    if left < chunk_bytes:
        digests.append(chunk.hexdigest())
    return ChunkedFile(whole.hexdigest(), size, tuple(digests))


def write_manifest(manifest: Manifest) -> bytes:
    """Return the text of a manifest; equal ones have equal texts."""
    ordered = msgspec.structs.replace(manifest, files=dict(sorted(manifest.files.items())))
    return msgspec.json.encode(ordered)


def read_manifest(text: bytes, digest: str | None = None) -> Manifest:
    """Return what a manifest says, once every number and name in it has been checked.

    Args:
        text: As `write_manifest` returned it.
        digest: What its SHA-256 must be; None where whoever told it is trusted.

    Raises:
        InvalidListing: It is another one, or no manifest.
        RefusedFormat: It names a file of a format that is not opened, or outside of its folder.
    """
    found = hashlib.sha256(text).hexdigest()
    if digest is not None and found != digest:
        raise InvalidListing(
            f"the manifest has the SHA-256 {found}, and {digest} was asked for: it was changed "
            "where it lies; push the model again, or ask whoever did"
        )
    if len(text) > MAX_MANIFEST_BYTES:
        raise InvalidListing(f"a manifest has at most {MAX_MANIFEST_BYTES:,} bytes")
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise InvalidListing(f"this is no manifest of weights: {error}") from None
    _check(manifest)
    if write_manifest(manifest) != text:
        raise InvalidListing("this manifest is not in the plain form, in which its digest is made")
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.format != _FORMAT:
        raise InvalidListing(
            f"a manifest of format {manifest.format} is not read by this version of Swell: "
            "upgrade it, or push the model with this one"
        )
    check_identity(manifest.model, manifest.version)
    if not LEAST_CHUNK_BYTES <= manifest.chunk_bytes <= MOST_CHUNK_BYTES:
        raise InvalidListing(
            f"chunks have {LEAST_CHUNK_BYTES:,} to {MOST_CHUNK_BYTES:,} bytes, and those of this "
            f"manifest {manifest.chunk_bytes:,}"
        )
    if not 0 < len(manifest.files) <= MAX_FILES:
        raise InvalidListing(f"a manifest has 1 to {MAX_FILES:,} files")
    sizes: dict[str, int] = {}
    for name, file in manifest.files.items():
        _check_file(name, file, manifest.chunk_bytes)
        for digest, _, size in spans(file, manifest.chunk_bytes):
            if sizes.setdefault(digest, size) != size:
                raise InvalidListing(f"{name}: the chunk {digest} would have two sizes")
    _check_paths(manifest.files)


def _check_file(name: str, file: ChunkedFile, chunk_bytes: int) -> None:
    if check_name(name) != name:
        raise InvalidListing(f"{name!r} is not the plain form of a path")
    if not 0 <= file.bytes <= MAX_BYTES:
        raise InvalidListing(f"{name} would have {file.bytes:,} bytes")
    wanted = -(-file.bytes // chunk_bytes)
    if len(file.chunks) != wanted:
        raise InvalidListing(f"{name} needs {wanted} chunks, and has {len(file.chunks)}")
    for digest in (file.sha256, *file.chunks):
        if check_digest(digest, name) != digest:
            raise InvalidListing(f"{name}: {digest[:80]!r} is not the plain form of a digest")


def _check_paths(files: Mapping[str, ChunkedFile]) -> None:
    """No file may lie where another one needs a folder."""
    for name in files:
        parts = name.split("/")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in files:
                raise InvalidListing(f"{'/'.join(parts[:end])} is a file, and a folder of {name}")


def read_pointer(text: bytes, told: str) -> str:
    """Return which manifest a version is, by its digest.

    Raises:
        InvalidListing: It is none.
    """
    try:
        return check_digest(msgspec.json.decode(text, type=Pointer).manifest, told)
    except msgspec.MsgspecError as error:
        raise InvalidListing(f"{told}: this names no manifest: {error}") from None


def chunk_key(digest: str) -> str:
    """Return the key of a chunk."""
    return f"chunks/{digest[:2]}/{digest}"


def is_chunk_key(key: str) -> bool:
    """Whether a key is one of a chunk, and of nothing else."""
    return _CHUNK_KEY.fullmatch(key) is not None


def manifest_key(digest: str) -> str:
    """Return the key of a manifest."""
    return f"manifests/{digest[:2]}/{digest}.json"


def version_key(model: str, version: str) -> str:
    """Return the key of what says which manifest a version is."""
    check_identity(model, version)
    return f"versions/{model}/{version}.json"
