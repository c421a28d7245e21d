"""A model is tried beside what is served, compared and voted on, by the commands of the page."""

import json
import re
import signal
import time
from collections.abc import Iterator

import pytest

from commandline import PATIENCE_S, Swell, ready_line, stop
from pages import Reader, block

pytest.importorskip("onnxruntime")
pytest.importorskip("openskill")
pytest.importorskip("swell_models")


def line(holding: str) -> str:
    """Return the line of the page that has these words in it, without its remark."""
    lines = block("docs/compare-and-roll-out.md", "swell models compare", "console").splitlines()
    [found] = [each.partition("#")[0].strip() for each in lines if holding in each]
    return found


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell that serves what it does by itself, and a model that has joined it for a trial."""
    swell = Swell(tmp_path_factory.mktemp("reading"))
    poster = block("README.md", '@swell.model("me/poster")').replace("me/poster", "mine/poster")
    (swell.folder / "models").mkdir()
    (swell.folder / "models" / "poster.py").write_text(poster)
    up = swell.start(*line("swell up").split()[1:], "--json", "--port", "0")
    try:
        url = ready_line(up, swell.folder)["url"]
        _, *words = line("swell models try").replace("http://127.0.0.1:8000", url).split()
        trial = swell.start(*words, "--json")
        try:
            ready_line(trial, swell.folder)
            yield swell
        finally:
            assert stop(trial, signal.SIGINT) == 0, (swell.folder / "stderr.txt").read_text()
    finally:
        assert stop(up) == 0, (swell.folder / "stderr.txt").read_text()


@pytest.mark.timeout(180)
def test_two_models_are_compared_voted_on_and_told_apart(reading: Swell) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not {"swell/picture", "mine/poster"} <= {m["name"] for m in reading.json("models", "ls")}:
        assert time.monotonic() < until_s, (reading.folder / "stderr.txt").read_text()
    (reading.folder / "prompts.txt").write_text("a red fox\na blue house\n")
    reader = Reader(reading.folder)
    made = json.loads(reader.does(f"{line('swell models compare')} --json").stdout)
    assert (reading.folder / made["sheet"]).read_text().count("<img src=") == 4
    page = ("0197c2…", made["id"])
    voted = reader.does(line("votes 0197c2…  "), page, answers="1\n2\n")
    assert "2 votes are saved" in voted.stdout + voted.stderr
    assert {"swell/picture", "mine/poster"} <= set(
        re.findall(r"\w+/\w+", reader.does(line("--close"), page).stdout)
    )
    rated = reader.does(line("--ratings")).stdout
    assert "swell/picture" in rated
    assert "mine/poster" in rated
