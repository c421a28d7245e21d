"""Which parts of a model live on the device, by their sizes; nothing here needs torch."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.families.placement import CHOICES, group_of, part_bytes, place, working_bytes

GIB = 2**30

#: As of Stable Diffusion 3.5 large in 16 bits.
SIZES = {
    "transformer": 16 * GIB,
    "text_encoder": GIB // 4,
    "text_encoder_2": 5 * GIB // 4,
    "text_encoder_3": 9 * GIB,
    "vae": GIB // 4,
}
WORDS = SIZES["text_encoder"] + SIZES["text_encoder_2"] + SIZES["text_encoder_3"]
ALL = sum(SIZES.values())
STAGES = frozenset(SIZES) - {"transformer"}


def choice(room_bytes: int | None, asked: str = "auto", working_bytes: int = 0) -> str:
    return place(
        asked, SIZES, "transformer", room_bytes=room_bytes, working_bytes=working_bytes
    ).choice


@pytest.mark.parametrize(
    ("room_bytes", "expected"),
    [
        (ALL, "never"),
        (ALL - 1, "always"),
        (SIZES["transformer"] + WORDS, "always"),
        (SIZES["transformer"] + WORDS - 1, "turns"),
        (SIZES["transformer"], "turns"),
        (SIZES["transformer"] - 1, "blocks"),
        (0, "blocks"),
    ],
)
def test_the_first_way_that_fits_is_taken(room_bytes: int, expected: str) -> None:
    assert choice(room_bytes) == expected
    assert choice(room_bytes + GIB, working_bytes=GIB) == expected


def test_where_the_device_is_the_host_everything_stays_unless_asked_otherwise() -> None:
    assert choice(None) == "never"
    for asked in CHOICES[1:]:
        assert choice(None, asked) == asked


def test_what_was_asked_for_is_taken_whatever_fits() -> None:
    for asked in CHOICES[1:]:
        assert choice(0, asked) == choice(ALL, asked) == asked


def test_what_draws_leaves_only_for_what_does_not_fit_beside_it() -> None:
    found = place("auto", SIZES, "transformer", room_bytes=20 * GIB)
    assert found.at_home == frozenset(SIZES)
    assert found.apart == {"words"}
    assert place("auto", SIZES, "transformer", room_bytes=16 * GIB).apart == {"words", "vae"}


@pytest.mark.parametrize("asked", ["always", "blocks"])
def test_all_but_what_draws_is_at_home(asked: str) -> None:
    found = place(asked, SIZES | {"controlnet": 2}, "transformer", room_bytes=None)
    assert (found.at_home, found.apart) == (STAGES, frozenset())
    assert found.by_blocks == (asked == "blocks")


def test_weights_that_cannot_leave_stay() -> None:
    found = place("auto", SIZES, "transformer", room_bytes=0, is_fixed=True)
    assert found.choice == "always"


def test_the_reason_tells_sizes() -> None:
    found = place("auto", SIZES, "transformer", room_bytes=24 * GIB, working_bytes=4 * GIB)
    assert found.reason == ("26.8 GiB of weights and 4.0 GiB to work with, on a device of 24.0 GiB")


@given(
    st.dictionaries(
        st.sampled_from(["unet", "controlnet", "text_encoder", "text_encoder_2", "vae", "eye"]),
        st.integers(1, 100),
    ),
    st.integers(0, 400),
    st.integers(0, 50),
)
def test_more_room_never_offloads_more(sizes: dict[str, int], room: int, working: int) -> None:
    chosen = [
        place("auto", sizes, "unet", room_bytes=each, working_bytes=working).choice
        for each in (room, room + 1)
    ]
    less, more = (CHOICES.index(each) for each in chosen)
    assert less >= more


def test_control_nets_belong_to_what_draws_and_text_encoders_to_each_other() -> None:
    names = ("unet", "controlnet", "text_encoder", "text_encoder_3", "vae", "image_encoder")
    groups = [group_of(name, "unet") for name in names]
    assert groups == ["what draws", "what draws", "words", "words", "vae", "image_encoder"]


def test_larger_pictures_need_more_to_work_with() -> None:
    assert working_bytes(512) < working_bytes(1024) == 4 * GIB


def test_sizes_are_told_by_headers_in_the_type_that_is_computed_in(tmp_path: Path) -> None:
    header = {
        "half": {"dtype": "F16", "shape": [3, 5], "data_offsets": [0, 30]},
        "whole": {"dtype": "F32", "shape": [7], "data_offsets": [30, 58]},
        "number": {"dtype": "I64", "shape": [2], "data_offsets": [58, 74]},
        "brain": {"dtype": "BF16", "shape": [1], "data_offsets": [74, 76]},
    }
    told = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(told)) + told + bytes(76))
    assert part_bytes([path], 2) == 2 * (15 + 7 + 1) + 16
    assert part_bytes([path, path], 4) == 2 * (4 * (15 + 7 + 1) + 16)
