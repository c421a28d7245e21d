"""The count of phrases and of words that the figure door-words reports."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from door_words import comments, pages_for_readers, rate, without_code  # noqa: E402


def test_phrases_are_counted_per_10_000_words() -> None:
    counted = rate(["Whoever asks is told. ", "the queue " * 48])
    assert counted["phrases"] == 2
    assert counted["words"] == 100
    assert counted["per_10k"] == 200.0
    assert counted["most"] == {"whoever": 1, "is told": 1}


def test_parts_of_other_words_are_no_phrases() -> None:
    assert rate(["unworthless, thankless, heartbeat, goes once, overtold"])["phrases"] == 0


def test_no_words_have_a_rate_of_zero() -> None:
    assert rate([])["per_10k"] == 0.0


def test_code_on_a_page_does_not_count() -> None:
    page = "A `whose` word.\n```sh\necho whoever\n```\nAnd nobody."
    assert without_code(page).split() == ["A", "word.", "And", "nobody."]


def test_comments_and_docstrings_of_a_module_count_and_its_code_does_not() -> None:
    source = '"""Whose `nobody` module."""\n\nwhoever = "told"  # anew\n'
    prose = comments(source)
    assert rate([prose])["most"] == {"anew": 1, "whose": 1}


def test_reference_decisions_and_figures_are_not_pages_for_readers(tmp_path: Path) -> None:
    pages = {"index.md", "models/README.md", "tutorials/clouds.md"}
    for name in (
        *pages,
        "reference/cli.md",
        "decisions/0001-name-the-adapter-package-object-stores.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("words\n")
    assert {str(page.relative_to(tmp_path)) for page in pages_for_readers(tmp_path)} == pages
