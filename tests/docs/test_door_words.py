"""The count of phrases and of words that the figure door-words reports."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from door_words import (  # noqa: E402
    comments,
    pages_for_readers,
    rate,
    without_code,
    without_figures,
    words_for_readers,
)
from figures import BEGIN, END  # noqa: E402


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


def test_the_table_of_figures_does_not_count_and_the_text_around_it_does() -> None:
    page = f"# Speed\n\nBefore.\n\n{BEGIN}\n| a | 1 |\n{END}\n\nAfter.\n"
    assert without_figures(page).split() == ["#", "Speed", "Before.", "After."]
    assert without_figures("A page without figures.") == "A page without figures."


def test_words_for_readers_leave_out_figures_and_pages_that_code_writes(tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "cli.md").write_text("Many words of commands.\n")
    (tmp_path / "index.md").write_text("Two words.\n")
    (tmp_path / "benchmarks.md").write_text(f"One.\n{BEGIN}\n| 1 | 2 |\n{END}\n")
    assert words_for_readers(tmp_path) == 3


def test_the_page_of_benchmarks_has_a_table_of_figures_to_leave_out() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    assert 0 < len(without_figures(page)) < len(page)
