from pathlib import Path
from typing import Any

import PIL.Image
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

import swell
from swell.cli.local import LocalResult, save_files
from swell.cli.outputs import misfit
from swell.sdk.media import Attachment, flatten


class Scored(BaseModel):
    picture: swell.Image
    score: float = Field(ge=0)


def promised(kind: Any) -> dict[str, Any]:
    schema: dict[str, Any] = pydantic.TypeAdapter(kind).json_schema(mode="serialization")
    return schema


def judge(result: Any, kind: Any) -> str | None:
    files: list[Attachment] = []
    return misfit(flatten(result, files), files, promised(kind))


PICTURE = PIL.Image.new("RGB", (4, 4))


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("text", str),
        (3, float),
        (PICTURE, swell.Image),
        (swell.Image(PICTURE), swell.Image | None),
        (None, swell.Image | None),
        ([PICTURE, PICTURE], list[swell.Image]),
        (swell.Audio(b"1"), swell.File),
        (Scored(picture=swell.Image(PICTURE), score=1), Scored),
        ({"a": [1, PICTURE]}, dict[str, Any]),
        ((1, "a"), tuple[int, str]),
    ],
)
def test_what_was_promised_fits(result: Any, kind: Any) -> None:
    assert judge(result, kind) is None


@pytest.mark.parametrize(
    ("result", "kind", "why"),
    [
        ("text", int, "integer"),
        (1.5, int, "integer"),
        (None, str, "string"),
        ("https://picture", swell.Image, "swell.Image was promised, but str came"),
        (PICTURE, str, "string"),
        (swell.File(b"1"), swell.Audio, "swell.Audio was promised, but File came"),
        (swell.Audio(b"1"), swell.Image, "swell.Image was promised, but Audio came"),
        ([PICTURE, "b"], list[swell.Image], "/1: swell.Image was promised, but str came"),
        ({"picture": PICTURE, "score": -1}, Scored, "/score: -1"),
        ({"picture": PICTURE}, Scored, "score"),
    ],
)
def test_what_was_not_promised_is_told(result: Any, kind: Any, why: str) -> None:
    told = judge(result, kind)
    assert told is not None
    assert why in told


NO_FILE = [7, 1, -1, True, False, 0.0, "0", None, [0], {}]


@pytest.mark.parametrize("index", NO_FILE)
def test_what_names_no_file_of_the_result_is_no_file(index: Any, tmp_path: Path) -> None:
    files: list[Attachment] = []
    output = flatten({"picture": PICTURE, "other": {"$artifact": index}}, files)
    why = misfit(output, files, promised(dict[str, swell.Image]))
    assert why == "/other: swell.Image was promised, but dict came"
    placed, paths = save_files(LocalResult(output, files, seed=1, run_s=0), "a", tmp_path)
    assert placed == {"picture": str(tmp_path / "a.png"), "other": {"$artifact": index}}
    assert paths == [tmp_path / "a.png"]


@pytest.mark.slow
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_who_promises_nothing_may_return_anything(result: Any) -> None:
    assert misfit(result, [], {}) is None


@pytest.mark.slow
@given(st.integers() | st.text() | st.none() | st.lists(st.integers()))
def test_a_promise_is_kept_as_python_keeps_it(result: Any) -> None:
    for kind, accepted in ((int, int), (str, str), (list[int], list)):
        assert (judge(result, kind) is None) == isinstance(result, accepted)
