from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

import swell
from swell import ui
from swell.runtime.example_inputs import made_example, made_file
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


def test_an_example_has_files_of_each_kind() -> None:
    schema = {"required": ["a"], "properties": {"a": {"type": "string", "x-file": "image"}}}
    assert made_example(schema) == {"a": made_file("image")}
    assert len({made_file(kind) for kind in ("image", "audio", "file")}) == 3


def test_a_missing_module_is_named_as_it_is_installed() -> None:
    assert distribution_of("cv2") == "opencv-python-headless"
    assert distribution_of("sklearn.cluster") == "scikit-learn"
    assert distribution_of("some_package.inner") == "some-package"
    assert '# dependencies = ["einops"]' in how_to_get("einops")


def test_a_file_that_asks_already_is_told_to_ask_for_more() -> None:
    told = how_to_get("cv2", '# /// script\n# dependencies = ["numpy<2"]\n# ///\nimport cv2\n')
    assert told.startswith('add "opencv-python-headless" to `dependencies`')
    assert "beside" not in told
