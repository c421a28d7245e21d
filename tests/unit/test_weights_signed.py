"""What a signature over a compiled program says, and what a worker makes of it."""

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("cryptography")

from swell.core.errors import InvalidRequest
from swell.weights import CompiledKey
from swell.weights.chunks import ChunkedFile
from swell.weights.signed import (
    MOST_BYTES,
    MOST_NOTE_BYTES,
    Distrusted,
    Program,
    Wanted,
    believed,
    cpu_key,
    note_key,
    notes_folder,
    parts_of,
    sign,
    why_not,
)
from swell.weights.signing import SigningKey, Trusted, make_key

CPU = "AMD EPYC 0123456789abcdef"
GPU = "NVIDIA H100 80GB HBM3 9.0, " + CPU
WEIGHTS = ("ab" * 32, "cd" * 32)
PROGRAM = Program(
    model="acme/poster",
    version="v1",
    manifest="12" * 32,
    key=CompiledKey(WEIGHTS[:1], "1", {"torch": "2.13.0+cpu"}, "cpu", CPU),
    content=ChunkedFile("ef" * 32, 6000, ("01" * 32, "02" * 32)),
    chunk_bytes=4096,
    signed_at=datetime(2026, 11, 1, tzinfo=UTC),
)
WANTED = Wanted("acme/poster", "v1", "12" * 32, WEIGHTS, CPU, None, "cpu", "2.13.0")


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    return make_key(tmp_path / "key")


def changed(note: bytes, **fields: Any) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(note) | fields)


def test_what_was_signed_is_believed(key: SigningKey) -> None:
    note = sign(PROGRAM, key)
    assert believed(note, Trusted([key.public])) == PROGRAM
    assert parts_of(note) == {"01" * 32, "02" * 32}


def test_every_changed_byte_of_a_note_is_noticed(key: SigningKey) -> None:
    note, trusted = sign(PROGRAM, key), Trusted([key.public])
    for at in range(len(note)):
        other = bytearray(note)
        other[at] ^= 1
        try:
            assert believed(bytes(other), trusted) == PROGRAM, "only what means the same"
        except Distrusted:
            continue


def test_another_key_or_none_is_not_believed(key: SigningKey, tmp_path: Path) -> None:
    other, trusted = make_key(tmp_path / "other"), Trusted([key.public])
    with pytest.raises(Distrusted, match="is not trusted"):
        believed(sign(PROGRAM, other), trusted)
    with pytest.raises(Distrusted, match="does not hold"):
        believed(changed(sign(PROGRAM, other), signed_by=key.id), trusted)
    with pytest.raises(Distrusted, match="does not hold"):
        believed(changed(sign(PROGRAM, key), signature=""), trusted)
    with pytest.raises(Distrusted, match="cannot be read"):
        believed(b"{}", trusted)
    # A signature of the same key over the statement alone means something else.
    statement = msgspec.json.encode(PROGRAM)
    bare = {"statement": statement, "signed_by": key.id, "signature": key.sign(statement)}
    with pytest.raises(Distrusted, match="does not hold"):
        believed(msgspec.json.encode(bare), trusted)


