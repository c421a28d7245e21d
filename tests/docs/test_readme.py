import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from commandline import Swell, ready_line, stop
from pages import Reader, block, blocks
from ports import free_port
from swell.bootstrap.autoscaler import advice
from swell.providers.factory import options_of
from swell.providers.options import checked
from swell.settings.load import load
from swell.settings.pool_prices import pool_prices

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

ACTIVATE = re.compile(r"^\. \.venv/bin/activate.*\n", re.MULTILINE)


def test_every_command_that_the_readme_makes_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README + (ROOT / "CONTRIBUTING.md").read_text()
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_settings_of_the_readme_are_taken_and_nothing_in_them_is_warned_of(tmp_path: Path) -> None:
    settings_blocks = blocks("README.md", "toml")
    assert len(settings_blocks) == 3
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
    """A folder with the files of README.md, and what it serves there."""
    here = tmp_path_factory.mktemp("mine")
    (here / "poster.py").write_text(block("README.md", '@swell.model("me/poster")'))
    (here / "swell.toml").write_text(block("README.md", "[webhooks]", "toml"))
    up = block("README.md", "swell models check poster.py", "sh").splitlines()[-1]
    words = (*shlex.split(up, comments=True)[1:], "--json", "--port", "0")
    process = Swell(here).start(*words)
    try:
        yield Reader(here, {"URL": ready_line(process, here)["url"]})
    finally:
        assert stop(process) == 0, (here / "stderr.txt").read_text()


def test_a_function_is_a_model_as_the_readme_says(reader: Reader) -> None:
    check, up = block("README.md", "swell models check poster.py", "sh").splitlines()
    assert up.startswith("swell up")
    assert "me/poster" in reader.does(check).stdout


def test_a_picture_is_asked_for_over_http_as_the_readme_says(reader: Reader) -> None:
    script = block("README.md", "curl http://127.0.0.1:8001/v1/tasks", "sh")
    served = ("http://127.0.0.1:8001", reader.variables["URL"])
    reader.does(ACTIVATE.sub("", script).replace("cd mine\n", ""), served)
    assert (reader.folder / "lighthouse.png").read_bytes().startswith(b"\x89PNG")


def test_a_worker_joins_by_a_url_and_a_key_as_the_readme_says(reader: Reader) -> None:
    script = block("README.md", "swell worker --url", "sh")
    *before, worker = ACTIVATE.sub("", script).replace("cd mine\n", "").splitlines()
    served = ("http://127.0.0.1:8001", reader.variables["URL"])
    joined = "swell workers | grep -c idle | grep -qx 3"
    script = f"{worker} & until {joined}; do :; done; kill $!; wait $! || true"
    reader.does("\n".join([*before, script]), served)


def test_a_launch_is_simulated_as_the_readme_says(tmp_path: Path) -> None:
    said = Reader(tmp_path).does(block("README.md", "swell simulate", "sh")).stdout
    assert "cost" in said


def test_a_backend_submits_a_task_and_is_called_when_it_is_done(reader: Reader) -> None:
    pytest.importorskip("fastapi")
    port = str(free_port())

    def here(text: str) -> str:
        return text.replace("8002", port)

    (reader.folder / "shop.py").write_text(here(block("README.md", "app = FastAPI")))
    install, secret = block("README.md", "pip install fastapi", "sh").splitlines()
    assert install.startswith("pip install")
    serve = here(block("README.md", "uvicorn shop:app", "sh")).strip()
    order = here(block("README.md", 'curl -sX POST "$SHOP', "sh"))
    script = f"""{secret}
{serve} & trap "kill $!; wait $! || true" EXIT
until curl -s {here("http://127.0.0.1:8002")}/docs > /dev/null; do sleep 0.1; done
{order}"""
    assert f"{reader.variables['URL']}/v1/artifacts/" in reader.does(script).stdout
