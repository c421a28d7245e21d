from pathlib import Path

import pytest

from swell.core.errors import InvalidModel
from swell.runtime.pep723 import (
    NOTHING,
    Needs,
    allows,
    distribution,
    needs_in,
    needs_of,
    parted,
)

BLOCK = """#!/usr/bin/env python
# /// script
# requires-python = ">=3.11,<3.13"
# dependencies = [
#   "torch<2.3",  # the last that it runs with
#
#   "einops",
# ]
# ///
import torch
"""


def test_a_block_tells_what_is_needed() -> None:
    assert needs_in(BLOCK) == Needs(("einops", "torch<2.3"), ">=3.11,<3.13")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "import torch\n",
        "# /// pyproject\n# dependencies = ['a']\n# ///\n",
        "# /// script\n# dependencies = ['a']\n",
        "# /// script\n# dependencies = ['a']\nimport torch\n# ///\n",
        "# /// script\n# ///\n",
        "x = '''\n  # /// script\n  # dependencies = ['a']\n  # ///\n'''\n",
    ],
)
def test_without_a_whole_block_nothing_is_needed(text: str) -> None:
    assert needs_in(text) == NOTHING
    assert not needs_in(text)


@pytest.mark.parametrize(
    ("inner", "words"),
    [
        ("dependencies = [", "not TOML"),
        ("dependencies = 'einops'", "list"),
        ("dependencies = [1]", "list"),
        ("dependencies = ['']", "list"),
        ("requires-python = 3", "requires-python"),
        ("requires-python = 'three'", "requires-python"),
    ],
)
def test_a_block_that_cannot_be_meant_is_refused(inner: str, words: str) -> None:
    with pytest.raises(InvalidModel, match=words):
        needs_in(f"# /// script\n# {inner}\n# ///\n")


def test_two_blocks_are_one_too_many() -> None:
    with pytest.raises(InvalidModel, match="several"):
        needs_in(BLOCK + BLOCK)


@pytest.mark.parametrize(
    ("specifiers", "inside", "outside"),
    [
        ("", "3.11.0", None),
        (">=3.11", "3.11.0", "3.10.9"),
        (">=3.11,<3.13", "3.12.9", "3.13.0"),
        ("==3.11.*", "3.11.7", "3.12.0"),
        ("!=3.12.*", "3.11.7", "3.12.1"),
        ("~=3.11", "3.14.0", "4.0.0"),
        ("~=3.11.4", "3.11.9", "3.12.0"),
        (">3.11.4", "3.11.5", "3.11.4"),
        ("<=3.12", "3.12.0", "3.12.1"),
        (" >= 3.11 , != 3.11.3 ", "3.11.2", "3.11.3"),
    ],
)
def test_versions_of_python_are_within_specifiers_or_not(
    specifiers: str, inside: str, outside: str | None
) -> None:
    assert allows(specifiers, inside)
    assert outside is None or not allows(specifiers, outside)


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("numpy==1.26.4", "numpy"),
        ("Typing_Extensions", "typing-extensions"),
        ("pillow[webp]>=9; python_version<'3.13'", "pillow"),
        ("zope.interface", "zope-interface"),
        ("mine @ file:///wheels/mine.whl", "mine"),
    ],
)
def test_a_requirement_names_a_distribution(requirement: str, name: str) -> None:
    assert distribution(requirement) == name


def test_models_that_need_the_same_share_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "first.py").write_text(BLOCK)
    (tmp_path / "second.py").write_text(BLOCK.replace("torch\n", "einops\n"))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text(BLOCK)
    (tmp_path / "plain.py").write_text("import swell\n")
    refs = ["first.py", "swell/icons", "second.py:model", "plain.py", "package.inner", "nowhere.py"]
    parts = parted(refs)
    assert [part.refs for part in parts] == [
        ("first.py", "second.py:model", "package.inner"),
        ("swell/icons", "plain.py", "nowhere.py"),
    ]
    assert needs_of("nowhere") == NOTHING


def test_whose_block_it_is_stands_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "poster.py"
    path.write_text("# /// script\n# dependencies = [\n# ///\n")
    with pytest.raises(InvalidModel, match=r"poster\.py"):
        needs_of(str(path))
