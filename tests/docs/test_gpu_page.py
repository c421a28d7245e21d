"""docs/gpu.md equals the generated page of the committed result."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu.catalog import STAGES  # noqa: E402
from gpu.gpu_page import PAGE, RESULT, page, read  # noqa: E402


def test_the_page_is_that_of_the_committed_result() -> None:
    assert PAGE.read_text() == page(read()), "run: PYTHONPATH=benchmarks python -m gpu.gpu_page"


def test_without_a_result_the_page_says_that_nothing_was_measured() -> None:
    text = page(None)
    assert "**Nothing was measured on a GPU yet.**" in text
    assert text.count("\nNot run: nothing was measured yet.\n") == len(STAGES)


def test_a_miniature_is_not_committed_as_a_measurement() -> None:
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    assert not result.get("miniature")


def test_a_page_names_the_card_and_what_is_missing() -> None:
    rows = [{"what": "a | b", "ms per step": 1234.5}, {"what": "other", "GiB": 2}]
    kept = {
        "make": {"status": "measured", "why": "", "took_s": 31.5, "rows": rows},
        "rows": {"status": "not run", "why": "it needs 40 s, and 12 s were left", "rows": []},
    }
    text = page({"stages": kept, "machine": {"card": "NVIDIA H100"}, "versions": {"torch": "2.11"}})
    assert f"Measured on one NVIDIA H100: 1 of {len(STAGES)} stages are complete." in text
    assert "| torch | 2.11 |" in text
    assert "| driver | not known |" in text
    assert "|  | ms per step | GiB |\n|---|---|---|\n| a \\| b | 1,234.5 |  |\n" in text
    assert "Not run: it needs 40 s, and 12 s were left." in text


def test_each_stage_names_a_function_of_a_module() -> None:
    for stage in STAGES:
        module, _, function = stage.run.partition(":")
        file = ROOT / "benchmarks" / Path(*module.split(".")).with_suffix(".py")
        assert f"\ndef {function}(rig: Rig)" in file.read_text(), stage.name
