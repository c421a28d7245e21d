"""Checks the external data files that an ONNX file names, without running it.

Tensors above 2 GB are in other files that the model names. Opening the model opens them, so a name
outside its folder could read any file of the machine.

An ONNX file is a protobuf message. Only fields that lead to such names are parsed; the others are
skipped.

Source:
    https://github.com/onnx/onnx/blob/main/onnx/onnx.proto: the numbers of fields; and
    docs/ExternalData.md: `location` is relative to the model. https://protobuf.dev: its encoding.
"""

import mmap
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import PurePosixPath
from typing import Final

from swell.weights.weight_errors import BrokenWeights, RefusedFormat

#: Message → number of a field → the message it holds, where that leads to tensors.
_INNER: Final[Mapping[str, Mapping[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}

#: Most fields that are parsed; a network of a hundred thousand layers has fewer.
_MOST_FIELDS: Final = 20_000_000
#: Graphs within graphs.
_MOST_DEPTH: Final = 64

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def check_locations(file: BufferedReader, name: str) -> None:
    """Check that an ONNX file only names files in its own folder.

    Args:
        file: The file, open.
        name: For errors.

    Raises:
        RefusedFormat: It names another.
        BrokenWeights: It is no ONNX file.
    """
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for location in _Walk(data).locations():
                _check(location, name)
    except ValueError as error:
        raise BrokenWeights(f"{name} is no ONNX file, or was cut off: {error}") from None


def _check(location: bytes, name: str) -> None:
    text = location.decode("utf-8", "replace")
    path = PurePosixPath(text)
    if not text.isprintable() or "\\" in text or ":" in text or path.is_absolute():
        is_beside = False
    else:
        is_beside = bool(path.parts) and ".." not in path.parts
    if not is_beside:
        raise RefusedFormat(
            f"{name} keeps tensors in {text[:100]!r}, which is not beside it: save it anew with "
            "its tensors in its own folder"
        )


class _Walk:
    def __init__(self, data: "mmap.mmap | bytes") -> None:
        self._data = data
        self._left = _MOST_FIELDS

    def locations(self) -> Iterator[bytes]:
        """Yield what tensors give as their `location`.

        Raises:
            ValueError: It is not the message that it should be.
        """
        waiting = [("model", 0, len(self._data), 0)]
        while waiting:
            kind, start, end, depth = waiting.pop()
            if depth > _MOST_DEPTH:
                raise ValueError("its graphs lie too deep within each other")
            if kind == "entry":
                yield from self._location(start, end)
                continue
            inner = _INNER[kind]
            for number, at, stop in self._fields(start, end):
                if number in inner:
                    waiting.append((inner[number], at, stop, depth + 1))

    def _location(self, start: int, end: int) -> Iterator[bytes]:
        fields = {
            number: bytes(self._data[at:stop]) for number, at, stop in self._fields(start, end)
        }
        if fields.get(1) == b"location":
            yield fields.get(2, b"")

    def _fields(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield number, start and end of each field that holds bytes."""
        at = start
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ValueError("it has too many fields")
            key, at = self._varint(at, end)
            if key >> 32 or not key >> 3:
                # Others read 32 bits of it, and would find another field.
                raise ValueError("a field has no number")
            wire = key & 7
            if wire == _VARINT:
                _, at = self._varint(at, end)
                continue
            if wire == _BYTES:
                size, at = self._varint(at, end)
            elif wire in (_FIXED64, _FIXED32):
                size = 8 if wire == _FIXED64 else 4
            else:
                raise ValueError(f"there is no field of kind {wire}")
            if size > end - at:
                raise ValueError("a field ends behind its message")
            if wire == _BYTES:
                yield key >> 3, at, at + size
            at += size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 64:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise ValueError("a number does not end")
