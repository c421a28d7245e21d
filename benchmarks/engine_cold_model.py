"""The network of engine_cold.py: a UNet of diffusers, one pass on tiny latents, a tiny picture.

Two ways to the same bits: `Pass` is a model of Swell, and `plain` is the script that people write
who have none.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / ".bench" / "checkpoint" / "unet-f32"
FILE = FOLDER / "diffusion_pytorch_model.safetensors"
IS_PLAIN = __name__ == "__main__"

if not IS_PLAIN:
    from swell.weights.fast_file_reader import Reading

    # Is on its way into memory while torch is imported.
    READING = Reading(FILE).start()

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


def plain(path: str) -> None:
    unet = UNet2DConditionModel.from_pretrained(FOLDER).eval()
    PIL.Image.fromarray(picture(unet)).save(path)


if IS_PLAIN:
    plain(sys.argv[1])
    print("saved", flush=True)
    # Skip the destructors of native libraries: they take time after the picture is there.
    os._exit(0)
else:
    import accelerate
    from pydantic import BaseModel

    import swell
    from swell.weights.torch_tensors import load_torch

    class Pass(swell.Model):
        """One pass of a network with 250 million random weights, in float32 as on any CPU."""

        name = "bench/pass"
        Output = swell.Image

        class Input(BaseModel):
            """Nothing to ask for."""

        def load(self, device: str) -> None:
            config = json.loads((FOLDER / "config.json").read_text())
            with accelerate.init_empty_weights():
                unet = UNet2DConditionModel.from_config(config)
            unet.load_state_dict(load_torch(READING), assign=True)
            self.unet = unet.eval()

        def run(self, items: list[Any]) -> list[swell.Image]:
            return [swell.Image(PIL.Image.fromarray(picture(self.unet))) for _ in items]
