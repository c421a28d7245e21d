import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import Swell, ready_line, stop
from pages import Reader, block, blocks
from swell.autoscaling import advice
from swell.config import load
from swell.money.pool_prices import pool_prices
from swell.providers.factory import options_of
from swell.providers.options import checked

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

ACTIVATE = re.compile(r"^\. \.venv/bin/activate.*\n", re.MULTILINE)


def test_every_command_that_the_readme_makes_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_settings_of_the_readme_are_taken_and_nothing_in_them_is_warned_of(tmp_path: Path) -> None:
    settings_blocks = blocks("README.md", "toml")
    assert len(settings_blocks) == 2
    for each in settings_blocks:
        path = tmp_path / "swell.toml"
        path.write_text(each.replace("ami-…", "ami-0a1b2c3d4e5f"))
        settings = load(config=path, environment={}).settings
        assert advice(settings, pool_prices(settings)) == []
        for name, pool in settings.pools.items():
            checked(options_of(pool.provider), pool.options, f"pools.{name}.options")


def test_the_page_of_installing_has_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    table = (ROOT / "docs" / "install.md").read_text().partition("| extra |")[2]
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))
    assert sorted(told) == sorted(set(project["optional-dependencies"]) - {"dev", "test"})


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    here = tmp_path_factory.mktemp("reader")
    (here / "poster.py").write_text(block("README.md", "me/poster"))
    up = block("README.md", "swell models check poster.py", "sh").splitlines()[-1]
    # The model of the request by curl is that of `make demo`.
    words = (*shlex.split(up, comments=True)[1:], "-m", "swell/icons", "--json", "--port", "0")
    process = Swell(here).start(*words)
    try:
        ready = ready_line(process, here)
        yield Reader(here, {"URL": ready["url"], "KEY": ready["key"]})
    finally:
        assert stop(process) == 0, (here / "stderr.txt").read_text()


def test_a_function_is_a_model_as_the_readme_says(reader: Reader) -> None:
    lines = block("README.md", "swell models check poster.py", "sh").splitlines()
    assert lines[-1].startswith("swell up")
    said = reader.does(ACTIVATE.sub("", "\n".join(lines[:-1])))
    assert "pictures/a-lighthouse.png" in said.stdout
    assert (reader.folder / "pictures" / "a-lighthouse.png").stat().st_size > 1000


def test_a_task_is_submitted_as_the_readme_says(reader: Reader) -> None:
    script = block("README.md", "swell tasks submit me/poster", "sh")
    said = reader.does(ACTIVATE.sub("", script)).stdout.strip()
    assert said.startswith("pictures/a-lighthouse")
    assert (reader.folder / said).is_file()


def test_a_picture_is_asked_for_over_http_as_the_readme_says(reader: Reader) -> None:
    script = block("README.md", "curl $URL/v1/tasks", "sh")
    assert '"state":"succeeded"' in reader.does(script).stdout
    picture = f"{script.rstrip()} -H 'Accept: image/png' -o fox.png"
    assert '-H "Accept: image/png" -o fox.png' in README
    reader.does(picture)
    assert (reader.folder / "fox.png").read_bytes().startswith(b"\x89PNG")
