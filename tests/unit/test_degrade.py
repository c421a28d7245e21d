"""Cheaper inputs."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.quality_fallback import (
    Change,
    drawn,
    is_drawing,
    reduce_input,
    split_metadata,
    time_share,
    with_changes,
)

SCHEMA = {
    "properties": {
        "steps": {"minimum": 4, "default": 30},
        "width": {"multipleOf": 32, "default": 512},
        "height": {"multipleOf": 32, "default": 512},
    }
}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "steps": st.integers(4, 200),
            "width": st.integers(1, 64).map(lambda n: 32 * n),
            "height": st.integers(1, 64).map(lambda n: 32 * n),
            "prompt": st.text(max_size=5),
        },
    ),
    st.floats(0.01, 1.0),
    st.none() | st.integers(1, 300),
    st.none() | st.integers(1, 2048),
)
def test_what_is_changed_is_less_within_bounds_and_enough_where_it_can_be(
    value: dict[str, Any], share: float, steps: int | None, size_px: int | None
) -> None:
    changed, changes, left = reduce_input(value, SCHEMA, share=share, steps=steps, size_px=size_px)
    assert 0 < left <= 1
    assert changed == value | {each.field.removeprefix("/input/"): each.after for each in changes}
    for each in changes:
        assert each.after < each.before
        name = each.field.removeprefix("/input/")
        least = max(steps or 0, 4) if name == "steps" else size_px or 0
        assert each.after >= least
        assert name == "steps" or each.after % 32 == 0
    if not changes:
        assert (changed, left) == (value, 1.0)


def test_a_share_of_one_changes_nothing() -> None:
    assert reduce_input({}, SCHEMA, share=1.0, steps=1, size_px=1) == ({}, [], 1.0)


def test_sizes_of_a_list_are_chosen_from_it() -> None:
    sizes = {"enum": [256, 512, 768, 1024], "default": 1024}
    schema = {"properties": {"width": sizes, "height": sizes}}
    changed, _, left = reduce_input({}, schema, share=0.3, steps=1, size_px=256)
    assert changed == {"width": 512, "height": 512}
    assert left == 0.25
    changed, _, left = reduce_input({}, schema, share=0.01, steps=1, size_px=600)
    assert changed == {"width": 768, "height": 768}


def test_what_a_model_does_not_know_is_left_alone() -> None:
    schema = {"properties": {"text": {}, "width": {"default": 512}}}
    assert reduce_input({"text": "a"}, schema, share=0.1, steps=1, size_px=1)[1] == []
    odd = {"properties": {"steps": {"default": True}, "width": {}, "height": {}}}
    assert reduce_input({"width": "wide"}, odd, share=0.1, steps=1, size_px=1)[1] == []


def test_some_time_is_taken_anyway() -> None:
    assert time_share(1.0) == 1.0
    assert time_share(0.5) == pytest.approx(0.55)


@pytest.mark.slow
@given(
    st.none() | st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5),
    st.lists(st.builds(Change, st.text(), st.integers(), st.text()), max_size=3),
)
def test_metadata_and_changes_are_taken_apart_as_they_were(
    value: object, changes: list[Change]
) -> None:
    raw = None if value is None else msgspec.Raw(msgspec.json.encode(value))
    together = with_changes(raw, changes)
    if together is None:
        assert (raw, changes) == (None, [])
        return
    metadata, found = split_metadata(together)
    assert found == changes
    assert (None if metadata is None else bytes(metadata)) == (None if raw is None else bytes(raw))


@pytest.mark.parametrize(
    ("asked", "steps_times_area"),
    [
        ({}, 30 * 512 * 512),
        ({"steps": 60}, 60 * 512 * 512),
        ({"steps": 15, "width": 256}, 15 * 256 * 512),
        ({"steps": "many", "height": -1}, 512),
        ({"steps": True}, 512 * 512),
    ],
)
def test_what_is_drawn_is_steps_times_area(asked: dict[str, Any], steps_times_area: int) -> None:
    assert drawn(asked, SCHEMA) == steps_times_area


def test_what_a_schema_does_not_have_counts_as_one() -> None:
    loops = {"properties": {"num_inference_steps": {"default": 8}, "width": {"default": 512}}}
    assert is_drawing(loops)
    assert drawn({}, loops) == 8
    assert drawn({"steps": 99, "num_inference_steps": 4, "height": 9}, loops) == 4
    assert not is_drawing({"properties": {"width": {}, "text": {}}})
    assert not is_drawing({})
