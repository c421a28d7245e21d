from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
from denoise_harness import Ears
from pydantic import ValidationError

from swell.sdk.context import Item, Reject

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from swell.models.icons import Icons
from swell_models.artwork import STAGES, Artwork


@pytest.fixture(scope="module")
def artwork() -> Artwork:
    model = Artwork(threads=1)
    model.load("cpu")
    return model


def asked(ears: Ears | None = None, **fields: object) -> Item[Artwork.Input]:
    given = Artwork.Input(steps=2, seed=5, **fields)  # type: ignore[arg-type]
    return Item(given, seed=5, listener=ears or Ears())


def drawn(model: Artwork, **fields: object) -> Artwork.Output:
    [made] = model.run([asked(**fields)])
    if isinstance(made, Exception):
        raise made
    assert isinstance(made, Artwork.Output)
    return made


@pytest.mark.slow
def test_a_prompt_goes_through_every_stage(artwork: Artwork) -> None:
    made = drawn(artwork, prompt="un gato azul", art="mosaic")
    assert (made.prompt, made.language, made.translated_by) == ("a blue cat", "es", "glossary")
    assert tuple(made.stages) == STAGES
    assert all(made.stages[name] > 0 for name in STAGES if name != "upscale")
    assert 0 <= made.unsafe < 0.5
    assert made.picture.pil().size == (512, 512)


@pytest.mark.slow
def test_without_art_it_is_what_the_icons_draw(artwork: Artwork) -> None:
    made = drawn(artwork, prompt="ein blauer Hund")
    icons = Icons(threads=1)
    icons.load("cpu")
    item = Item(Icons.Input(prompt="a blue dog", steps=2, seed=5), seed=5)
    [expected] = icons.run([item])
    assert made.picture.pil().tobytes() == expected.pil().tobytes()


@pytest.mark.slow
def test_art_changes_the_picture_and_size_its_size(artwork: Artwork) -> None:
    plain = drawn(artwork, prompt="a cat").picture.pil()
    painted = drawn(artwork, prompt="a cat", art="etching").picture.pil()
    large = drawn(artwork, prompt="a cat", size=1024).picture.pil()
    assert plain.tobytes() != painted.tobytes()
    assert large.size == (1024, 1024)
    near = large.resize((512, 512), PIL.Image.Resampling.BOX)
    assert near.size == plain.size


@pytest.mark.parametrize("prompt", ["a nude woman", "mujer desnuda", "uma mulher n u a"])
def test_a_prompt_that_should_not_be_drawn_is_refused_in_words(
    artwork: Artwork, prompt: str
) -> None:
    with pytest.raises(Reject, match="sexual"):
        artwork.prepare(asked(prompt=prompt))


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("красная лиса", "Russian"),
        ("赤い狐", "Japanese"),
        ("红色的狐狸", "Chinese"),
        ("붉은 여우", "Korean"),
        ("червона лисиця", "Ukrainian"),
        ("ثعلب أحمر", "Arabic"),
        ("czerwony lis na śniegu", "Polish"),
        ("karda k\u0131rm\u0131z\u0131 bir tilki", "Turkish"),
    ],
)
def test_a_prompt_that_cannot_be_translated_is_drawn_with_warnings_that_say_so(
    artwork: Artwork, prompt: str, language: str
) -> None:
    ears = Ears()
    artwork.prepare(asked(ears, prompt=prompt))
    language_warning, subject_warning = ears.warnings
    assert (language_warning.code, subject_warning.code) == ("language", "unknown_subject")
    assert language_warning.message == (
        f"This looks like {language}, which this model cannot translate."
    )


@pytest.mark.slow
def test_the_note_comes_with_the_picture(artwork: Artwork) -> None:
    made = drawn(artwork, prompt="czerwony lis na śniegu")
    assert made.language == "pl"
    assert made.prompt.startswith("cactus")
    assert made.note.startswith("This looks like Polish")
    assert drawn(artwork, prompt="cozy typewriter").note == ""


@pytest.mark.parametrize("prompt", ["🦊", "1234", "!?"])
def test_a_prompt_without_a_word_is_refused(artwork: Artwork, prompt: str) -> None:
    with pytest.raises(Reject, match="The prompt has no words"):
        artwork.prepare(asked(prompt=prompt))


@pytest.mark.parametrize("prompt", ["   ", "\x00\x00", "\u200b", ""])
def test_a_blank_prompt_is_no_input(prompt: str) -> None:
    with pytest.raises(ValidationError):
        Artwork.Input(prompt=prompt)


@pytest.mark.parametrize(
    "prompt", ["🦊 in the snow", "gudetama", "a xoloitzcuintle", "fox", "Pikachu on a лодка"]
)
def test_a_prompt_with_a_word_to_read_is_drawn(artwork: Artwork, prompt: str) -> None:
    assert artwork.prepare(asked(prompt=prompt)).words


def test_an_operator_may_allow_categories_but_never_minors(artwork: Artwork) -> None:
    artwork.prepare(asked(prompt="a nude statue", refuse=[]))
    with pytest.raises(Reject, match="minors"):
        artwork.prepare(asked(prompt="a naked child", refuse=[]))


@pytest.mark.slow
def test_one_refused_prompt_leaves_its_neighbours_alone(artwork: Artwork) -> None:
    [good, bad] = artwork.run([asked(prompt="a cat"), asked(prompt="a nude woman")])
    assert isinstance(good, Artwork.Output)
    assert isinstance(bad, Reject)


def test_models_of_one_process_share_their_networks(artwork: Artwork) -> None:
    icons = Icons(threads=1)
    icons.load("cpu")
    assert icons._unet is artwork._unet


class Eyes:
    """Looks at every preview there is."""

    def __init__(self) -> None:
        self.steps = 0
        self.seen: list[Any] = []

    def progress(self, done: int, total: int) -> None:
        self.steps = done

    def preview(self, make: Callable[[], Any]) -> None:
        self.seen.append(make())

    def is_cancelled(self) -> bool:
        return False


@pytest.mark.slow
def test_nothing_of_a_picture_is_shown_before_it_was_checked(artwork: Artwork) -> None:
    eyes, others = Eyes(), Eyes()
    artwork.run([Item(Artwork.Input(prompt="a cat", steps=3), listener=eyes)])
    icons = Icons(threads=1)
    icons.load("cpu")
    icons.run([Item(Icons.Input(prompt="a cat", steps=3), listener=others)])
    assert eyes.steps == others.steps == 3
    assert others.seen
    assert eyes.seen == []
