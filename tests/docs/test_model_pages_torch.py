"""Examples of the page on weights that need torch, run as they stand there, on a CPU."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from commandline import Swell
from pages import block, ran

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from safetensors.torch import save_file  # noqa: E402

from swell.weights.safetensors_loader import load  # noqa: E402

PAGE = "docs/models/weights.md"

#: Each process imports torch, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

PATIENCE_S = 200


def on_cpu(script: str) -> str:
    assert '"cuda"' in script
    return script.replace('"cuda"', '"cpu"')


def test_a_checkpoint_is_converted_as_the_page_says(tmp_path: Path) -> None:
    torch.save({"weight": torch.arange(4.0)}, tmp_path / "model.ckpt")
    ran(block(PAGE, "model.ckpt"), tmp_path, PATIENCE_S)
    found = load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(found["weight"], np.arange(4, dtype=np.float32))


def test_a_model_has_the_weights_of_its_listing_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    file = tmp_path / "unet" / "model.safetensors"
    save_file({"weight": torch.arange(4.0)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (tmp_path / "weights.toml").write_text(
        'model = "acme/poster"\nversion = "1"\n[weights]\n'
        f'"unet/model.safetensors" = "sha256:{digest}"\n'
    )
    # The page's last lines are those of `load`: what makes a whole model of it follows them.
    (tmp_path / "poster.py").write_text(
        "import pydantic\n"
        + block(PAGE, "provided(__file__)")
        + """
        self.sum = float(tensors["weight"].sum())

    name = "acme/poster"
    Output = float

    class Input(pydantic.BaseModel):
        pass

    def run(self, items):
        return [self.sum for _ in items]
"""
    )
    swell = Swell(tmp_path)
    swell.ok("models", "pull", "weights.toml")
    shutil.rmtree(tmp_path / "unet")
    assert swell.ok("run", "poster.py").strip() == "6.0"


def test_tensors_become_those_of_a_network_as_the_page_says(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    save_file(layer.state_dict(), tmp_path / "model.safetensors")
    before = """
import torch
from pathlib import Path
path, config = Path("model.safetensors"), {"in_features": 3, "out_features": 2}
def Network(config):
    return torch.nn.Linear(**config)
"""
    after = """
import json
print(json.dumps([model(torch.ones(1, 3)).tolist(), load(path)["bias"].tolist()]))
"""
    script = before + on_cpu(block(PAGE, "load_state_dict(")) + after
    result, bias = json.loads(ran(script, tmp_path, PATIENCE_S))
    assert result == layer(torch.ones(1, 3)).tolist()
    assert bias == layer.bias.tolist()


def test_weights_leave_and_come_back_as_the_page_says(tmp_path: Path) -> None:
    save_file({"weight": torch.arange(4.0)}, tmp_path / "model.safetensors")
    before = "from pathlib import Path\npath = Path('model.safetensors')\n"
    after = "print(tensors['weight'].tolist())\n"
    script = before + on_cpu(block(PAGE, "TorchHostCopy.load")) + after
    assert ran(script, tmp_path, PATIENCE_S).strip() == "[0.0, 1.0, 2.0, 3.0]"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_what_was_compiled_is_kept_for_the_next_process_as_the_page_says(tmp_path: Path) -> None:
    lines = block(PAGE, "TorchCompiled(")
    told = re.sub(r"^(compiled\.\w+\(\))", r"print(\1)", lines, flags=re.MULTILINE)
    assert told.count("print(") == 1
    before = "import torch\n"
    before += "network, example, digests = torch.nn.Linear(3, 2), torch.ones(1, 3), ['0' * 64]\n"
    assert ran(before + told, tmp_path, PATIENCE_S).split() == ["False"]
    assert ran(before + told, tmp_path, PATIENCE_S).split() == ["True"]
