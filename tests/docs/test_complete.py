"""Everything that the code has to offer is told of somewhere."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from docs_complete import missing, names  # noqa: E402 - it lies among the benchmarks


def test_every_name_of_the_code_is_on_its_page() -> None:
    wanted = names()
    texts = {page: (ROOT / "docs" / page).read_text() for page in wanted}
    assert missing(wanted, texts) == []


def test_there_is_something_of_each_kind_and_what_is_not_told_is_found() -> None:
    for page, all_of in names().items():
        assert len(all_of) > 4, page
        assert len(missing({page: all_of}, {page: ""})) == len(all_of)


def test_what_stands_in_an_example_only_is_not_told() -> None:
    assert missing({"a": {"swell up"}}, {"a": "```sh\n`swell up`\n```"}) == ["a: swell up"]
    assert missing({"a": {"swell up"}}, {"a": "## `swell up`"}) == []