def test_a_statement_is_not_read_before_its_signature_holds(key: SigningKey) -> None:
    note = changed(sign(PROGRAM, key), statement="bm8ganNvbg==")
    with pytest.raises(Distrusted, match="does not hold"):
        believed(note, Trusted([key.public]))


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "../poster"},
        {"version": "../v1"},
        {"manifest": "12" * 31},
        {"manifest": "AB" * 32},
        {"format": 2},
        {"chunk_bytes": 0},
        {"chunk_bytes": 1 << 40},
        {"content": ChunkedFile("../../../etc/passwd", 6000, ("01" * 32, "02" * 32))},
        {"content": ChunkedFile("ef" * 32, 6000, ("01" * 32, "../" * 21 + "x"))},
        {"content": ChunkedFile("ef" * 32, 6000, ("01" * 32,))},
        {"content": ChunkedFile("ef" * 32, 6000, ("01" * 32, "01" * 32))},
        {"content": ChunkedFile("ef" * 32, 0, ())},
        {"content": ChunkedFile("ef" * 32, -1, ())},
        {"content": ChunkedFile("ef" * 32, MOST_BYTES + 1, ("01" * 32,)), "chunk_bytes": 64 << 20},
    ],
)
def test_what_can_be_no_program_is_refused_whoever_has_signed_it(
    key: SigningKey, fields: dict[str, Any]
) -> None:
    note = sign(msgspec.structs.replace(PROGRAM, **fields), key)
    with pytest.raises(Distrusted):
        believed(note, Trusted([key.public]))
    assert parts_of(note) == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"x":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_001,
        b'{"statement":"","signed_by":"\xff","signature":""}',
    ],
    ids=["deep lists", "deep tables", "bad text"],
)
def test_a_note_that_no_decoder_takes_is_none(key: SigningKey, text: bytes) -> None:
    with pytest.raises(Distrusted, match="cannot be read"):
        believed(text, Trusted([key.public]))
    assert parts_of(text) == frozenset()
    # The same where it is said to be signed, of which a backend believes nothing.
    assert parts_of(changed(sign(PROGRAM, key), statement=text)) == frozenset()


def test_a_long_note_is_not_read(key: SigningKey) -> None:
    note = sign(PROGRAM, key) + b" " * MOST_NOTE_BYTES
    with pytest.raises(Distrusted, match="bytes"):
        believed(note, Trusted([key.public]))
    assert parts_of(note) == frozenset()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"model": "acme/other"}, "signed for acme/poster@v1"),
        ({"version": "v2"}, "signed for acme/poster@v1"),
        ({"manifest": "34" * 32}, "other weights of that version"),
        ({"weights": ("cd" * 32,)}, "does not have"),
        ({"weights": ()}, "does not have"),
        ({"processor": "AMD EPYC fedcba9876543210"}, "another kind of processor"),
        ({"device": "cuda:0"}, "for the device cpu"),
        ({"torch": "2.14.0"}, "by torch 2.13.0"),
    ],
)
def test_a_program_of_another_kind_or_version_is_of_no_use(
    fields: dict[str, Any], why: str
) -> None:
    assert why in why_not(PROGRAM, dataclasses.replace(WANTED, **fields))


def test_a_program_of_this_kind_and_version_is_of_use() -> None:
    assert why_not(PROGRAM, WANTED) == ""
    assert why_not(PROGRAM, dataclasses.replace(WANTED, manifest=None, torch=None)) == ""
    nameless = msgspec.structs.replace(PROGRAM.key, weights=())
    assert "does not have" in why_not(msgspec.structs.replace(PROGRAM, key=nameless), WANTED)


def test_a_gpu_is_told_by_its_name() -> None:
    on_gpu = msgspec.structs.replace(PROGRAM.key, processor=GPU, device="cuda:0")
    program = msgspec.structs.replace(PROGRAM, key=on_gpu)
    wanted = dataclasses.replace(WANTED, device="cuda:0")
    assert why_not(program, wanted) == "", "nobody tells"
    for gpus, is_right in ((["NVIDIA H100 80GB HBM3"], True), (["NVIDIA L4"], False)):
        told = why_not(program, dataclasses.replace(wanted, gpus=gpus))
        assert (told == "") == is_right
    assert cpu_key(GPU) == cpu_key(CPU), "a machine finds what is for its GPU beside the rest"


def test_notes_lie_under_names_of_plain_parts(key: SigningKey) -> None:
    assert note_key(PROGRAM) == (
        f"compiled/acme/poster/v1/{cpu_key(CPU)}/{PROGRAM.key.digest}.json"
    )
    for model, version, cpu in (
        ("../x", "v1", cpu_key(CPU)),
        ("acme/poster", "..", cpu_key(CPU)),
        ("acme/poster", "v1", "../" + "a" * 29),
        ("acme/poster", "v1", ""),
    ):
        with pytest.raises(InvalidRequest):
            notes_folder(model, version, cpu)
