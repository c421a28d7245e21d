"""Which Python an environment is made with, told by an installer and a Python that are scripts."""

import os
import sys
from pathlib import Path

import pytest

from swell.runtime.pep723 import Needs
from swell.runtime.venvs import EnvironmentFailed, Environments

pytestmark = pytest.mark.skipif(
    Path(sys.executable).with_name("uv").exists(), reason="that one would be taken"
)

#: Makes the folder of an environment, and has wheels for some Pythons only.
UV = """#!/bin/sh
echo "$@" >> {log}
case "$1 $2" in
  "venv "*)
    for last; do :; done
    mkdir -p "$last/bin"
    echo "$5" > "$last/made-with"
    : > "$last/bin/python"
    ;;
  "pip install")
    made_with=$(cat "$(dirname "$(dirname "$5")")/made-with")
    case "$* $made_with" in {unfit}) ;; {fits}) exit 0 ;; esac
    echo "ERROR: {said}"
    exit 1
    ;;
  *) exit 1 ;;
esac
"""

OLDER = """#!/bin/sh
echo '["{path}", 3, 12, 1]'
"""

NEEDS = Needs(("old-package<2",))


def scripted(
    tmp_path: Path,
    fits: str,
    *,
    unfit: str = "",
    said: str = "No matching distribution",
    wheels: Path | None = None,
) -> Environments:
    """Return what makes environments with an older Python at hand.

    Args:
        tmp_path: Where all lies.
        fits: Pattern of the shell of what can be installed, with which Python: `*only-binary*`.
        unfit: Of what cannot, whatever fits.
        said: What the installer says of that.
        wheels: A folder to install from, and from nowhere else.
    """
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "log"
    for name, text in {
        "uv": UV.format(log=log, fits=fits, unfit=unfit or "none", said=said),
        "python3.12": OLDER.format(path=tools / "python3.12"),
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = os.pathsep.join([str(tools), "/usr/bin", "/bin"])
    variables = {**os.environ, "PATH": path}
    return Environments(tmp_path / "environments", variables, wheels)


def asked(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "log").read_text().splitlines()
    return ["wheels" if "only-binary" in line else "all" for line in lines if "install" in line]


def made_with(python: str) -> str:
    return (Path(python).parents[1] / "made-with").read_text().strip()


def test_this_python_is_taken_where_it_has_wheels(tmp_path: Path) -> None:
    told: list[str] = []
    python = scripted(tmp_path, "*only-binary*").python(NEEDS, "a.py", told.append)
    assert made_with(python) == sys.executable
    assert asked(tmp_path) == ["wheels"]
    assert len(told) == 2


def test_another_python_is_taken_where_only_that_has_wheels(tmp_path: Path) -> None:
    told: list[str] = []
    found = scripted(tmp_path, "*only-binary*python3.12")
    python = found.python(NEEDS, "a.py", told.append)
    assert made_with(python).endswith("tools/python3.12")
    assert set(asked(tmp_path)) == {"wheels"}
    assert any("a.py runs with" in line and "python3.12" in line for line in told)
    assert found.is_there(NEEDS), "it is found again by those who start next"


def test_where_no_python_has_wheels_it_is_built_with_this_one(tmp_path: Path) -> None:
    told: list[str] = []
    found = scripted(tmp_path, f"*{sys.executable}", unfit="*only-binary*")
    python = found.python(NEEDS, "a.py", told.append)
    assert made_with(python) == sys.executable
    assert asked(tmp_path)[0] == "wheels"
    assert asked(tmp_path)[-1] == "all"
    assert any("can take long" in line for line in told)


def test_what_cannot_be_had_leaves_nothing_behind(tmp_path: Path) -> None:
    found = scripted(tmp_path, "nothing")
    with pytest.raises(EnvironmentFailed, match="no package fits"):
        found.python(NEEDS, "a.py")
    assert not found.place(NEEDS).exists()


def test_without_an_index_no_other_python_is_tried(tmp_path: Path) -> None:
    found = scripted(tmp_path, "nothing", said="No matching distribution; Connection refused")
    told: list[str] = []
    with pytest.raises(EnvironmentFailed):
        found.python(NEEDS, "a.py", told.append)
    assert asked(tmp_path) == ["wheels", "all"]
    assert len(told) == 1, "nobody knows whether there are wheels"


@pytest.mark.parametrize("said", ["Invalid requirement: 'a b'", "Failed to parse: 'a b'"])
def test_a_requirement_that_nobody_understands_is_told_at_once(tmp_path: Path, said: str) -> None:
    found, told = scripted(tmp_path, "nothing", said=said), list[str]()
    with pytest.raises(EnvironmentFailed, match=r"not written as installers read them: correct it"):
        found.python(NEEDS, "a.py", told.append)
    assert asked(tmp_path) == ["wheels"]
    assert len(told) == 1, "nothing of wheels"
    assert not found.place(NEEDS).exists()


def test_a_folder_of_wheels_without_any_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "README.txt").write_text("")
    found, told = scripted(tmp_path, "*", wheels=tmp_path / "wheels"), list[str]()
    with pytest.raises(
        EnvironmentFailed, match=r"wheels has no wheels, and the worker installs only"
    ):
        found.python(NEEDS, "a.py", told.append)
    assert len(told) == 1, "nothing of this Python"
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
def test_where_there_are_wheels_alone_nothing_is_said_to_be_built(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "other-1-py3-none-any.whl").write_text("")
    found, told = scripted(tmp_path, "nothing", wheels=tmp_path / "wheels"), list[str]()
    with pytest.raises(EnvironmentFailed, match="no package fits"):
        found.python(NEEDS, "a.py", told.append)
    assert set(asked(tmp_path)) == {"wheels"}
    assert len(told) == 1
    (tmp_path / "wheels" / "old-package-1.tar.gz").write_text("")
    with pytest.raises(EnvironmentFailed, match="no package fits"):
        found.python(NEEDS, "a.py", told.append)
    assert "all" in asked(tmp_path)
    assert "built from source" in told[-1]


def test_a_line_of_the_installer_is_never_too_long(tmp_path: Path) -> None:
    found = scripted(tmp_path, "nothing", said="No matching distribution " + "9.9, " * 1000)
    with pytest.raises(EnvironmentFailed) as raised:
        found.python(NEEDS, "a.py")
    assert len(raised.value.detail) < 1500
