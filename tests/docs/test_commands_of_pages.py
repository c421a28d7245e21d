"""Commands of pages that need no more than a Swell that runs, in the order in which they stand."""

import shlex
from collections.abc import Iterator

import pytest
from page_harness import block

from commandline import Swell, ready_line, stop


def commands(page: str, holding: str, language: str) -> list[list[str]]:
    """Return the words after `swell` of each line of a block."""
    lines = [
        shlex.split(each, comments=True) for each in block(page, holding, language).split("\n")
    ]
    assert all(words[0] == "swell" for words in lines if words)
    return [words[1:] for words in lines if words]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    """A Swell that serves the first model of the guide for authors, by the guide's command."""
    here = Swell(tmp_path_factory.mktemp("swell"))
    model = block("docs/models/authoring.md", '@swell.model("demo/upper")\n')
    (here.folder / "upper.py").write_text(model)
    *_, up, _ = commands("docs/models/authoring.md", "swell models check upper.py", "sh")
    assert up[0] == "up"
    process = here.start(*up, "--json", "--port", "0")
    try:
        ready_line(process, here.folder)
        yield here
    finally:
        assert stop(process) == 0, (here.folder / "stderr.txt").read_text()


def test_the_first_model_of_the_guide_is_checked_run_and_served(running: Swell) -> None:
    page = commands("docs/models/authoring.md", "swell models check upper.py", "sh")
    check, run, _, submit = page
    running.ok(*check)
    assert running.ok(*run).strip() == "HELLO"
    assert "HELLO" in running.ok(*submit)


def test_keys_are_made_listed_rotated_and_revoked(running: Swell) -> None:
    *makes, listed, rotate, revoke = commands("docs/security.md", "swell keys rotate", "bash")
    for words in makes:
        running.ok(*words)
    assert "shop" in running.ok(*listed)
    [shop] = [each for each in running.json(*listed) if each["name"] == "shop"]
    for words in (rotate, revoke):
        running.ok(*[shop["id"] if word == "KEY_ID" else word for word in words])
    [shop] = [each for each in running.json(*listed) if each["name"] == "shop"]
    assert shop["revoked_at"] is not None


def test_what_is_looked_at_first_in_an_incident_answers(running: Swell) -> None:
    found = commands("docs/incidents.md", "swell workers --gone", "sh")
    assert len(found) >= 5
    for words in found:
        running.ok(*words)
