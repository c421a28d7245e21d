"""Portraits by models that were added; that they are diffusers' is in `family_cases.py`.

Needs torch, diffusers and transformers, and the built-in models for the face.
"""

import base64
import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import family_cases as cases  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from swell.core.clock import SystemClock  # noqa: E402
from swell.diffusion.families.model_config import read  # noqa: E402
from swell.diffusion.run_locally import Runs  # noqa: E402
from swell.diffusion.step_engine import Request, StepEngine  # noqa: E402
from swell.models.pictures import sample  # noqa: E402
from swell.sdk.context import Item, Reject  # noqa: E402
from swell.sdk.step_model import StepModel  # noqa: E402
from swell_models.added_portraits import SCENARIOS, FaceFinder  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

WANTED = cases.SCENARIOS


class Made:
    """A model of portraits, and what it was made of."""

    def __init__(self, place: Path, build: Any, kind: str, *options: str) -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            self.weights = build(place / "weights")
            self.adapter = tiny.ip_adapter(place / "adapter", self.weights, kind)
        given = ("--ip-adapter", str(self.adapter), "--portraits", *options)
        self.file = cases.add(self.weights, place / "data", "test/faces", *given)
        self.definition, self.model = cases.loaded(self.file)

    def item(self, *, seed: int = cases.SEED, **asked: Any) -> Any:
        told = {"image": sample(), "scenarios": WANTED, "steps": 4, **asked}
        return Item(self.definition.input_type(**told), seed=seed)

    def pack(self, **asked: Any) -> list[Any]:
        [made] = self.model.run([self.item(**asked)])
        if isinstance(made, Exception):
            raise made
        return [np.asarray(portrait.pil()) for portrait in made]


@pytest.fixture(scope="module")
def xl(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("xl"), tiny.stable_diffusion_xl, "plus")


def apart(one: Any, other: Any) -> int:
    return int(np.abs(one.astype(int) - other).max())


def test_the_face_counts_and_the_room_does_not(xl: Made) -> None:
    picture = xl.item().input.image.pil().convert("RGB")
    face = FaceFinder()(xl.item().input.image)
    plain = xl.pack(scenarios=["forest"])[0]
    only_face = xl.pack(scenarios=["forest"], image=_uri(face))[0]
    mirrored = xl.pack(scenarios=["forest"], image=_uri(picture.transpose(0)))[0]
    none = xl.pack(scenarios=["forest"], reference_scale=0.0)[0]
    assert apart(plain, mirrored) > 3
    assert apart(plain, none) > 3
    # What is found in the square is a square that is nearly the same.
    near, far = (np.abs(plain.astype(int) - each).mean() for each in (only_face, none))
    assert near < far


@pytest.mark.parametrize("quarter", ["ROTATE_90", "ROTATE_180", "ROTATE_270"])
def test_portraits_of_a_picture_on_its_side_are_those_of_the_upright_one(
    xl: Made, quarter: str
) -> None:
    picture = xl.item().input.image.pil().convert("RGB")
    turned = picture.transpose(PIL.Image.Transpose[quarter])
    upright, on_its_side = (
        xl.pack(scenarios=["forest"], image=_uri(each))[0] for each in (picture, turned)
    )
    np.testing.assert_array_equal(on_its_side, upright)


def test_a_picture_beyond_the_limit_of_the_built_in_model_is_refused(xl: Made) -> None:
    with pytest.raises(ValidationError, match="too large: at most 40 million pixels"):
        xl.item(image=_uri(PIL.Image.new("1", (6400, 6400))))


