"""An image of cog's, run by podman itself."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_rig import BASE, limits, podman, until

from swell.engines import cog
from swell.sdk.context import Item
from swell.sdk.define import define

# The first test of the folder makes the base image.
pytestmark = pytest.mark.timeout(600)

#: Where `.ci/services` installs cog.
VENV = Path(__file__).parents[2] / ".venv" / "clients" / "cog"

IMAGE = "localhost/swell-test-cog:1"

RUNNER = """
from cog import BaseRunner


class Runner(BaseRunner):
    def run(self, text: str) -> str:
        return text.upper()
"""

SCHEMA = {
    "components": {
        "schemas": {
            "Input": {
                "type": "object",
                "required": ["text"],
                "properties": {"text": {"type": "string", "maxLength": 5}},
            },
            "Output": {"type": "string"},
        }
    }
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `cog build` leaves: cog, the project, and the schema as a label."""
    packages = VENV / "lib" / "python3.13" / "site-packages"
    if not (packages / "cog").exists():
        pytest.skip("cog is not there for the Python of the base image: .ci/services")
    folder = tmp_path_factory.mktemp("project")
    (folder / "run.py").write_text(RUNNER)
    (folder / ".cog").mkdir()
    (folder / ".cog" / "openapi_schema.json").write_text(json.dumps(SCHEMA))

    python = tmp_path_factory.mktemp("python") / "python"
    python.write_text('#!/bin/sh\nexec python3 "$@"\n')

    lean = tmp_path_factory.mktemp("lean") / "packages"
    shutil.copytree(packages, lean, ignore=shutil.ignore_patterns("pip*", "PIL", "pillow*"))

    def buildah(*words: str) -> str:
        done = subprocess.run(["buildah", *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    made = buildah("from", BASE)
    try:
        buildah("copy", made, str(lean), "/packages")
        buildah("copy", made, str(folder), "/src")
        # Debian has no `python`, by which cog starts the process of its model.
        buildah("copy", "--chmod", "755", made, str(python), "/usr/local/bin/python")
        settings = {
            "--env": ("PYTHONPATH=/packages", "COG_PREDICT_TYPE_STUB=run.py:Runner"),
            "--label": (f"run.cog.openapi_schema={json.dumps(SCHEMA)}",),
            "--workingdir": ("/src",),
            "--cmd": ("python3 -m cog.server.http",),
        }
        words = [word for name, each in settings.items() for one in each for word in (name, one)]
        buildah("config", *words, made)
        buildah("commit", "--quiet", made, IMAGE)
    finally:
        buildah("rm", made)
    yield IMAGE
    podman("rmi", "--force", IMAGE)


def test_an_image_is_a_model_as_long_as_its_process_runs(image: str, tmp_path: Path) -> None:
    # What podman needs on a machine such as this one, before its command.
    engine = tmp_path / "podman"
    engine.write_text(f'#!/bin/sh\nexec {shutil.which("podman")} --runtime runc "$@"\n')
    engine.chmod(0o755)
    how = cog.ContainerOptions(engine=str(engine), network="host", options=tuple(limits()))
    made = cog.image("demo/upper", image, how)
    input_type = define(made).input_type
    assert define(made).input_schema["properties"]["text"]["maxLength"] == 5
    model = made()
    model.load("cpu")
    try:
        assert _containers() == 1
        assert model.run([Item(input_type.model_validate({"text": "fox"}))]) == ["FOX"]
    finally:
        model.offload()
    until(lambda: _containers() == 0, "the container is gone")


def _containers() -> int:
    found = podman("ps", "--all", "--filter", f"ancestor={IMAGE}", "--quiet")
    return len(found.stdout.split())
