"""Examples of the pages on models run as they stand there, with a picture and weights at hand."""

import hashlib
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from commandline import Swell
from pages import block, ran
from swell.sdk.model_loader import load_models


def test_a_photo_is_painted_and_scored_as_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("swell_models")
    ramp = np.linspace(0, 255, 96 * 128 * 3).reshape(96, 128, 3).astype(np.uint8)
    PIL.Image.fromarray(ramp).save(tmp_path / "photo.jpg")
    said = ran(
        f"{block('docs/models/README.md', 'Painter')}\nprint(painted.shape, float(score))", tmp_path
    )
    shape, score = said.rsplit(maxsplit=1)
    assert shape == "(96, 128, 3)"
    assert 0 <= float(score) <= 1


def test_models_that_run_elsewhere_are_some_as_the_page_says(tmp_path: Path) -> None:
    declared = {
        "remote/theirs": block("docs/models/remote.md", "remote/theirs"),
        "remote/other": block("docs/models/remote.md", "remote/other"),
    }
    for name, text in declared.items():
        path = tmp_path / f"{name.partition('/')[2]}.py"
        path.write_text(text)
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
    lines = block("docs/models/weights.md", "await pull(").replace(
        "/var/cache/swell", str(tmp_path / "cache")
    )
    # The page is a piece of a program, in which there is a loop already.
    imports, rest = lines.split("\n\n", maxsplit=1)
    body = "\n".join(f"    {line}" for line in rest.splitlines())
    show = '    print(unet["weight"].tolist())'
    script = f"import asyncio\n{imports}\nasync def main():\n{body}\n{show}\nasyncio.run(main())"
    assert "[[0.0, 1.0], [2.0, 3.0]]" in ran(script, tmp_path)


def test_an_output_of_several_kinds_is_declared_as_the_page_says(tmp_path: Path) -> None:
    declared = block("examples/multimodal/README.md", "class Postcard")
    (tmp_path / "card.py").write_text(
        f"""
from pydantic import BaseModel
import PIL.Image
import swell

{declared}

@swell.model("acme/card")
def card(text: str) -> Postcard:
    return Postcard(
        text=text,
        picture=swell.Image(PIL.Image.new("RGB", (8, 8))),
        voice=swell.Audio(b"voice", name="voice.wav"),
        page=swell.File(b"<p>page</p>", content_type="text/html", name="card.html"),
    )
"""
    )
    told = Swell(tmp_path).json("run", "card.py", "-i", "text=hello")
    suffixes = {name: Path(value).suffix for name, value in told["output"].items()}
    assert suffixes == {"text": "", "picture": ".png", "voice": ".wav", "page": ".html"}
    assert all((tmp_path / each).is_file() for each in told["files"])
    assert len(told["files"]) == 3


def test_the_weights_that_come_with_swell_are_where_their_page_says(tmp_path: Path) -> None:
    pytest.importorskip("swell_models")
    lines = block("packages/swell-models/README.md", "upscale.onnx")
    [asked] = [line for line in lines.splitlines() if line.startswith("path(")]
    said = ran(lines.replace(asked, f"print({asked.partition('  #')[0]})"), tmp_path)
    assert Path(said.strip()).stat().st_size > 10_000
