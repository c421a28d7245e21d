"""Finding models by reference, and their versions."""

import sys
from pathlib import Path

import pytest

from swell.core.errors import InvalidModel, NotFound
from swell.sdk.model_loader import load_models

TWO = """
import swell

@swell.model("test/one")
def one(text: str) -> str:
    return text

@swell.model("test/two", files=["weights.bin"])
def two(text: str) -> str:
    return text
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(TWO)
    (tmp_path / "weights.bin").write_bytes(b"1")
    return path


def test_a_file_gives_its_models_in_their_order(file: Path) -> None:
    assert [each.name for each in load_models(str(file))] == ["test/one", "test/two"]


def test_an_attribute_of_a_file_gives_that_model(file: Path) -> None:
    assert [each.name for each in load_models(f"{file}:two")] == ["test/two"]


def test_a_module_gives_its_models() -> None:
    names = [each.name for each in load_models("swell.models.stub")]
    assert names == ["demo/noop", "demo/upper", "demo/echo-picture", "demo/crash"]
    assert [each.name for each in load_models("swell.models.stub:upper")] == ["demo/upper"]


def test_a_built_in_model_is_found_by_its_name() -> None:
    assert [each.name for each in load_models("demo/upper")] == ["demo/upper"]
    assert len(load_models("demo/*")) == 4


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_model.py").write_text("GREETING = 'hi'\n")
    path = tmp_path / "greets.py"
    path.write_text(
        "import swell\nfrom neighbour_of_model import GREETING\n"
        "@swell.model('test/greets')\ndef greets(name: str) -> str:\n    return GREETING + name\n"
    )
    try:
        assert load_models(str(path))[0].name == "test/greets"
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        ("missing.py", "there is no file 'missing.py'"),
        ("no_such_module", "there is no module 'no_such_module'"),
        ("swell.models.stub:nothing", "no attribute 'nothing'"),
        ("demo/nothing", "there are demo/noop, demo/upper"),
        ("swell/nothing", "no built-in model"),
    ],
)
def test_what_is_not_there_is_named(ref: str, told: str) -> None:
    with pytest.raises(NotFound, match=told):
        load_models(ref)


def test_a_file_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(InvalidModel, match=r"holds no model: put @swell\.model"):
        load_models(str(path))


def test_an_error_in_a_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import swell\n\n1 / 0\n")
    with pytest.raises(InvalidModel, match=r"ZeroDivisionError: .*\(line 3 of broken\.py\)"):
        load_models(str(path))


def test_a_missing_dependency_of_a_file_is_not_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "needs.py"
    path.write_text("import a_package_that_is_not_there\n")
    with pytest.raises(InvalidModel, match="No module named 'a_package_that_is_not_there'"):
        load_models(str(path))


def test_a_name_may_be_given_once(tmp_path: Path) -> None:
    path = tmp_path / "twice.py"
    path.write_text(TWO.replace("test/two", "test/one"))
    with pytest.raises(InvalidModel, match="defines test/one twice"):
        load_models(str(path))


def test_the_version_changes_with_source_and_weights_and_nothing_else(tmp_path: Path) -> None:
    def version(name: str, source: str, weights: bytes) -> str:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "weights.bin").write_bytes(weights)
        (folder / "mine.py").write_text(source)
        return load_models(f"{folder / 'mine.py'}:two")[0].version()

    first = version("a", TWO, b"1")
    assert version("b", TWO, b"1") == first
    assert version("c", TWO + "# other\n", b"1") != first
    assert version("d", TWO, b"2") != first
    assert len(first) == 12


def test_a_missing_weights_file_is_named(file: Path) -> None:
    (file.parent / "weights.bin").unlink()
    with pytest.raises(InvalidModel, match=r"test/two: cannot read weights\.bin"):
        load_models(f"{file}:two")[0].version()
