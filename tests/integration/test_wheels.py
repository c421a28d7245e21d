"""Both wheels, built from this checkout and installed where nothing else is."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pages import Reader, block

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import licences  # noqa: E402 - it lies among the pages

#: Finds every built-in model in the new environment, and runs two of them.
TRY = """
import json, pathlib, swell, swell_models
from swell.sdk.context import Item
from swell.sdk.model_loader import load_models
found = []
core, demos = pathlib.Path(swell.__file__).with_name("models"), pathlib.Path(swell_models.__file__)
for path in sorted([*core.glob("[a-z]*.py"), *demos.parent.glob("[a-z]*.py")]):
    text = path.read_text()
    found += load_models("swell/" + path.stem.replace("_", "-")) if 'name = "swell/' in text else []
for each in found:
    if each.name in ("swell/portraits", "swell/speech"):
        model = each.make()
        model.load("cpu")
        given = each.input_type.model_validate_json(json.dumps(each.facts.examples[0]))
        [result] = model.run([Item(given)])
        assert not isinstance(result, Exception), result
print(json.dumps({
    "versions": {each.name: each.version() for each in found},
    "files": [str(path) for each in found for path in each.files],
    "places": [swell.__file__, swell_models.__file__],
}))
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path) -> str:
    # Nothing of the checkout may stand in for what is not in a wheel.
    clean = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    words = list(map(str, command))
    ran = subprocess.run(words, capture_output=True, text=True, cwd="/", env=clean)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheels, built from a copy: what building leaves behind is not for the checkout."""
    if not (ROOT / "packages").is_dir():
        pytest.skip("not a checkout: there is nothing to build")
    folder = tmp_path_factory.mktemp("wheels")
    copy = folder / "copy"
    for part in ("src", "packages"):
        shutil.copytree(ROOT / part, copy / part)
    # With the app as `make web` has built it, if it has: then building the wheel needs no npm.
    shutil.copytree(ROOT / "web", copy / "web", ignore=shutil.ignore_patterns("node_modules"))
    for part in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / part, copy)
    shutil.copytree(ROOT / ".ci", copy / ".ci")
    (copy / ".venv").symlink_to(sys.prefix)
    said = run(copy / ".ci" / "wheels")
    found = sorted((copy / "dist").glob("*.whl"))
    assert said == f"pip install -c {copy}/dist/constraints.txt '{found[0]}[embedded]'\n"
    return found


def test_the_wheel_of_weights_has_its_licences_and_the_other_has_no_weights(
    wheels: list[Path],
) -> None:
    swell, weights = (zipfile.ZipFile(path).namelist() for path in wheels)
    assert not [name for name in swell if name.endswith((".onnx", ".safetensors"))]
    assert [name for name in weights if name.endswith("weights/upscale.onnx")]
    assert [name for name in weights if name.endswith("licenses/NOTICE.md")]
    assert [name for name in weights if name.endswith("licenses/LICENSE")]
    assert wheels[1].stat().st_size < 80_000_000


def test_the_wheel_has_the_web_app_and_no_sources_of_it(wheels: list[Path]) -> None:
    names = zipfile.ZipFile(wheels[0]).namelist()
    assert "swell/web/index.html" in names
    assert [name for name in names if name.startswith("swell/web/assets/index-")]
    assert not [name for name in names if name.endswith((".map", ".svelte", ".ts"))]
    with zipfile.ZipFile(wheels[0]) as wheel:
        app = [each for each in wheel.infolist() if each.filename.startswith("swell/web/")]
    assert sum(each.compress_size for each in app) < 2_000_000


def test_the_wheel_has_the_licence_of_each_package_that_may_be_in_the_app(
    wheels: list[Path],
) -> None:
    with zipfile.ZipFile(wheels[0]) as wheel:
        text = wheel.read("swell/web/licences.txt").decode()
        metadata = wheel.read(f"{'-'.join(wheels[0].name.split('-')[:2])}.dist-info/METADATA")
    rule = "=" * 80 + "\n"
    _, *parts = text.split(rule)
    heads = dict(head.strip().split(": ") for head in parts[::2])
    assert heads == licences.bundled(json.loads((ROOT / "web" / "package-lock.json").read_text()))
    begins = {
        "MIT": "Permission is hereby granted",
        "Apache-2.0": "Apache License",
        "OFL-1.1": "SIL OPEN FONT LICENSE Version 1.1",
    }
    for licence, words in zip(heads.values(), parts[1::2], strict=True):
        assert begins[licence] in words
        assert "Copyright" in words
    expression = re.search(r"^License-Expression: (.+)$", metadata.decode(), re.MULTILINE)
    assert expression
    assert set(heads.values()) <= set(expression[1].split(" AND "))


@pytest.fixture(scope="module")
def buyer(wheels: list[Path]) -> Reader:
    """Somebody in the clone with the wheels, who does what docs/install.md says."""
    # Nothing of the checkout may stand in for what is not in a wheel.
    told = {"PYTHONPATH": "", "PIP_NO_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return Reader(wheels[0].parents[1], told, patience_s=500)


@pytest.fixture(scope="module")
def python(buyer: Reader) -> Path:
    """Python of the environment into which both wheels are installed by the page's lines."""
    lines = block("docs/install.md", "python3 -m venv elsewhere", "sh").splitlines()
    assert lines[-1].startswith("swell demo")
    # Where Python comes without pip, it was uv that made this environment.
    has_pip = importlib.util.find_spec("ensurepip") is not None
    instead = () if has_pip else (("python3 -m venv", "uv venv --seed"),)
    buyer.does("\n".join(lines[:-1]), *instead)
    return buyer.folder / "elsewhere" / "bin" / "python"


