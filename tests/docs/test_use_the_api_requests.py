"""The requests on the page about the API, in their order, against a server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commandline import Swell, ready_line, stop
from pages import Reader, block

#: Drawn in place of the page's model, which takes longer.
MODEL = ("swell/icons", "demo/echo-picture")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    swell = Swell(tmp_path_factory.mktemp("swell"))
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/*")
    try:
        yield swell.folder, ready_line(process, swell.folder)
    finally:
        assert stop(process) == 0, (swell.folder / "stderr.txt").read_text()


def test_every_request_of_the_page_works_in_its_order(ready: tuple[Path, dict[str, Any]]) -> None:
    folder, server = ready
    access = block("docs/use-the-api.md", "swell keys create", "sh")
    printed = Reader(folder).does(
        f"{access}echo $SWELL_KEY", ("http://127.0.0.1:8000", server["url"])
    )
    variables = {"SWELL_URL": server["url"], "SWELL_KEY": printed.stdout.strip()}
    reader = Reader(folder, variables)
    asked = reader.does(block("docs/use-the-api.md", '"seed": 7', "sh"), MODEL)
    task = json.loads(asked.stdout)
    assert (task["state"], task["seed"]) == ("succeeded", 7)
    reader.does(block("docs/use-the-api.md", "Accept: image/png", "sh"), MODEL)
    assert (folder / "fox.png").read_bytes().startswith(b"\x89PNG")
    stored = reader.does(block("docs/use-the-api.md", "/v1/uploads", "sh"))
    assert json.loads(stored.stdout)["content_type"] == "image/png"
    reader = Reader(folder, variables | {"TASK": task["id"]})
    told = reader.does(block("docs/use-the-api.md", "/events", "sh")).stdout
    assert "event: succeeded" in told
