"""Words by which tasks are found."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swell.core.search_words import key_word, task_words, words_of


def has_words(words: tuple[str, ...], sought: tuple[str, ...]) -> bool:
    """Whether each sought text begins a word; a single letter must be the whole word."""
    return all(
        each in words if len(each) == 1 else any(word.startswith(each) for word in words)
        for each in sought
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A red FOX, a fox's den", ("a", "red", "fox", "s", "den")),
        ("Éléphant à l'école", ("elephant", "a", "l", "ecole")),
        ("木の下の狐 ok", ("木", "の", "下", "狐", "ok")),
        ("STRASSE Straße", ("strasse",)),
        ("x" * 50, ("x" * 40,)),
        ("?!", ()),
    ],
)
def test_words_are_small_plain_and_each_there_once(text: str, words: tuple[str, ...]) -> None:
    assert words_of(text) == words


@given(st.text(max_size=300))
def test_words_are_letters_and_digits_and_are_found_again(text: str) -> None:
    words = words_of(text)
    assert all(word.isalnum() and word == word.casefold() for word in words)
    assert has_words(words, words)
    assert words_of(" ".join(words)) == words
    assert all(has_words(words, (word[:2],)) for word in words)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=200))
def test_words_of_ascii_text_stay_the_same_next_to_other_scripts(text: str) -> None:
    assert words_of(text + " 狐") == (*words_of(text), "狐")


@given(st.binary(max_size=60))
def test_any_input_has_words_or_none(raw: bytes) -> None:
    assert isinstance(task_words(msgspec.Raw(raw)), tuple)


def test_no_word_is_a_keys() -> None:
    assert words_of(key_word("key-1"))[0] != key_word("key-1")
    assert not has_words((key_word("key-1"),), words_of("key-1"))
