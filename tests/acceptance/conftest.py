from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import Swell, ready_line, stop


@pytest.fixture
def swell(tmp_path: Path) -> Swell:
    return Swell(tmp_path)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell that runs, shared by the tests of one module."""
    swell = Swell(tmp_path_factory.mktemp("swell"))
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/*")
    try:
        ready_line(process, swell.folder)
        yield swell
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()
