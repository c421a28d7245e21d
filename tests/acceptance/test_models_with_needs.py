"""Models whose files ask for packages of their own, installed for real from a folder of wheels."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from wheelhouse import NEEDED, make_wheel, repack

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from swell.runtime.pep723 import Needs
from swell.runtime.venvs import EnvironmentFailed, Environments

pytestmark = pytest.mark.timeout(400)

MODEL = """
# /// script
# dependencies = ["tinypkg=={version}"]
# ///
\"\"\"A model that needs version {version} of a package.\"\"\"
import sys
import swell
import tinypkg

@swell.model("me/needs-{version}")
def tell(text: str) -> dict[str, str]:
    return {{"tinypkg": tinypkg.VERSION, "python": sys.executable, "text": text}}

if {draws}:
    @swell.model("me/draws-{version}")
    def draw(grey: int) -> swell.Image:
        import PIL.Image
        return swell.Image(PIL.Image.new("L", (8, 8), grey))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for version in ("1", "2"):
        make_wheel(folder, "tinypkg", version, f"VERSION = {version!r}\n")
    for name in NEEDED:
        repack(folder, name)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Iterator[Swell]:
    """A folder with two models that need two versions of one package; its environments stay."""
    swell = Swell(tmp_path_factory.mktemp("site"))
    (swell.folder / "one.py").write_text(MODEL.format(version=1, draws=True))
    (swell.folder / "two.py").write_text(MODEL.format(version=2, draws=False))
    (swell.folder / "swell.toml").write_text(f'[worker]\nwheels_dir = "{wheels}"\n')
    return swell


def start(swell: Swell, *models: str) -> "subprocess.Popen[str]":
    flags = [word for model in models for word in ("-m", model)]
    process = swell.start("up", "--json", "--port", "0", *flags)
    ready_line(process, swell.folder)
    return process


def ask(swell: Swell, model: str) -> dict[str, str]:
    done = swell.run("tasks", "submit", model, "-i", "text=hi", "--watch")
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def test_one_up_serves_models_that_need_two_versions_of_a_package(site: Swell) -> None:
    process = start(site, "one.py", "two.py", "demo/upper")
    try:
        one, two = ask(site, "me/needs-1"), ask(site, "me/needs-2")
        assert (one["tinypkg"], two["tinypkg"]) == ("1", "2")
        assert len({one["python"], two["python"], sys.executable}) == 3
        assert json.loads(site.ok("tasks", "submit", "demo/upper", "-i", "text=hi", "--watch"))
        workers = site.json("workers")
        assert {worker["pool"] for worker in workers} == {"default"}
        assert sorted(len(worker["models"]) for worker in workers) == [1, 1, 2]
    finally:
        assert stop(process) == 0


def test_an_environment_that_is_there_is_used_without_any_source_of_packages(site: Swell) -> None:
    config, kept = site.folder / "swell.toml", site.folder / "kept.toml"
    config.rename(kept)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "UV_OFFLINE": "1"}
    try:
        done = site.run("run", "one.py:tell", "-i", "text=again", "--json", **offline)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["output"]["tinypkg"] == "1"
        assert "is made" not in done.stderr
    finally:
        kept.rename(config)


def test_such_a_model_runs_and_is_checked_without_a_server(site: Swell) -> None:
    told = site.json("run", "one.py:draw", "-i", "grey=7", "--seed", "5")
    assert told["seed"] == 5
    assert (site.folder / told["output"]).read_bytes().startswith(b"\x89PNG")
    wrong = site.run("run", "one.py:draw", "-i", "grey=much")
    assert wrong.returncode == 2
    assert "/grey" in wrong.stderr
    reports = site.json("models", "check", "one.py")
    assert {report["model"]: report["error"] for report in reports} == {
        "me/needs-1": None,
        "me/draws-1": None,
    }


