"""The content that a URL had when it was last downloaded, kept in the cache."""

import secrets
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from swell.weights.cache import WeightCache
from swell.weights.disk import disk_errors
from swell.weights.weight_index import Entry, check_digest

#: Most URLs that are remembered; each takes a block of the disk.
_MOST_URLS: Final = 4096


class _Download(msgspec.Struct, frozen=True):
    entry: Entry
    at: datetime


def remember(cache: WeightCache, key: str, entry: Entry, at: datetime) -> None:
    """Write down the content of a URL; if there are too many, remove the oldest half.

    Args:
        cache: The cache that has the content.
        key: SHA-256 of the URL.
        entry: The content.
        at: When it was downloaded.
    """
    path = _path(cache, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with disk_errors(fresh):
        fresh.write_bytes(msgspec.json.encode(_Download(entry, at)))
    fresh.replace(path)
    known = list(path.parent.iterdir())
    if len(known) > _MOST_URLS:
        known.sort(key=_changed_ns)
        for oldest in known[: _MOST_URLS // 2]:
            oldest.unlink(missing_ok=True)


def recall(cache: WeightCache, key: str) -> tuple[Entry, datetime] | None:
    """Return the content of a URL and when it was downloaded; None if unknown or evicted."""
    try:
        found = msgspec.json.decode(_path(cache, key).read_bytes(), type=_Download)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return (found.entry, found.at) if cache.has(found.entry) else None


def _path(cache: WeightCache, key: str) -> Path:
    return cache.folder / "addresses" / check_digest(key, "key")


def _changed_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
