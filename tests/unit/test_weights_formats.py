"""Which files are opened, and headers that lie."""

import contextlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from weights_harness import packed, safetensors

from swell.weights.files import MOST_SETTINGS_BYTES, NoFile, read_settings
from swell.weights.formats import check_content, check_name, read_header
from swell.weights.weight_errors import BrokenWeights, RefusedFormat

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def header_of(folder: Path, content: bytes) -> Any:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return read_header(path)


@pytest.mark.parametrize(
    "name", ["model.bin", "a/model.PT", "x.ckpt", "x.pth", "x.pkl", "pytorch_model.bin", "x.npy"]
)
def test_a_pickle_is_refused_with_how_to_convert_it(name: str) -> None:
    with pytest.raises(RefusedFormat, match="save_file"):
        check_name(name)


def test_a_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(RefusedFormat, match=r"udcff.json' cannot name a file"):
        check_name("unet/\udcff.json")


@pytest.mark.parametrize("name", ["model.py", "run.sh", "model", "lib.so", "model.safetensors.py"])
def test_a_program_or_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(RefusedFormat, match="not a file of weights"):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["../x.json", "/etc/x.json", "a/../../x.json", "", "a\\x.json", "a\0.json", "."]
)
def test_a_name_that_leads_out_of_its_folder_is_refused(name: str) -> None:
    with pytest.raises(RefusedFormat, match="cannot name"):
        check_name(name)


@pytest.mark.parametrize("name", ["unet/model.safetensors", "a.onnx", "a.onnx.data", "config.json"])
def test_weights_and_their_texts_are_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("first", [b"PK\x03\x04rest", b"\x80\x04\x95rest", b"\x1f\x8brest"])
def test_a_pickle_under_another_name_is_refused(tmp_path: Path, first: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(first)
    with pytest.raises(RefusedFormat, match="under another name"):
        check_content("model.onnx", path)


def test_a_header_tells_each_tensor_and_its_place(tmp_path: Path) -> None:
    half, flags = np.zeros((2, 3), np.float16), np.zeros(4, np.bool_)
    header = header_of(tmp_path, safetensors({"w": half, "flags": flags}))
    w, second = header.tensors
    assert (w.name, w.kind, w.shape, w.stop - w.start) == ("w", "F16", (2, 3), 12)
    assert (second.name, second.dtype, second.start) == ("flags", np.bool_, w.stop)
    assert header.metadata == {"made": "by a test"}
    assert second.stop == header.file_bytes


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "ends before"),
        (b"\x01\x00", "ends before"),
        (struct.pack("<Q", 1 << 60) + b"{}", "cut off"),
        (struct.pack("<Q", 200_000_000) + b"{}", "cut off"),
        (packed(b"[]"), "does not begin"),
        (packed(b"{"), "header"),
        (packed(b"{" + b'"a":' * 3 + b"\xff}"), "header"),
        (packed(b'{"a":' + b"[" * 100_000), "header"),
        (packed(b'{"a":1,"a":2}'), "twice"),
        (packed({"a": 1}), "`object`"),
        (packed({"__metadata__": {"a": 1}}), "`str`"),
        (packed({"__metadata__": []}), "`object`"),
        (packed({"a": {**F32, "dtype": "F31"}}, bytes(8)), "not known"),
        (packed({"a": {**F32, "dtype": []}}, bytes(8)), "dtype"),
        (packed({"a": {**F32, "shape": [-2]}}, bytes(8)), "`int` >= 0"),
        (packed({"a": {**F32, "shape": [2.0]}}, bytes(8)), "shape"),
        (packed({"a": {**F32, "shape": [True, 2]}}, bytes(8)), "shape"),
        (packed({"a": {**F32, "shape": [1] * 100 + [2]}}, bytes(8)), "<= 64"),
        (packed({"a": {**F32, "data_offsets": [0, 8, 8]}}, bytes(8)), "length 2"),
        (packed({"a": {**F32, "data_offsets": [8, 0]}}, bytes(8)), "offsets give"),
        (packed({"a": {**F32, "shape": [1 << 61, 8]}}, bytes(8)), "needs"),
        (packed({"a": F32}, bytes(7)), "cut off"),
        (packed({"a": F32}, bytes(9)), "added to"),
        (packed({"a": F32, "b": F32}, bytes(8)), "overlaps"),
        (packed({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), "hole"),
        (packed({"a": {**F32, "shape": [0], "data_offsets": [99, 99]}}), "hole"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    with pytest.raises(BrokenWeights, match=told):
        header_of(tmp_path, content)


numbers = st.one_of(st.integers(-9, 99), st.integers(), st.floats(), st.booleans(), st.none())
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", 3]),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, max_size=3),
    },
)


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=3), entries, max_size=3), st.integers(0, 64))
def test_no_header_gives_a_tensor_outside_its_file(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any], size: int
) -> None:
    content = packed(json.dumps(table, allow_nan=True).encode(), bytes(size))
    try:
        header = header_of(tmp_path_factory.mktemp("header"), content)
    except BrokenWeights:
        return
    for tensor in header.tensors:
        assert header.data_start <= tensor.start <= tensor.stop <= len(content)
        assert int(np.prod(tensor.shape, dtype=object)) * tensor.item_bytes == (
            tensor.stop - tensor.start
        )


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    with contextlib.suppress(BrokenWeights):
        assert header_of(tmp_path_factory.mktemp("bytes"), content).file_bytes == len(content)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "model.safetensors"
    make(path)
    with pytest.raises(BrokenWeights, match=r"model\.safetensors cannot be read: it is a"):
        read_header(path)
    with pytest.raises(BrokenWeights, match=r"vae/model\.safetensors cannot be read: it is a"):
        check_content("vae/model.safetensors", path)
    with pytest.raises(NoFile):
        read_settings(path)


def test_settings_are_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("é" + " " * (MOST_SETTINGS_BYTES - 2), encoding="utf-8")
    assert read_settings(path).startswith("é ")
    with path.open("a") as file:
        file.write(" ")
    with pytest.raises(NoFile, match="settings are shorter"):
        read_settings(path)
