"""The page of benchmarks says what the kept results say, and who is ahead."""

import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench  # noqa: E402
import faults_found  # noqa: E402
import figures  # noqa: E402
from pages import Reader, block  # noqa: E402


def test_the_page_has_the_numbers_of_the_figures() -> None:
    page = bench.PAGE.read_text()
    assert figures.with_table(page) == page, "run: python benchmarks/bench.py page"
    assert bench.with_section(page, figures.results()) == page, "run: benchmarks/bench.py page"


def test_questions_are_short_enough_for_one_table() -> None:
    known = figures.figures().values()
    assert [each.name for each in known if len(each.question.split()) > 25] == []


def test_each_kept_result_belongs_to_a_figure() -> None:
    assert set(figures.results()) <= set(figures.figures())


def test_the_regressions_of_faults_are_tests_that_exist() -> None:
    for node in {each for nodes in faults_found.FAULTS.values() for each in nodes}:
        path, _, test = node.partition("::")
        # Those of conformance are inherited: any file of that folder may have them.
        files = [*(ROOT / path).parent.glob("*.py")] if "conformance" in path else [ROOT / path]
        name = test.rpartition("::")[2].partition("[")[0]
        assert any(f"def {name}" in file.read_text() for file in files), node


def test_a_figure_without_a_result_is_not_run() -> None:
    known = figures.figures()
    kept = figures.results()
    del kept["service-drain"]
    [row] = [line for line in figures.table(known, kept).splitlines() if "`service-drain`" in line]
    assert "| not run |" in row


def test_figures_are_listed_as_the_readme_says() -> None:
    first, *_ = block(
        "benchmarks/README.md", "python benchmarks/figures.py list", "sh"
    ).splitlines()
    listed = Reader(ROOT).does(first).stdout
    known = tomllib.loads((ROOT / "benchmarks" / "figures.toml").read_text())
    assert [name for name in known if name not in listed] == []


@pytest.mark.parametrize(
    ("ratio", "better", "who"),
    [
        (1.2, "higher", "Swell"),
        (0.8, "higher", "**other**"),
        (0.8, "lower", "Swell"),
        (1.2, "lower", "**other**"),
        (1.005, "higher", "neither"),
        (0.995, "lower", "neither"),
    ],
)
def test_whoever_is_ahead_is_said_to_be(ratio: float, better: str, who: str) -> None:
    assert bench.ahead(ratio, better, "other") == who  # type: ignore[arg-type]


def test_a_comparison_that_was_not_run_is_not_made_up() -> None:
    with pytest.raises(LookupError, match="no run of service-throughput"):
        bench.section({})


def test_a_comparison_that_failed_says_why_and_the_others_stay() -> None:
    known, kept = figures.figures(), figures.results()
    drain = figures.judged(known["service-drain"], 1, "died | of hunger")
    section = bench.section({**kept, "service-drain": drain}).splitlines()
    before = bench.section(kept).splitlines()
    why = drain["detail"]["failed"].replace("|", "\\|")
    what = "50,000 waiting no-op tasks, one worker"
    row = f"| {what} | failed: {why} |  |  |  | `service-drain` |  |"
    assert [line for line in section if what in line] == [row]
    others = [line for line in before if line.startswith("|") and "service-drain" not in line]
    assert len(others) > 10
    assert [line for line in section if line in others] == others


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        bench.with_section("# Benchmarks\n", figures.results())
