"""Examples of the pages on models run as they stand there, with a picture and weights at hand."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from commandline import PATIENCE_S, clean_environment
from swell.model import load_models

MODELS = Path(__file__).parents[2] / "docs" / "models"


def block(page: str, holding: str) -> str:
    """Return the block of Python of a page that has these words in it."""
    blocks = re.findall(r"```python\n(.*?)```", (MODELS / page).read_text("utf-8"), re.DOTALL)
    [found] = [each for each in blocks if holding in each]
    return found


def ran(script: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_photo_is_painted_and_scored_as_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("swell_models")
    ramp = np.linspace(0, 255, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint8)
    PIL.Image.fromarray(ramp).save(tmp_path / "photo.jpg")
    said = ran(f"{block('README.md', 'Painter')}\nprint(painted.shape, float(score))", tmp_path)
    shape, score = said.rsplit(maxsplit=1)
    assert shape == "(96, 128, 3)"
    assert 0 <= float(score) <= 1


@pytest.mark.parametrize("name", ["remote/theirs", "remote/other"])
def test_a_model_that_runs_elsewhere_is_one_as_the_page_says(name: str, tmp_path: Path) -> None:
    path = tmp_path / "theirs.py"
    path.write_text(block("remote.md", name))
    [definition] = load_models(str(path))
    assert definition.name == name
    assert "prompt" in definition.input_schema["properties"]


def test_weights_are_pulled_and_loaded_as_the_page_says(tmp_path: Path) -> None:
    header = {"weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    described = json.dumps(header).encode()
    values = np.arange(4, dtype="<f4").tobytes()
    file = tmp_path / "models" / "unet" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(len(described).to_bytes(8, "little") + described + values)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "models" / "weights.toml").write_text(
        'model = "acme/poster"\nversion = "1"\n[weights]\n'
        f'"unet/model.safetensors" = "sha256:{digest}"\n'
    )
    lines = block("weights.md", "await pull(").replace("/var/cache/swell", str(tmp_path / "cache"))
    # The page is a piece of a program, in which there is a loop already.
    imports, rest = lines.split("\n\n", maxsplit=1)
    body = "\n".join(f"    {line}" for line in rest.splitlines())
    show = '    print(unet["weight"].tolist())'
    script = f"import asyncio\n{imports}\nasync def main():\n{body}\n{show}\nasyncio.run(main())"
    assert "[[0.0, 1.0], [2.0, 3.0]]" in ran(script, tmp_path)