def test_a_picture_is_drawn_in_the_new_environment(buyer: Reader, python: Path) -> None:
    lines = block("docs/install.md", "python3 -m venv elsewhere", "sh").splitlines()
    said = buyer.does(f". elsewhere/bin/activate\n{lines[-1]}").stdout
    assert python.is_file()
    assert list((buyer.folder / "pictures").iterdir()), said


def test_constraints_say_where_the_weights_lie_on_another_machine(
    buyer: Reader, tmp_path: Path
) -> None:
    shutil.copytree(buyer.folder / "dist", tmp_path / "dist")
    before = (tmp_path / "dist" / "constraints.txt").read_text()
    Reader(tmp_path).does(block("docs/install.md", "sed -i", "sh"))
    after = (tmp_path / "dist" / "constraints.txt").read_text()
    assert after == before.replace(f"file://{buyer.folder}/", f"file://{tmp_path}/") != before
    [wheel] = [line.partition("file://")[2] for line in after.splitlines() if "file://" in line]
    assert Path(wheel).is_file()


def test_both_wheels_install_and_serve_the_built_in_models(python: Path) -> None:
    new = python.parents[1]
    told = json.loads(run(python, "-c", TRY))
    assert all(place.startswith(str(new)) for place in [*told["places"], *told["files"]])
    assert {"swell/icons", "swell/paint", "swell/portraits"} <= set(told["versions"])
    assert "swell" in run(new / "bin" / "swell", "--version")


def can_cut_the_network() -> bool:
    """Whether this user may make a network namespace."""
    own = ["--map-root-user"] if os.getuid() else []
    try:
        tried = subprocess.run(["unshare", "--net", *own, "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return tried.returncode == 0


@pytest.mark.skipif(
    not can_cut_the_network() and "CI" not in os.environ,
    reason="no network namespace can be made here",
)
def test_without_a_network_a_spanish_prompt_goes_through_the_whole_default_pipeline(
    python: Path,
) -> None:
    offline = ROOT / "benchmarks" / "model_offline.py"
    told = json.loads(run(sys.executable, offline, "--python", python).splitlines()[-1])
    assert told["ok"], told
    assert told["value"] == 6
    assert told["detail"]["drawn"] == "a red fox in the snow"
