"""Input files, fetched by the worker before the model needs them.

Which properties are files the schema says (`x-file`). Data URIs are left to the model process.
LoRAs do not go through memory: `loras.py` brings them.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from swell.core.errors import InvalidInput, TooLarge
from swell.net.url_policy import bare_url
from swell.protocol.worker_messages import Dispatch

#: What `x-file` says of a LoRA.
_LORA: Final = "lora"

#: Files of one task, how many of them come at once, and how many of the largest size they may
#: be together: they lie in memory until the task has run. While they come, each of those on their
#: way may be of the largest size beside them.
MOST_FILES: Final = 100
FETCHES: Final = 8
MOST_TOGETHER: Final = 4


class FileFields(msgspec.Struct, frozen=True):
    """Names of the input properties that are files, or lists of files."""

    names: tuple[str, ...]
    #: Of those that are LoRAs.
    loras: tuple[str, ...] = ()

    def urls(self, raw: msgspec.Raw) -> list[str]:
        """Return the URLs that an input names, each once."""
        return self._found(raw, self.names)

    def lora_files(self, raw: msgspec.Raw) -> list[str]:
        """Return what an input names as files of LoRAs, each once: URLs, digests, names."""
        return self._found(raw, self.loras)

    def _found(self, raw: msgspec.Raw, names: tuple[str, ...]) -> list[str]:
        if not names:
            return []
        try:
            fields = msgspec.json.decode(raw, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return []
        found = [url for name in names for url in _strings(fields.get(name))]
        return list(dict.fromkeys(url for url in found if not url.startswith("data:")))


def file_fields(schema: Mapping[str, Any]) -> FileFields:
    """Return which properties of an input schema are files."""
    kinds = {name: _kinds(prop) for name, prop in schema.get("properties", {}).items()}
    return FileFields(
        tuple(name for name, found in kinds.items() if found - {_LORA}),
        tuple(name for name, found in kinds.items() if _LORA in found),
    )


def _kinds(prop: Any) -> set[str]:
    """Return the kinds of files that a property may be."""
    if not isinstance(prop, Mapping):
        return set()
    found = {str(prop["x-file"])} if "x-file" in prop else set()
    found |= _kinds(prop.get("items"))
    for key in ("anyOf", "allOf", "oneOf"):
        for part in prop.get(key, ()):
            found |= _kinds(part)
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, dict):
        yield from _strings(value.get("file"))


async def fetch_files(
    dispatch: Dispatch, urls: list[str], limit_bytes: int, own_files: Mapping[str, str]
) -> dict[str, tuple[bytes, str]]:
    """Return bytes and media type by URL.

    `own_files` tells where to read those that are the backend's own (`LeasedTask.own_files`).

    Raises:
        InvalidInput: There are more than `MOST_FILES`.
        TooLarge: One is larger than `limit_bytes`, or all together than `MOST_TOGETHER` such.
        SwellError: One cannot be fetched. The others are given up at once.
    """
    if len(urls) > MOST_FILES:
        raise InvalidInput(f"the input names {len(urls)} files: give at most {MOST_FILES}")
    slots, total = asyncio.Semaphore(FETCHES), 0

    async def one(url: str) -> tuple[bytes, str]:
        nonlocal total
        async with slots:
            data, content_type = await dispatch.fetch(own_files.get(url, url))
            # Without the query, which may hold a signature.
            _check_size(len(data), limit_bytes, f"the input file {bare_url(url)} has more")
            total += len(data)
            _check_size(total, limit_bytes * MOST_TOGETHER, "the input files have together more")
        return data, content_type

    try:
        async with asyncio.TaskGroup() as group:
            fetching = [group.create_task(one(url)) for url in urls]
    except ExceptionGroup as errors:
        # The first is why the others ended.
        raise errors.exceptions[0] from None
    return {url: each.result() for url, each in zip(urls, fetching, strict=True)}


def _check_size(size_bytes: int, limit_bytes: int, told: str) -> None:
    if size_bytes > limit_bytes:
        raise TooLarge(f"{told} than the {limit_bytes:,} bytes that are taken")
