"""Inputs that ask for one sample for each element of a list."""

from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

import swell
from swell import ui
from swell.core.clock import SystemClock
from swell.core.errors import InvalidModel
from swell.runtime.local_run import check_input, load_model, run_together
from swell.sdk.define import define
from swell.sdk.multi_sample_inputs import inputs_of, pack_fields, packs_in, size_of

Few = Field(min_length=1, max_length=4)


class Asked(BaseModel):
    styles: Annotated[list[str], Few, ui.pack()] = ["oil"]
    plain: list[str] = ["x", "y"]
    sizes: Annotated[list[int], Few, ui.pack()] = [1, 2]


def test_packs_are_combined_row_by_row_and_other_lists_stay_whole() -> None:
    names = pack_fields(Asked)
    assert names == ("styles", "sizes")
    inputs = inputs_of(Asked(styles=["oil", "ink"]), names)
    assert [each.model_dump() for each in inputs] == [
        {"styles": [style], "plain": ["x", "y"], "sizes": [size]}
        for style in ("oil", "ink")
        for size in (1, 2)
    ]


def test_the_hint_is_in_the_schema() -> None:
    told = Asked.model_json_schema()["properties"]
    assert told["styles"]["x-ui"] == {"pack": True}
    assert "x-ui" not in told["plain"]


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({}, 1 * 2 * 3),
        ({"styles": ["oil", "ink"], "sizes": [1]}, 2 * 1 * 3),
        ({"styles": ["oil"] * 4, "sizes": [1, 2], "scenes": ["sea"]}, 8),
        ({"plain": ["x"] * 9, "sizes": [3], "scenes": ["sea", "sky"]}, 2),
    ],
)
def test_samples_are_counted_by_the_schema_alone(asked: dict[str, Any], size: int) -> None:
    class Whole(Asked):
        scenes: Annotated[list[str], Few, ui.pack(whole=True)] = ["sea", "sky", "wood"]

    # What the model takes whole is not taken apart.
    assert pack_fields(Whole) == ("styles", "sizes")
    packs = packs_in(Whole.model_json_schema())
    assert packs == {"styles": 1, "sizes": 2, "scenes": 3}
    assert size_of(packs, asked) == size


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[str, ui.pack()],
        Annotated[list[str], ui.pack()],
        Annotated[list[str], Field(min_length=1), ui.pack()],
        Annotated[list[str], Field(max_length=3), ui.pack()],
    ],
)
def test_a_pack_that_has_no_bounds_or_is_no_list_is_refused(kind: Any) -> None:
    def wrong(words):  # type: ignore[no-untyped-def]
        return words

    wrong.__annotations__ = {"words": kind, "return": str}
    with pytest.raises(InvalidModel, match=r"'words' has ui\.pack\(\)"):
        swell.model("demo/wrong")(wrong)


@swell.model("demo/scenes")
def scenes(
    names: Annotated[list[str], Few, ui.pack()],
    moods: Annotated[list[str], Few, ui.pack()] = ["calm"],  # noqa: B006 - never changed
    seed: int | None = None,
) -> str:
    """Tell a scene."""
    assert len(names) == len(moods) == 1
    return f"{names[0]} {moods[0]} {seed}"


def test_a_model_that_runs_here_makes_its_pack_too() -> None:
    definition = define(scenes)
    clock = SystemClock()
    loaded = load_model(definition, "cpu", clock)
    checked = check_input(definition, {"names": ["a", "b"], "moods": ["calm", "wild"]})
    first, second = run_together(loaded, checked, [7, 8], clock)
    assert first.output == ["a calm 7", "a wild 8", "b calm 9", "b wild 10"]
    assert second.output == ["a calm 11", "a wild 12", "b calm 13", "b wild 14"]
    assert (first.seed, second.seed) == (7, 11)
