"""How environments are made, told by a uv that is a script."""

import os
import sys
from pathlib import Path

import pytest

from swell.runtime.pep723 import Needs
from swell.runtime.venvs import EnvironmentFailed, Environments

#: Makes the folder of an environment, and has wheels of some requirements only.
UV = """#!/bin/sh
echo "$UV_DEFAULT_INDEX $@" >> {log}
case "$*" in
  *" venv "*)
    for last; do :; done
    mkdir -p "$last/bin"
    : > "$last/bin/python"
    ;;
  {fits}) ;;
  *) echo "error: {said}"; exit 1 ;;
esac
"""

NEEDS = Needs(("old-package<2",))

NO_WHEEL = "Because old-package has no usable wheels, your requirements are unsatisfiable."


def scripted(
    tmp_path: Path, fits: str, *, said: str = NO_WHEEL, wheels: Path | None = None
) -> Environments:
    """Return what makes environments with such a uv.

    Args:
        tmp_path: Where all lies.
        fits: Pattern of the shell of what can be installed: `*only-binary*`.
        said: What uv says of everything else.
        wheels: A folder to install from, and from nowhere else.
    """
    uv = tmp_path / "uv"
    uv.write_text(UV.format(log=tmp_path / "log", fits=fits, said=said))
    uv.chmod(0o755)
    variables = {**os.environ, "PIP_INDEX_URL": "https://index.example"}
    return Environments(tmp_path / "environments", variables, wheels, uv=str(uv))


def asked(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "log").read_text().splitlines()
    return ["wheels" if "only-binary" in line else "all" for line in lines if "install" in line]


def test_this_python_is_taken_and_the_index_of_pip(tmp_path: Path) -> None:
    told: list[str] = []
    found = scripted(tmp_path, "*only-binary*")
    python = found.python(NEEDS, "a.py", told.append)
    assert Path(python).exists()
    assert found.is_there(NEEDS), "it is found again by those who start next"
    assert asked(tmp_path) == ["wheels"]
    assert len(told) == 2
    first = (tmp_path / "log").read_text().splitlines()[0]
    assert f"--python {sys.executable} " in first
    assert first.startswith("https://index.example ")


def test_where_there_is_no_wheel_it_is_built(tmp_path: Path) -> None:
    told: list[str] = []
    scripted(tmp_path, r"*bin/python\ --\ *").python(NEEDS, "a.py", told.append)
    assert asked(tmp_path) == ["wheels", "all"]
    assert any("can take long" in line for line in told)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Because old-package was not found in the package registry", "no package fits"),
        ("Failed to parse: `a b`", r"not written as installers read them: correct it"),
        ("because old-package needs numpy, requirements are unsatisfiable", "do not go together"),
        ("because you require pydantic==1 and pydantic>=2.7", r"pydantic 2.7 or newer"),
        ("Failed to fetch: error sending request; dns error", "index cannot be reached"),
        ("No interpreter found for Python ==3.99.*", "requires-python"),
    ],
)
def test_what_cannot_be_had_is_told_at_once_and_leaves_nothing(
    tmp_path: Path, said: str, words: str
) -> None:
    found, told = scripted(tmp_path, "nothing", said=said), list[str]()
    with pytest.raises(EnvironmentFailed, match=words):
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
    assert not told
    assert not (tmp_path / "log").exists()


def test_a_line_of_the_installer_is_never_too_long(tmp_path: Path) -> None:
    found = scripted(tmp_path, "nothing", said="no version of this: " + "9.9, " * 1000)
    with pytest.raises(EnvironmentFailed) as raised:
        found.python(NEEDS, "a.py")
    assert len(raised.value.detail) < 1500
