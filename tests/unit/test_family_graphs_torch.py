"""Steps of other sizes, and of other numbers of rows, compile nothing again."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from family_graphs import FAMILIES, graphs_of

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_block_is_compiled_for_one_row_and_for_more(family: str, tmp_path: Path) -> None:
    first, all_of_them = graphs_of(family, tmp_path)
    assert first > 0
    assert all_of_them <= 2 * first
