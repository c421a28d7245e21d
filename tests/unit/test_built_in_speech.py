# ruff: noqa: RUF001 - sounds are written in letters that look like others
import io
import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

from swell.sdk.context import Cancelled, Item, Reject
from swell_models.pronounce import Pronouncer, in_words, sentences, spoken
from swell_models.speech import RATE_HZ, Speech, Voice

#: What the published package gives; written by `training/convert_hibari.py`.
PUBLISHED = json.loads(
    Path(__file__).with_name("data").joinpath("published-speech.json").read_text()
)


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice(threads=1)


@pytest.fixture(scope="module")
def pronounce(voice: Voice) -> Pronouncer:
    return voice.pronounce


def distance(a: str, b: str) -> int:
    """Sounds to change, add or take away (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


# --- text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "$1,250.50 or £3",
            "one thousand two hundred fifty dollars and fifty cents or three pounds",
        ),
        ("$1 and €2 million", "one dollar and two million euros"),
        ("$0.01", "zero dollars and one cent"),
        ("in 1905, 1999, 2005 and 2024", None),
        ("1100 or 2100", "eleven hundred or two thousand one hundred"),
        ("1st 2nd 12th 20th 101st", "first second twelfth twentieth one hundred first"),
        ("at 7:05 or 12:00", "at seven oh five or twelve o'clock"),
        ("-5 and 3.14 and 50%", "minus five and three point one four and fifty percent"),
        ("Dr. No vs. St. Ives", "Doctor No versus Saint Ives"),
        ("bread & butter", "bread and butter"),
        ("it’s", "it's"),
    ],
)
def test_what_is_no_word_becomes_words(text: str, said: str | None) -> None:
    years = "in nineteen oh five, nineteen ninety nine, two thousand five and twenty twenty four"
    assert spoken(text) == (said or years)


@pytest.mark.parametrize("number", [0, 7, 13, 20, 99, 100, 110, 1000, 12_345, 10**6, 10**12 + 1])
def test_numbers_are_told_apart_by_their_words(number: int) -> None:
    words = in_words(number)
    assert words != in_words(number + 1)
    assert not any(letter.isdigit() for letter in words)


def test_numbers_beyond_names_are_told_by_their_digits() -> None:
    assert in_words(10**15) == "one" + " zero" * 15
    assert spoken("0" * 20 + "12") == "twelve"
    assert spoken("1" * 5000) == " ".join(["one"] * 5000)
    assert spoken("$" + "2" * 5000) == " ".join(["two"] * 5000) + " dollars"
    assert spoken("3" * 5000 + "rd") == " ".join(["three"] * 4999) + " third"
    assert spoken("4" * 5000 + ".5").endswith("four four point five")


def test_texts_are_cut_after_sentences_and_long_ones_between_words() -> None:
    assert sentences('One. Two? "Three!" Four') == ["One.", "Two?", '"Three!', "Four"]
    long = "a word or two, " * 60
    pieces = sentences(long)
    assert " ".join(pieces) == long.strip()
    assert all(len(piece) <= 300 for piece in pieces)
    assert "".join(sentences("x" * 1000)) == "x" * 1000
    assert sentences(" \n ... \n") == []


# --- sounds


@pytest.mark.slow
def test_sentences_sound_as_the_published_package_says(pronounce: Pronouncer) -> None:
    wrong = total = 0
    for text, wanted in PUBLISHED["sounds"].items():
        wrong += distance(pronounce(sentences(spoken(text))[0]), wanted)
        total += len(wanted)
    assert wrong / total < 0.01


@pytest.mark.parametrize(
    ("text", "sounds"),
    [
        ("the apple", "ði ˈæpᵊl"),
        ("the tree", "ðə tɹˈi"),
        ("to Ann", "tʊ ˈæn"),
        ("to go", "tə ɡˌO"),
        ("a cat", "ɐ kˈæt"),
        ("GPU", "ʤˌipˌijˈu"),
        ("Hello, world!", "həlˈO, wˈɜɹld!"),
        ("(so)", "(sˌO)"),
    ],
)
def test_small_words_and_short_forms_have_their_sounds(
    pronounce: Pronouncer, text: str, sounds: str
) -> None:
    assert pronounce(text) == sounds


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("blorks", "s"),
        ("blorgs", "z"),
        ("upscaled", "d"),
        ("stylizing", "ɪŋ"),
        ("Zyzzyvaphobia", ""),
    ],
)
def test_unknown_words_are_read(pronounce: Pronouncer, word: str, end: str) -> None:
    sounds = pronounce(word)
    assert len(sounds) > 3
    assert sounds.endswith(end)
    assert set(sounds) <= set(pronounce.numbers)


def test_what_cannot_be_said_is_left_out(pronounce: Pronouncer) -> None:
    assert pronounce("猫") == ""
    assert pronounce("cat 猫") == pronounce("cat")
    assert pronounce("") == ""


@pytest.mark.slow
@given(
    st.text(max_size=60)
    | st.text("0123456789.,:$£€%-+&@=' \"()abcXYZÀé猫½²٣\n\t…—stndrh", max_size=60)
)
def test_any_text_becomes_sounds_of_the_alphabet(pronounce: Pronouncer, text: str) -> None:
    for piece in sentences(spoken(text)):
        assert set(pronounce(piece)) - {'"'} <= set(pronounce.numbers)


# --- sound


def test_sounds_become_the_published_wave(voice: Voice) -> None:
    sounds = PUBLISHED["sounds"]["Your picture is ready."]
    said = voice.say(sounds, 1.0, np.random.default_rng(0))
    assert len(said) == PUBLISHED["samples"]
    loud = np.abs(said[: len(said) // 600 * 600]).reshape(-1, 600).mean(1)
    assert loud == pytest.approx(np.array(PUBLISHED["loudness"]), abs=0.003)


def test_a_faster_voice_takes_less_time_and_a_seed_repeats_itself(voice: Voice) -> None:
    normal, fast = voice("hello there"), voice("hello there", speed=2)
    assert 0.4 < len(fast) / len(normal) < 0.7
    assert np.array_equal(normal, voice("hello there"))
    assert not np.array_equal(normal, voice("hello there", seed=1))


# --- the model


class Ears:
    def __init__(self, stop_after: int = 100) -> None:
        self.told: list[tuple[int, int]] = []
        self.stop_after = stop_after

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))

    def preview(self, make: Any) -> None:
        pass

    def is_cancelled(self) -> bool:
        return len(self.told) >= self.stop_after


@pytest.fixture(scope="module")
def model() -> Speech:
    made = Speech(threads=1)
    made.load("cpu")
    return made


@pytest.mark.slow
def test_the_result_is_a_wave_file(model: Speech) -> None:
    [audio] = model.run([Item(Speech.Input(text="One. Two."), listener=(ears := Ears()))])
    assert audio.content_type == "audio/wav"  # type: ignore[union-attr]
    with wave.open(io.BytesIO(audio.read())) as sound:  # type: ignore[union-attr]
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (RATE_HZ, 1, 2)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    assert 0.5 * RATE_HZ < len(samples) < 5 * RATE_HZ
    assert np.abs(samples).max() > 1000
    assert ears.told == [(1, 2), (2, 2)]


def test_a_cancelled_text_ends_after_the_sentence_at_hand(model: Speech) -> None:
    ears = Ears(stop_after=1)
    [result] = model.run([Item(Speech.Input(text="One. Two. Three."), listener=ears)])
    assert isinstance(result, Cancelled)
    assert len(ears.told) == 1


def test_a_text_whose_numbers_and_signs_make_it_too_long_is_refused(model: Speech) -> None:
    [refused] = model.run([Item(Speech.Input(text="%" * 5000))])
    assert isinstance(refused, Reject)
    assert "39,999 characters: 30,000 at most" in str(refused)


@pytest.mark.slow
def test_a_long_row_of_digits_is_begun_to_be_read(model: Speech) -> None:
    ears = Ears(stop_after=1)
    given = Speech.Input(text="7" * 5000)
    assert isinstance(model.run([Item(given, listener=ears)])[0], Cancelled)
    assert ears.told[0][1] > 90


@pytest.mark.parametrize("text", ["猫", "...", "  \n "])
def test_a_text_without_words_is_refused(model: Speech, text: str) -> None:
    assert isinstance(model.run([Item(Speech.Input(text=text))])[0], Reject)


@pytest.mark.parametrize("wrong", [{"text": ""}, {"text": "a", "speed": 3}, {"text": "a" * 5001}])
def test_inputs_that_cannot_be_read_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Speech.Input(**wrong)
