import pytest

from swell.model import Item

pytest.importorskip("swell_models")

from swell.zoo.embedded import weights
from swell.zoo.prompt_check import CATEGORIES, PromptCheck, PromptWords


@pytest.fixture(scope="module")
def words() -> PromptWords:
    return PromptWords(weights("prompt-words.json"))


@pytest.mark.parametrize(
    "prompt",
    [
        "a red fox in the snow",
        "a child with a teddy bear in the snow",
        "un niño feliz con un perro",
        "Scunthorpe town hall, Essex, in the evening",
        "a bass guitar and a pussycat",
        "a 12 year old oak tree",
        "I I I I",
        "",
    ],
)
def test_harmless_prompts_are_allowed(words: PromptWords, prompt: str) -> None:
    assert not words(prompt).refused(CATEGORIES)


@pytest.mark.parametrize(
    ("prompt", "category"),
    [
        ("a nude woman", "sexual"),
        ("a NÜDE woman", "sexual"),
        ("a n u d e woman", "sexual"),
        ("a n.u.d.e woman", "sexual"),
        ("nuuuude", "sexual"),
        ("nud3 portrait", "sexual"),
        ("mujer desnuda", "sexual"),
        ("a swastika flag", "hate"),
        ("a severed head on a table", "gore"),
        ("hang himself", "self-harm"),
        ("little girl naked", "minors"),
        ("niña desnuda", "minors"),
        ("12-year-old topless", "minors"),
    ],
)
def test_what_is_asked_for_is_found_however_it_is_written(
    words: PromptWords, prompt: str, category: str
) -> None:
    assert category in words(prompt).refused(CATEGORIES)


def test_a_translation_is_checked_with_the_prompt(words: PromptWords) -> None:
    assert not words("um cachorro").refused(CATEGORIES)
    assert words("um cachorro", "a nude dog").refused(["sexual"]) == ("sexual",)


def test_an_operator_may_add_words() -> None:
    more = PromptWords(weights("prompt-words.json"), {"brands": ["Acme Corp"]})
    assert more("the acme-corp logo").categories == {"brands": ("acme corp",)}


def test_scripts_without_spaces_are_searched_inside(words: PromptWords) -> None:
    assert "obscene" in words("巨乳の女").categories


def test_the_model_tells_what_it_found_and_refuses_only_what_it_was_told_to() -> None:
    model = PromptCheck()
    model.load("cpu")
    strict, lax = (
        Item(PromptCheck.Input(text="a nude statue", refuse=refuse))
        for refuse in (["minors", "sexual"], ["minors"])
    )
    [one, other] = model.run([strict, lax])
    assert (one.allowed, one.refused) == (False, ["sexual"])
    assert (other.allowed, other.refused) == (True, [])
    assert other.found["sexual"] == ["nude"]
