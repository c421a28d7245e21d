"""The network of cold_start.py: a UNet of diffusers with 2 GB of weights, one pass, a tiny picture.

Two ways to the same bits: `Pass` is a model of Swell whose weights were pushed, and `plain` is what
a container does that has none: download, import, `from_pretrained`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

FILE = "diffusion_pytorch_model.safetensors"
IS_PLAIN = __name__ == "__main__"

if IS_PLAIN:
    # One connection, to the disk, as the usual download in an entry point.
    folder = Path(sys.argv[2])
    for name in ("config.json", FILE):
        with (
            urllib.request.urlopen(f"{sys.argv[1]}/{name}") as answer,
            (folder / name).open("wb") as file,
        ):
            shutil.copyfileobj(answer, file, 1 << 20)
else:
    from swell.weights.declared_weights import provided

    # Come while torch is imported.
    WEIGHTS = provided(__file__)

import PIL.Image  # noqa: E402
import torch  # noqa: E402
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel  # noqa: E402


def picture(model: Any) -> Any:
    """One pass, as 64 pixels."""
    seed = torch.Generator().manual_seed(1)
    latents, words = (torch.randn(shape, generator=seed) for shape in ((1, 4, 8, 8), (1, 7, 768)))
    with torch.inference_mode():
        said = model(latents, torch.tensor(5), words).sample
    pixels = ((said[0, :3].clamp(-3, 3) + 3) * 42.5).round().to(torch.uint8)
    return pixels.permute(1, 2, 0).contiguous().numpy()


if IS_PLAIN:
    unet = UNet2DConditionModel.from_pretrained(folder).eval()
    PIL.Image.fromarray(picture(unet)).save(sys.argv[3])
    print("saved", flush=True)
    # Skip the destructors of native libraries: they take time after the picture is there.
    os._exit(0)
else:
    import json

    import accelerate
    from pydantic import BaseModel

    import swell
    from swell.weights.torch_tensors import load_torch

    class Pass(swell.Model):
        """One pass of a network with 500 million random weights, in float32 as on any CPU."""

        name = "bench/cold"
        Output = swell.Image

        class Input(BaseModel):
            """Nothing to ask for but to keep the worker from anything else."""

            hold_s: float = 0.0

        def load(self, device: str) -> None:
            config = json.loads(WEIGHTS.path("config.json").read_text())
            with accelerate.init_empty_weights():
                unet = UNet2DConditionModel.from_config(config)
            unet.load_state_dict(load_torch(WEIGHTS.path(FILE)), assign=True)
            self.unet = unet.eval()

        def run(self, items: list[Any]) -> list[swell.Image]:
            time.sleep(max(item.input.hold_s for item in items))
            return [swell.Image(PIL.Image.fromarray(picture(self.unet))) for _ in items]
