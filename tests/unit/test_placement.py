"""Which parts of a model live on the device, by their sizes; nothing here needs torch."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.diffusion.families.offload_plan import (
    CHOICES,
    DRAWS,
    group_of,
    part_bytes,
    place,
    working,
)

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


def choice(room_bytes: int | None, asked: str = "auto", **needed: int) -> str:
    needed_bytes = {DRAWS if name == "step" else name: size for name, size in needed.items()}
    return place(
        asked, SIZES, "transformer", room_bytes=room_bytes, needed_bytes=needed_bytes
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
    assert choice(room_bytes + GIB, step=GIB, words=GIB, vae=GIB) == expected


def test_what_a_stage_needs_counts_only_while_it_is_there() -> None:
    assert choice(ALL + GIB, step=GIB, vae=GIB) == "never"
    # A step's arrays are gone when words are read, and the words' states are small.
    assert choice(SIZES["transformer"] + WORDS, step=9 * GIB) == "always"
    assert choice(17 * GIB, step=GIB, vae=16 * GIB) == "turns"


def test_a_card_of_8_gib_draws_sdxl_by_turns() -> None:
    """What draws leaves for decoding in float32, which would not fit beside it."""
    sizes = {
        "unet": 5_135_000_000,
        "text_encoder": 246_000_000,
        "text_encoder_2": 1_390_000_000,
        "vae": 334_000_000,
    }
    needed = working(1024, {"block_out_channels": [128, 256, 512, 512]}, 4, 0.16)
    assert needed["vae"] == 4 * GIB
    for total, expected in ((8 * GIB, "turns"), (12 * GIB, "never"), (6 * GIB, "blocks")):
        free = total - GIB // 2  # the driver's context takes the rest
        found = place("auto", sizes, "unet", room_bytes=free, needed_bytes=needed)
        assert found.choice == expected
        assert found.apart == ({"vae"} if expected == "turns" else set())


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
    large = place("auto", SIZES, "transformer", room_bytes=20 * GIB, needed_bytes={"vae": 4 * GIB})
    assert large.apart == {"words", "vae"}


@pytest.mark.parametrize("asked", ["always", "blocks"])
def test_all_but_what_draws_is_at_home(asked: str) -> None:
    found = place(asked, SIZES | {"controlnet": 2}, "transformer", room_bytes=None)
    assert (found.at_home, found.apart) == (STAGES, frozenset())
    assert found.by_blocks == (asked == "blocks")


def test_weights_that_cannot_leave_stay() -> None:
    found = place("auto", SIZES, "transformer", room_bytes=0, is_fixed=True)
    assert found.choice == "always"


def test_the_reason_tells_sizes() -> None:
    needed = {DRAWS: 2 * GIB, "vae": GIB}
    found = place("auto", SIZES, "transformer", room_bytes=24 * GIB, needed_bytes=needed)
    assert found.reason == (
        "26.8 GiB of weights for 24.0 GiB on the device; estimated for a step: 2.0 GiB, "
        "for decoding: 1.0 GiB"
    )


@given(
    st.dictionaries(
        st.sampled_from(["unet", "controlnet", "text_encoder", "text_encoder_2", "vae", "eye"]),
        st.integers(1, 100),
    ),
    st.integers(0, 400),
    st.dictionaries(st.sampled_from([DRAWS, "words", "vae", "eye"]), st.integers(0, 100)),
)
def test_more_room_never_offloads_more(
    sizes: dict[str, int], room: int, needed: dict[str, int]
) -> None:
    chosen = [
        place("auto", sizes, "unet", room_bytes=each, needed_bytes=needed).choice
        for each in (room, room + 1)
    ]
    less, more = (CHOICES.index(each) for each in chosen)
    assert less >= more


def test_control_nets_belong_to_what_draws_and_text_encoders_to_each_other() -> None:
    names = ("unet", "controlnet", "text_encoder", "text_encoder_3", "vae", "image_encoder")
    groups = [group_of(name, "unet") for name in names]
    assert groups == ["what draws", "what draws", "words", "words", "vae", "image_encoder"]


def test_larger_pictures_need_more_to_work_with() -> None:
    small, large = (working(side, {}, 2, 0.46) for side in (512, 1024))
    assert small[DRAWS] < large[DRAWS]
    # Four rows are planned for, unless a model's own steps have more.
    assert large[DRAWS] == pytest.approx((0.25 + 4 * 0.46) * GIB)
    assert working(1024, {}, 2, 0.46, 8)[DRAWS] == pytest.approx((0.25 + 8 * 0.46) * GIB)
    assert 4 * small["vae"] == large["vae"] == 2 * GIB
    assert small["words"] == large["words"]


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