def _uri(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def test_how_far_a_style_goes_is_between_none_and_all_of_it(xl: Made) -> None:
    one = {"scenarios": ["forest"]}
    plain, styled = xl.pack(**one)[0], xl.pack(**one, style="etching")[0]
    none, half, whole = (
        xl.pack(**one, style="etching", strength=part)[0] for part in (0.0, 0.5, 1.0)
    )
    np.testing.assert_array_equal(plain, none)
    assert apart(styled, whole) <= 1
    assert apart(half, plain) > 3
    assert apart(half, styled) > 3


def test_the_size_is_that_of_the_longer_side(xl: Made) -> None:
    [made] = xl.pack(scenarios=["forest"], size=64, aspect="3:4")
    assert made.shape == (64, 48, 3)


def test_each_portrait_says_in_which_scenario_it_is(xl: Made) -> None:
    [made] = xl.model.run([xl.item()])
    assert [portrait.metadata for portrait in made] == [{"scenario": name} for name in WANTED]


def test_packs_share_steps_and_depend_on_nobody_beside_them(xl: Made) -> None:
    items = [xl.item(seed=3), xl.item(seed=9, scenarios=["snow"], steps=3, guidance=1.0)]
    alone = [Runs(xl.model)([item])[0] for item in items]
    together = Runs(xl.model)(items)
    for one, other in zip(alone, together, strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(np.asarray(mine.pil()), np.asarray(theirs.pil()))


def test_a_portrait_goes_on_from_its_checkpoint(xl: Made) -> None:
    whole = xl.pack(seed=5)[1]
    ended: dict[str, Any] = {}
    first = StepEngine(SystemClock(), ended.__setitem__)
    assert isinstance(xl.model, StepModel)
    first.add([Request(id="a", model=xl.model, item=xl.item(seed=5).of_pack(1, 3))])
    while first.samples["a"].step < 2:
        assert first.boundary()
    kept = first.checkpoint("a")
    second = StepEngine(SystemClock(), ended.__setitem__)
    second.add(
        [Request(id="a", model=xl.model, item=xl.item(seed=5).of_pack(1, 3), checkpoint=kept)]
    )
    while second.boundary():
        pass
    np.testing.assert_array_equal(np.asarray(ended["a"]().pil()), whole)


def test_the_face_is_looked_for_and_shown_to_the_adapter_once_for_a_pack(xl: Made) -> None:
    xl.model.pictures.cache.clear()
    # Words that no test had before: those are remembered by the engine.
    xl.pack(scenarios=["a portrait in a boat", "a portrait on a train"], negative_prompt="a cat")
    kinds = [key[0] for key in xl.model.pictures.cache]
    assert sorted(kinds) == ["face", "reference", "reference"]


def test_no_face_fails_the_pack_with_what_to_give_instead(xl: Made) -> None:
    with pytest.raises(Reject, match="No face found"):
        xl.pack(image=_uri(tiny.picture()))


def test_scenarios_of_ones_own_stand_in_the_input_and_change_the_version(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[bar]\ntitle = "A bar"\nprompt = "a bar"\n')
    made = Made(tmp_path, tiny.stable_diffusion, "plus", "--scenarios", str(path))
    assert len(made.pack(scenarios=["bar"])) == 1
    known = made.definition.input_schema["properties"]["scenarios"]
    assert known["items"]["anyOf"][0] == {"const": "bar", "type": "string"}
    before = made.definition.version()
    path.write_text('[bar]\ntitle = "A bar"\nprompt = "a pub"\n')
    assert made.definition.version() != before


def test_the_scenarios_that_ship_are_part_of_the_version(xl: Made) -> None:
    assert SCENARIOS in xl.definition.files
    assert xl.definition.facts.output_schema["type"] == "array"
    assert "portrait" in xl.definition.facts.description


def test_the_image_encoder_beside_the_adapter_is_part_of_the_version(xl: Made) -> None:
    names = read(xl.file).weights
    assert str(xl.adapter) in names
    assert str(xl.adapter.parent / "image_encoder" / "model.safetensors") in names


def test_what_it_warms_up_with_can_be_drawn(xl: Made) -> None:
    [made] = xl.model.run([Item(xl.model.first_input())])
    assert len(made) == 1
