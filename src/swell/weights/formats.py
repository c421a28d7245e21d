"""Checks names and formats of weight files, and parses safetensors headers.

Allowed are safetensors, ONNX, and small texts such as configurations and vocabularies. All other
formats are refused, above all pickled tensors: reading a pickle runs the program in it.

A safetensors file is a length (8 bytes, little endian), a JSON object of that length, and the
tensors' bytes, row by row, little endian. The object gives each tensor's type, shape, and begin and
end counted from the first byte after it. Every number is checked before it is used.

Source:
    https://huggingface.co/docs/safetensors: the format, its limit of 100 MB for a header, and that
    the tensors cover the data without holes.
"""

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from swell.weights.files import NoFile, open_file
from swell.weights.onnx import check_locations
from swell.weights.weight_errors import BrokenWeights, RefusedFormat

if TYPE_CHECKING:
    import numpy as np

#: Source: the limit of the format's own library.
MAX_HEADER_BYTES: Final = 100_000_000

#: numpy has at most 64 axes, and no network comes near.
MAX_AXES: Final = 64

#: Suffixes of weights. ONNX keeps tensors above 2 GB in separate files.
WEIGHT_SUFFIXES: Final = (".safetensors", ".onnx", ".onnx_data", ".onnx.data")

#: Suffixes of other files; `.model` is a sentencepiece vocabulary.
TEXT_SUFFIXES: Final = (".json", ".txt", ".md", ".toml", ".yaml", ".yml", ".model", ".jinja")

#: Names under which pickles travel, and programs.
PICKLE_SUFFIXES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy")

#: What a zip archive (torch's own format), a pickle of protocol 2 to 5, and gzip begin with.
_FOREIGN: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b")

