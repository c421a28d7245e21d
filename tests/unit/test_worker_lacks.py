import math
from pathlib import Path
from typing import Annotated, Any, Literal

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import swell
from swell import ui
from swell.runtime.example_inputs import NOTHING_ELSE, made_example, made_file, other_value
from swell.runtime.model_check_probe import Opened
from swell.runtime.model_lint import Times, hints_of_card, hints_of_files, hints_of_times
from swell.sdk.define import define
from swell.sdk.missing_packages import distribution_of, how_to_get


def codes(source: Any) -> list[str]:
    return [hint.code for hint in hints_of_card(define(source).card())]


def test_a_bare_function_lacks_all_that_can_be_seen() -> None:
    @swell.model("me/bare")
    def bare(prompt: str, steps: int = 20, strength: Annotated[float, Field(le=1)] = 0.5) -> str:
        return prompt * steps

    hints = hints_of_card(define(bare).card())
    assert [hint.code for hint in hints] == [
        "no_description",
        "no_licence",
        "no_example",
        "no_bounds",
        "no_bounds",
    ]
    assert "'steps' has no largest" in hints[3].detail
    assert "'strength' has no smallest" in hints[4].detail


def test_a_model_that_tells_all_lacks_nothing() -> None:
    @swell.model("me/whole", licence="MIT")
    def whole(
        prompt: Annotated[str, Field(examples=["a fox"])],
        image: swell.Image,
        style: Literal["a", "b"],
        steps: Annotated[int, Field(ge=1, le=50)] = 20,
        guidance: Annotated[float | None, Field(ge=0, le=9)] = None,
        seed: Annotated[int | None, ui.seed()] = None,
        noise: Annotated[int | None, ui.seed()] = None,
    ) -> str:
        """Tells all."""
        return prompt

    assert codes(whole) == []


def test_examples_of_the_class_count() -> None:
    class Told(swell.Model):
        """Told."""

        name, Output, licence = "me/told", str, "MIT"
        examples = ({"text": "a fox"},)

        class Input(BaseModel):
            text: str

        def run(self, items: list[Any]) -> list[str]:
            return [item.input.text for item in items]

    assert codes(Told) == []


TIMES = Times(warmup_s=0.1, run_s=1.0, again_s=0.9)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (TIMES, []),
        (Times(warmup_s=31, run_s=1), ["slow_warmup"]),
        (Times(warmup_s=0, run_s=3, again_s=1), ["cold_first_run"]),
        (Times(warmup_s=0, run_s=0.3, again_s=0.01), []),
        (Times(warmup_s=0, run_s=3), []),
        (Times(warmup_s=0, run_s=0, grown_bytes=10**8), ["no_memory"]),
        (Times(warmup_s=0, run_s=0, grown_bytes=10**7), []),
        (Times(warmup_s=0, run_s=0, grown_bytes=10**9, said_bytes=1), []),
        (Times(warmup_s=0, run_s=0, is_cpu=False), ["no_memory"]),
        (Times(warmup_s=0, run_s=0, is_cpu=False, said_bytes=1), []),
    ],
)
def test_times_and_memory_show_what_is_lacking(times: Times, expected: list[str]) -> None:
    assert [hint.code for hint in hints_of_times(times)] == expected


def test_files_that_hold_pickles_are_seen_while_they_are_opened(tmp_path: Path) -> None:
    import pickle  # noqa: PLC0415 - the test is of it

    opened = Opened()
    for name, content in {
        "early.pt": pickle.dumps({}),
        "weights.pt": pickle.dumps({"a": 1}),
        "raw.bin": b"\x00\x01",
        "empty.ckpt": b"",
        "declared.pth": pickle.dumps([]),
        "model.safetensors": pickle.dumps([]),
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "early.pt").read_bytes()
    with opened:
        for name in ("weights.pt", "raw.bin", "empty.ckpt", "model.safetensors"):
            (tmp_path / name).read_bytes()
    found = opened.pickles([tmp_path / "declared.pth", tmp_path / "gone.pt"])
    assert [path.name for path in found] == ["declared.pth", "weights.pt"]
    assert "safetensors" in hints_of_files(found)[0].detail


PROPERTIES: list[dict[str, Any]] = [
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "integer", "minimum": 8, "maximum": 64, "multipleOf": 8},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 3},
    {"type": "number", "minimum": 0, "maximum": 60},
    {"type": "number"},
    {"type": "string", "minLength": 1, "maxLength": 7},
    {"enum": ["a", "b"]},
    {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
    {"$ref": "#/$defs/style"},
]
DEFS = {"style": {"enum": ["noto", "ink"], "type": "string"}}


CURRENT = [None, False, True, 1, 8, 0.0, 60.0, "a", "noto"]


def valid_pairs() -> list[tuple[dict[str, Any], Any]]:
    return [
        (prop, current)
        for prop in PROPERTIES
        for current in CURRENT
        if current is None or jsonschema_rs.is_valid({**prop, "$defs": DEFS}, current)
    ]


@pytest.mark.parametrize(("prop", "current"), valid_pairs(), ids=str)
def test_another_value_is_another_one_that_the_schema_takes(
    prop: dict[str, Any], current: Any
) -> None:
    other = other_value(prop, DEFS, current)
    assert other is not NOTHING_ELSE
    assert other != current or type(other) is not type(current)
    jsonschema_rs.validate({**prop, "$defs": DEFS}, other)


@given(st.lists(st.floats(0, 60), min_size=3, max_size=3, unique=True))
def test_another_number_never_costs_much_more(three: list[float]) -> None:
    low, current, high = sorted(three)
    other = other_value({"type": "number", "minimum": low, "maximum": high}, {}, current)
    if other is not NOTHING_ELSE:
        assert low <= other <= min(high, current + 1)
        assert math.isfinite(other)


@pytest.mark.parametrize(
    "prop",
    [
        {"type": "string", "pattern": "^a$"},
        {"type": "string", "format": "date"},
        {"type": "array"},
        {"type": "object"},
        {"type": "integer", "minimum": 3, "maximum": 3},
        {"enum": ["a"]},
        {"x-file": "video"},
    ],
)
def test_where_no_other_value_is_known_none_is_made(prop: dict[str, Any]) -> None:
    current = {"enum": "a"}.get(next(iter(prop)), 3 if prop.get("type") == "integer" else None)
    assert other_value(prop, {}, current) is NOTHING_ELSE


def test_words_that_must_not_be_blank_have_another_value() -> None:
    prop = {"type": "string", "pattern": r"\S", "minLength": 1}
    assert str(other_value(prop, {}, "a fox")).strip()


def test_made_files_of_a_kind_differ() -> None:
    for kind in ("image", "audio", "file"):
        first = made_file(kind)
        assert other_value({"x-file": kind}, {}, first) not in (first, NOTHING_ELSE)
    schema = {"required": ["a"], "properties": {"a": {"type": "string", "x-file": "image"}}}
    assert made_example(schema) == {"a": made_file("image")}


def test_a_missing_module_is_named_as_it_is_installed() -> None:
    assert distribution_of("cv2") == "opencv-python-headless"
    assert distribution_of("sklearn.cluster") == "scikit-learn"
    assert distribution_of("some_package.inner") == "some-package"
    assert '# dependencies = ["einops"]' in how_to_get("einops")


def test_a_file_that_asks_already_is_told_to_ask_for_more() -> None:
    told = how_to_get("cv2", '# /// script\n# dependencies = ["numpy<2"]\n# ///\nimport cv2\n')
    assert told.startswith('add "opencv-python-headless" to `dependencies`')
    assert "beside" not in told
