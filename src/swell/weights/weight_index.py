"""Listings: the files of one version of a model.

An author writes `weights.toml`, or the same as JSON, in the folder of the model:

    model = "acme/poster"
    version = "2026-11-01"
    base = "hf://acme/poster-xl@5f3c…"

    [weights]
    "unet/model.safetensors" = { sha256 = "9f86…", bytes = 5135149760 }
    "vae/model.safetensors" = "sha256:60303ae2…"
    "text/model.onnx" = { url = "https://example.org/text.onnx", sha256 = "fd61…" }

A file without a `url` is found at its name below `base`: a folder, an https address, or a
repository of a hub. Without `base` it is in the folder of the listing. `pull` writes a
`Listing` into the cache, with the digest and size of every file.

Of weights that were pushed, `manifest = "sha256:…"` names the manifest. It stands
for all files, so that the table may be left out.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.errors import InvalidRequest
from swell.weights.formats import check_name

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class InvalidListing(InvalidRequest):
    """A listing of weights cannot be used; the text says what to change."""

    code, title = "invalid_listing", "This listing of weights cannot be used"


class Entry(msgspec.Struct, frozen=True):
    """A file that the cache has, or had.

    Args:
        sha256: Digest of its content, 64 hexadecimal digits.
        size_bytes: Its size.
    """

    sha256: str
    size_bytes: int


class Listing(msgspec.Struct, frozen=True):
    """All files of one version of a model, by their names.

    Args:
        model: `owner/name`.
        version: What identifies these weights among the model's: a commit, a version, a digest.
        files: Name below the model's folder, with `/`, to content.
        source: Where they came from, for people.
    """

    model: str
    version: str
    files: dict[str, Entry]
    source: str = ""

    @property
    def size_bytes(self) -> int:
        """What all files take, each content counted once."""
        return sum({entry.sha256: entry.size_bytes for entry in self.files.values()}.values())

    def check(self) -> "Listing":
        """Return this, once every name and digest has been checked.

        Raises:
            InvalidListing: A name or a digest cannot be one.
            RefusedFormat: A file is of a format that is not opened.
        """
        check_identity(self.model, self.version)
        for name, entry in self.files.items():
            if check_name(name) != name:
                raise InvalidListing(f"{name!r} is not the plain form of a path")
            check_digest(entry.sha256, name)
        return self


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A file to be fetched.

    Args:
        source: An https address, `hf://…`, or a path.
        sha256: Expected digest; None to accept any content.
        size_bytes: Expected size; None if unknown.
        git_blob: SHA-1 of its git blob; None if unknown.
    """

    source: str
    sha256: str | None = None
    size_bytes: int | None = None
    git_blob: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an author asks for: as `Listing`, before anything was fetched."""

    model: str
    version: str
    files: Mapping[str, WantedFile]
    #: SHA-256 of the manifest, where the author knows it.
    manifest: str | None = None


def check_digest(text: str, name: str) -> str:
    """Return a SHA-256 as 64 lower-case digits, `sha256:` taken off.

    Raises:
        InvalidListing: It is none.
    """
    digest = text.lower().removeprefix("sha256:")
    if not _DIGEST.fullmatch(digest):
        raise InvalidListing(f"{name}: {text[:80]!r} is not a SHA-256: give 64 hexadecimal digits")
    return digest


def read_listing(path: Path) -> Wanted:
    """Read an author's listing, TOML or JSON.

    Raises:
        InvalidListing: It cannot be read, or something in it is wrong.
        RefusedFormat: It names a file of a format that is not opened.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidListing(f"{path} cannot be read: {error}") from None
    if not isinstance(table, dict):
        raise InvalidListing(f"{path.name} must be a table with model, version and weights")
    return parse_wanted(table, beside=path.parent)


def parse_wanted(table: Mapping[str, Any], *, beside: Path) -> Wanted:
    """Return what a listing asks for.

    Args:
        table: As the file holds it.
        beside: The folder that relative paths start from.

    Raises:
        InvalidListing, RefusedFormat: As `read_listing`.
    """
    unknown = set(table) - {"model", "version", "base", "manifest", "weights"}
    if unknown:
        raise InvalidListing(
            f"{sorted(unknown)[0]!r} is not known: a listing has model, version, base, manifest "
            "and weights"
        )
    weights = table.get("weights", {})
    if not isinstance(weights, dict) or not (weights or "manifest" in table):
        raise InvalidListing("a listing needs a table 'weights' with a line for each file")
    model, version = check_identity(table.get("model"), table.get("version"))
    base = table.get("base", "")
    if not isinstance(base, str):
        raise InvalidListing("'base' must be a folder or an address")
    files = {check_name(name): _file(name, entry, base, beside) for name, entry in weights.items()}
    pinned = table.get("manifest")
    if pinned is not None:
        pinned = check_digest(str(pinned), "manifest")
    return Wanted(model, version, files, pinned)


def check_identity(model: Any, version: Any) -> tuple[str, str]:
    """Return a model and a version that can name weights.

    Raises:
        InvalidListing: One of them cannot.
    """
    if not isinstance(model, str) or not _MODEL.fullmatch(model):
        raise InvalidListing(f"'model' must be owner/name, and is {model!r}")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise InvalidListing(
            f"'version' must be letters, digits, '-', '_' and '.', and is {version!r}"
        )
    return model, version


def _file(name: str, entry: Any, base: str, beside: Path) -> WantedFile:
    if isinstance(entry, str):
        entry = {"sha256": entry}
    if not isinstance(entry, dict) or set(entry) - {"url", "sha256", "bytes"}:
        raise InvalidListing(f"{name}: give a digest, or a table of url, sha256 and bytes")
    digest, size, url = (entry.get(key) for key in ("sha256", "bytes", "url"))
    if digest is None:
        raise InvalidListing(f"{name}: give its sha256, so that nobody can change it unnoticed")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidListing(f"{name}: 'bytes' must be a count")
    if url is not None and not isinstance(url, str):
        raise InvalidListing(f"{name}: 'url' must be a text")
    source = url or _below(base, name, beside)
    return WantedFile(source, check_digest(str(digest), name), size)


def _below(base: str, name: str, beside: Path) -> str:
    if "://" not in base:
        return str(beside / base / name)
    return f"{base.rstrip('/')}/{name}"
