"""What `swell/icons` makes of a prompt before it draws."""

import pytest
from denoise_harness import Ears

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from swell.models.icons import Icons
from swell.models.subjects import Reading, Subjects, edit_distance
from swell.sdk.context import Item


@pytest.fixture(scope="module")
def subjects() -> Subjects:
    return Icons(threads=1)._subjects


def read(subjects: Subjects, prompt: str) -> Reading:
    return subjects.read(prompt, "swell/icons")


@pytest.mark.parametrize(
    "prompt",
    [
        "a red fox in the snow",
        "three sleepy cats",
        "a slice of pizza",
        "bow and arrow",
        "a heart with an arrow",
        "cat and dog",
        "an old and rusty robot",
        "a pineapple wearing sunglasses",
        "a kitty cat",
        "T-rex in the city",
    ],
)
def test_what_was_trained_is_drawn_without_a_warning(subjects: Subjects, prompt: str) -> None:
    assert read(subjects, prompt).warnings == ()


@pytest.mark.parametrize(
    ("prompt", "drawn"),
    [
        ("a red fox in the snow", "a red fox in the snow"),
        ("three cats on a red sofa", "cats"),
        ("a penguin on a snowy hill", "a penguin in the snow"),
        ("a fox on a yellow background", "a fox on a yellow background"),
        ("an elephant with big ears", "an elephant"),
        ("cat and dog at night", "cat and dog at night"),
        ("a hotdog at night", "a hot dog at night"),
        ("sad emoji", "sad face"),
    ],
)
def test_a_prompt_is_brought_into_the_form_that_training_had(
    subjects: Subjects, prompt: str, drawn: str
) -> None:
    reading = read(subjects, prompt)
    assert (reading.prompt, reading.warnings) == (drawn, ())


@pytest.mark.parametrize(
    "prompt", ["a typewriter", "portrait of an old fisherman", "a fire hydrant", "asdfghjkl"]
)
def test_an_unknown_subject_is_named_with_three_prompts_that_work(
    subjects: Subjects, prompt: str
) -> None:
    [warning] = read(subjects, prompt).warnings
    subject = prompt.removeprefix("a ").removeprefix("portrait of an old ")
    assert warning.code == "unknown_subject"
    assert f'swell/icons cannot draw "{subject}"' in warning.message
    assert len(set(warning.suggestions)) == 3
    for each in warning.suggestions:
        assert read(subjects, each).prompt == each
        assert read(subjects, each).warnings == ()


def test_the_closest_subject_is_drawn_and_a_thinking_face_where_none_is_close(
    subjects: Subjects,
) -> None:
    assert read(subjects, "a ruined palace in the rain").prompt == "castle in the rain"
    assert read(subjects, "qwerty in the rain").prompt == "thinking face"


@pytest.mark.parametrize("prompt", ["a cat and a typewriter", "a typewriter and a cat"])
def test_one_subject_is_drawn_where_only_one_of_two_is_known(
    subjects: Subjects, prompt: str
) -> None:
    reading = read(subjects, f"{prompt} at night")
    assert reading.prompt == "a cat at night"
    [warning] = reading.warnings
    assert warning.message == 'swell/icons cannot draw "typewriter" and drew "cat" alone.'


@pytest.mark.parametrize(
    ("prompt", "drawn"),
    [
        ("a grene dargon", "a green dragon"),
        ("penguiin", "penguin"),
        ("a robto in space", "a robot in space"),
        ("a dinosuar", "a dinosaur"),
        ("a foks", "a fox"),
        ("an elefant", "an elephant"),
        ("a fxo", "a fox"),
        ("a brid", "a bird"),
    ],
)
def test_typos_are_mended_and_named(subjects: Subjects, prompt: str, drawn: str) -> None:
    reading = read(subjects, prompt)
    assert reading.prompt == drawn
    assert [each.code for each in reading.warnings] == ["typo"]
    assert f'as "{drawn.split()[1 if " " in drawn else 0]}"' in reading.warnings[0].message


def test_what_a_subject_does_to_something_is_named_since_it_is_not_drawn(
    subjects: Subjects,
) -> None:
    reading = read(subjects, "a fox riding a bicycle at night")
    assert reading.prompt == "a fox at night"
    [warning] = reading.warnings
    assert warning.message == 'swell/icons cannot draw "riding a bicycle" and drew "fox" alone.'
    assert warning.suggestions[0] == "bicycle"


@pytest.mark.parametrize("prompt", ["a gecko", "un zorro", "a barge", "wale", "Zoë"])
def test_a_word_that_some_list_knows_is_no_typo(subjects: Subjects, prompt: str) -> None:
    assert all(each.code != "typo" for each in read(subjects, prompt).warnings)


@pytest.mark.parametrize(
    "prompt", ["of", "a", "and", "...", "7", "猫", "with with with", "in, the"]
)
def test_any_prompt_can_be_read(subjects: Subjects, prompt: str) -> None:
    assert read(subjects, prompt).prompt


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("dargon", "dragon", 1), ("cat", "cat", 0), ("cat", "cart", 1), ("cat", "dog", 3)],
)
def test_edits_are_counted_and_a_swap_is_one(one: str, other: str, expected: int) -> None:
    assert edit_distance(one, other, 2) == min(expected, 3)
    assert edit_distance(other, one, 2) == min(expected, 3)


def test_a_task_is_warned_before_its_picture_is_drawn() -> None:
    ears = Ears()
    Icons(threads=1).prepare(Item(Icons.Input(prompt="a typewriter"), listener=ears))
    assert [each.code for each in ears.warnings] == ["unknown_subject"]


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [("a fox", True), ("a fox at night", False), ("a blue cat", False), ("bow and arrow", False)],
)
def test_a_backdrop_is_open_where_the_prompt_has_neither_scene_nor_colour(
    subjects: Subjects, prompt: str, is_open: bool
) -> None:
    assert read(subjects, prompt).is_open is is_open