#: Bytes and numpy's type per name. numpy lacks bfloat16 and float8: their bits come as integers.
_TYPES: Final[Mapping[str, tuple[int, str]]] = {
    "BOOL": (1, "?"),
    "U8": (1, "u1"),
    "I8": (1, "i1"),
    "F8_E4M3": (1, "u1"),
    "F8_E4M3FNUZ": (1, "u1"),
    "F8_E5M2": (1, "u1"),
    "F8_E5M2FNUZ": (1, "u1"),
    "F8_E8M0": (1, "u1"),
    "U16": (2, "<u2"),
    "I16": (2, "<i2"),
    "F16": (2, "<f2"),
    "BF16": (2, "<u2"),
    "U32": (4, "<u4"),
    "I32": (4, "<i4"),
    "F32": (4, "<f4"),
    "U64": (8, "<u8"),
    "I64": (8, "<i8"),
    "F64": (8, "<f8"),
    "C64": (8, "<c8"),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """The location of a tensor in its file.

    Args:
        kind: Its type as safetensors names it, such as `F16` or `BF16`.
        start: First byte, counted from the beginning of the file.
        stop: The byte after its last.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def dtype(self) -> "np.dtype[Any]":
        """The type in numpy; unsigned of the same size where it has none (bfloat16, float8)."""
        # Callers that only check names do not need numpy.
        import numpy as np  # noqa: PLC0415

        return np.dtype(_TYPES[self.kind][1])

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _TYPES[self.kind][0]


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a safetensors file.

    Args:
        tensors: In the order of their bytes.
        metadata: What its writer noted.
        data_start: First byte of the first tensor.
        file_bytes: Size of the whole file.
    """

    tensors: tuple[Tensor, ...]
    metadata: Mapping[str, str]
    data_start: int
    file_bytes: int


# --- names and first bytes -----------------------------------------------------------------------


def is_allowed(name: str) -> bool:
    """Return whether a file of this name may lie among weights."""
    return name.lower().endswith(WEIGHT_SUFFIXES + TEXT_SUFFIXES)


def check_name(name: str) -> str:
    """Return `name`, a relative path with `/`, if it stays below its folder and may be opened.

    Raises:
        RefusedFormat: It leads out of its folder, or is of a format that is not opened.
    """
    path = PurePosixPath(name)
    parts = path.parts
    is_text = name.encode(errors="replace").decode() == name
    is_odd = not is_text or "\\" in name or "\0" in name
    if not parts or path.is_absolute() or ".." in parts or is_odd:
        raise RefusedFormat(f"{name!r} cannot name a file of a model: use a relative path with '/'")
    if is_allowed(name):
        return str(path)
    if name.lower().endswith(PICKLE_SUFFIXES):
        raise RefusedFormat(
            f"{name} may be a pickle, and reading a pickle runs the program it holds. Convert it "
            "on a machine that you can lose: safetensors.torch.save_file(torch.load(path, "
            "weights_only=True), 'model.safetensors'), or take the author's safetensors"
        )
    raise RefusedFormat(
        f"{name} is not a file of weights: give .safetensors or .onnx, and texts such as .json"
    )


def check_content(name: str, path: Path) -> None:
    """Check that a file is what its name says, as far as its first bytes and its header tell.

    Raises:
        RefusedFormat: It is an archive or a pickle, or ONNX that names files elsewhere.
        BrokenWeights: It is no file, the header of a safetensors file is wrong, or it is no ONNX.
    """
    with _opened(path, name) as file:
        first = file.read(4)
        if first.startswith(_FOREIGN):
            raise RefusedFormat(
                f"{name} is an archive or a pickle under another name: take weights in safetensors"
            )
        if name.lower().endswith(".safetensors"):
            file.seek(0)
            parse_header(file, name)
        elif name.lower().endswith(".onnx"):
            check_locations(file, name)


def _opened(path: Path, name: str) -> BufferedReader:
    try:
        return open_file(path)
    except NoFile as error:
        raise BrokenWeights(f"{name} cannot be read: {error}") from None


# --- the header ----------------------------------------------------------------------------------


def read_header(path: Path) -> Header:
    """Return what the safetensors file at `path` holds; its tensors are not read.

    A name without a suffix is one of the cache, which has checked the format.

    Raises:
        RefusedFormat: It is called something else than `.safetensors`.
        BrokenWeights: It is not a safetensors file, or not whole.
    """
    if path.suffix.lower() != ".safetensors" and path.suffix:
        check_name(path.name)
        raise RefusedFormat(f"{path.name} is not a .safetensors file")
    with _opened(path, path.name) as file:
        return parse_header(file, path.name)


def parse_header(file: Any, name: str, file_bytes: int | None = None) -> Header:
    """Return what an open safetensors file holds. The file's position is left behind the header.

    Args:
        file: Open for reading, at its beginning.
        name: For errors.
        file_bytes: Its size; None to ask the operating system.

    Raises:
        BrokenWeights: It is not a safetensors file, or not whole.
    """
    if file_bytes is None:
        file_bytes = os.fstat(file.fileno()).st_size
    head = file.read(8)
    if len(head) < 8:
        raise BrokenWeights(f"{name} ends before its header: fetch it again")
    if head == b"version ":
        raise BrokenWeights(
            f"{name} is only a pointer of Git LFS: run `git lfs pull` where it was cloned, or pull "
            "hf:owner/name"
        )
    (size,) = struct.unpack("<Q", head)
    if size > min(MAX_HEADER_BYTES, file_bytes - 8):
        raise BrokenWeights(
            f"{name} is no safetensors file, or was cut off: its header would have {size} bytes, "
            f"the file has {file_bytes}"
        )
    text = file.read(size)
    start = 8 + size
    try:
        if not text.startswith(b"{"):
            raise ValueError("it does not begin with '{'")
        table = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
        metadata = msgspec.convert(table.pop("__metadata__", {}), dict[str, str])
        tensors = [_tensor(key, entry, start) for key, entry in table.items()]
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise BrokenWeights(f"{name} is no safetensors file: its header: {error}") from None
    tensors.sort(key=lambda tensor: (tensor.start, tensor.stop))
    _check_cover(tensors, start, file_bytes, name)
    return Header(tuple(tensors), metadata, start, file_bytes)


_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: Annotated[list[_Count], msgspec.Meta(max_length=MAX_AXES)]
    data_offsets: tuple[_Count, _Count]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _tensor(key: str, raw: Any, data_start: int) -> Tensor:
    try:
        entry = msgspec.convert(raw, _Entry)
        if entry.dtype not in _TYPES:
            raise ValueError(f"type {entry.dtype[:20]!r} is not known")
        begin, end = entry.data_offsets
        wanted = math.prod(entry.shape) * _TYPES[entry.dtype][0]
        if end - begin != wanted:
            raise ValueError(f"its shape needs {wanted} bytes, its offsets give {end - begin}")
    except (ValueError, msgspec.MsgspecError) as error:
        raise ValueError(f"tensor {key[:100]!r}: {error}") from None
    return Tensor(key, entry.dtype, tuple(entry.shape), data_start + begin, data_start + end)


def _check_cover(tensors: list[Tensor], start: int, file_bytes: int, name: str) -> None:
    """Each byte of the data belongs to one tensor: nothing overlaps, nothing hides between."""
    at = start
    for tensor in tensors:
        if tensor.start != at:
            what = "overlaps the one before" if tensor.start < at else "leaves a hole before it"
            raise BrokenWeights(f"{name}: tensor {tensor.name[:100]!r} {what}")
        at = tensor.stop
    if at != file_bytes:
        raise BrokenWeights(
            f"{name} should have {at} bytes and has {file_bytes}: it was cut off or added to; "
            "fetch it again"
        )
