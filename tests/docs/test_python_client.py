"""Every example of the page on the Python client runs, against a server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import swell
from commandline import Swell, ready_line, stop
from pages import blocks, ran
from swell.client import asynchronous, blocking

PAGE = Path(__file__).parents[2] / "docs" / "python-client.md"
BLOCKS = blocks("docs/python-client.md")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    here = Swell(tmp_path_factory.mktemp("swell"))
    process = here.start("up", "--json", "--port", "0", "-m", "demo/*")
    try:
        ready_line(process, here.folder)
        yield here
    finally:
        assert stop(process) == 0


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_an_example_runs(running: Swell, number: int) -> None:
    assert ran(BLOCKS[number], running.folder).strip()


def test_every_method_is_on_the_page_and_both_clients_have_it() -> None:
    text = PAGE.read_text()
    methods = {
        name
        for name, value in vars(asynchronous.AsyncClient).items()
        if callable(value) and not name.startswith("_")
    }
    assert methods
    for name in methods:
        assert f"`{name}(" in text, name
        assert hasattr(swell.Client, name), name
    public = {name for name in vars(blocking.Client) if not name.startswith("_")}
    assert public == methods | {"close"}