def test_one_worker_cannot_have_two_environments_and_says_what_to_do(site: Swell) -> None:
    done = site.run("worker", "-m", "one.py", "-m", "two.py", "--token", "x")
    assert done.returncode == 2
    assert "--models two.py" in done.stderr


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ('dependencies = ["tinypkg==3"]', ["tinypkg==3", "worker.wheels_dir"]),
        ('dependencies = ["pydantic==1.10.13"]', ["pydantic 2.7", "pydantic.v1"]),
        ('requires-python = "==3.99.*"', ["3.99", "requires-python", "3."]),
        ('dependencies = "tinypkg"', ["dependencies", "list"]),
    ],
)
def test_what_cannot_be_had_is_told_in_words(site: Swell, block: str, words: list[str]) -> None:
    (site.folder / "wrong.py").write_text(f"# /// script\n# {block}\n# ///\nimport swell\n")
    for command in (("models", "check"), ("run",), ("up", "--port", "0", "-m")):
        done = site.run(*command, "wrong.py")
        assert done.returncode == 2, done.stderr
        assert [word for word in words if word not in done.stderr] == []
        assert "Traceback" not in done.stderr


@pytest.fixture
def environments(tmp_path: Path, wheels: Path) -> Environments:
    return Environments(tmp_path / "environments", dict(os.environ), wheels)


BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "tinysource-1-py3-none-any.whl"
    told = "tinysource-1.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as file:
        file.writestr("tinysource.py", "")
        file.writestr(
            f"{told}/METADATA", "Metadata-Version: 2.1\\nName: tinysource\\nVersion: 1\\n"
        )
        file.writestr(
            f"{told}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        )
        file.writestr(f"{told}/RECORD", "")
    return name
"""

NEEDS = Needs(("tinypkg==2",))


def version_in(environments: Environments, python: str) -> str:
    code = "import tinypkg, swell.runtime.model_process_main; print(tinypkg.VERSION)"
    done = subprocess.run(
        [python, "-c", code],
        env=environments.variables(python),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_those_who_need_it_at_once_make_it_once(environments: Environments) -> None:
    told: list[str] = []
    pythons: list[str] = []
    makers = [
        threading.Thread(
            target=lambda: pythons.append(environments.python(NEEDS, "a.py", told.append))
        )
        for _ in range(3)
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(set(pythons)) == 1
    assert len(pythons) == 3
    assert sum("is made" in line for line in told) == 1
    assert version_in(environments, pythons[0]) == "2"


def test_what_a_killed_maker_left_is_not_taken_for_done(
    environments: Environments, tmp_path: Path, wheels: Path
) -> None:
    place = environments.place(NEEDS)
    code = (
        "import sys; from pathlib import Path; from swell.runtime.pep723 import Needs\n"
        "from swell.runtime.venvs import Environments; import os\n"
        f"made = Environments(Path({str(tmp_path / 'environments')!r}), dict(os.environ),"
        f" Path({str(wheels)!r}))\n"
        f"made.python(Needs({NEEDS.requirements!r}), 'a.py')\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", code], env=clean_environment(), start_new_session=True
    )
    while not (place / "pyvenv.cfg").exists():
        assert maker.poll() is None
    maker.kill()
    maker.wait(PATIENCE_S)
    assert place.exists()
    assert version_in(environments, environments.python(NEEDS, "a.py")) == "2"


def test_one_that_lost_its_python_is_made_anew(environments: Environments) -> None:
    python = Path(environments.python(NEEDS, "a.py"))
    python.unlink()
    assert environments.python(NEEDS, "a.py") == str(python)
    assert version_in(environments, str(python)) == "2"


def test_what_has_no_wheel_is_built_and_that_it_takes_long_is_told(
    tmp_path: Path, wheels: Path
) -> None:
    both = tmp_path / "wheels-and-source"
    shutil.copytree(wheels, both)
    source = tmp_path / "tinysource-1"
    source.mkdir()
    # A build backend of its own, so that nothing is fetched for it.
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: tinysource\nVersion: 1\n")
    (source / "backend.py").write_text(BACKEND)
    with tarfile.open(both / "tinysource-1.tar.gz", "w:gz") as archive:
        archive.add(source, "tinysource-1")
    told: list[str] = []
    found = Environments(tmp_path / "environments", dict(os.environ), both)
    python = found.python(Needs(("tinypkg==2", "tinysource==1")), "a.py", told.append)
    assert version_in(found, python) == "2"
    assert ["from source" in line for line in told] == [False, True, False]


def test_a_folder_of_wheels_that_is_not_there_is_told(tmp_path: Path) -> None:
    lost = Environments(tmp_path / "environments", dict(os.environ), tmp_path / "nowhere")
    with pytest.raises(EnvironmentFailed, match=r"worker\.wheels_dir"):
        lost.python(NEEDS, "a.py")
    assert not lost.place(NEEDS).exists()
