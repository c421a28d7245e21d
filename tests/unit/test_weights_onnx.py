"""ONNX files that name other files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.weights.formats import check_content
from swell.weights.weight_errors import BrokenWeights, RefusedFormat


def number(value: int) -> bytes:
    """Return a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def field(at: int, body: bytes) -> bytes:
    """Return a field of bytes."""
    return number(at << 3 | 2) + number(len(body)) + body


def tensor(location: str) -> bytes:
    """Return a tensor that lies elsewhere."""
    entries = [("location", location), ("offset", "0"), ("length", "8")]
    stored = b"".join(
        field(13, field(1, key.encode()) + field(2, value.encode())) for key, value in entries
    )
    return field(8, b"w") + number(2 << 3) + number(1) + stored + number(14 << 3) + number(1)


#: Where a tensor may stand in a model.
PLACES = {
    "a weight": lambda body: field(7, field(5, body)),
    "a constant": lambda body: field(7, field(1, field(5, field(5, body)))),
    "a list of constants": lambda body: field(7, field(1, field(5, field(10, body)))),
    "a branch": lambda body: field(7, field(1, field(5, field(6, field(5, body))))),
    "a sparse weight": lambda body: field(7, field(15, field(1, body))),
    "a function": lambda body: field(25, field(7, field(5, field(5, body)))),
    "what a function has unless it is told": lambda body: field(25, field(11, field(5, body))),
    "the training": lambda body: field(20, field(1, field(5, body))),
}

WRONG = (
    "/etc/passwd",
    "../weights",
    "a/../../weights",
    "..",
    "",
    "C:\\weights",
    "a\\..\\b",
    "file:///etc/passwd",
    "a\0b",
    "//host/share",
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", WRONG)
def test_tensors_lie_beside_their_model_wherever_they_are_named(
    file: Path, place: str, location: str
) -> None:
    file.write_bytes(field(2, b"swell") + PLACES[place](tensor(location)))
    with pytest.raises(RefusedFormat, match="not beside it"):
        check_content("model.onnx", file)
    for name in ("model.onnx_data", "parts/0.bin"):
        file.write_bytes(PLACES[place](tensor(name)))
        check_content("model.onnx", file)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 20,
        field(7, b"\x0a\xff"),
        number(7 << 3 | 2) + number(1 << 40),
        number(7 << 3 | 3),
        b"cposix\nsystem\n(S'true'\ntR.",
    ],
)
def test_what_is_no_onnx_is_told_as_that(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(BrokenWeights, match="no ONNX"):
        check_content("model.onnx", file)


def test_a_number_that_others_read_as_another_is_none(file: Path) -> None:
    """Whoever reads 32 bits of it finds a tensor that lies elsewhere."""
    elsewhere = tensor("../weights").replace(number(13 << 3 | 2), number(1 << 32 | 13 << 3 | 2))
    for body in (field(7, field(5, elsewhere)), field(1 << 29 | 7, b""), field(0, b"")):
        file.write_bytes(body)
        with pytest.raises(BrokenWeights, match="no number"):
            check_content("model.onnx", file)


def test_graphs_do_not_lie_within_each_other_for_ever(file: Path) -> None:
    graph = b""
    for _ in range(1000):
        graph = field(1, field(5, field(6, graph)))
    file.write_bytes(field(7, graph))
    with pytest.raises(BrokenWeights, match="too deep"):
        check_content("model.onnx", file)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_told(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(data)
    try:
        check_content("any.onnx", path)
    except (BrokenWeights, RefusedFormat) as error:
        told = error.detail
        assert "any.onnx" in told
