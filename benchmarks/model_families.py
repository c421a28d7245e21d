"""Do models that were added without code draw what diffusers' own pipelines draw?

Each case of `family_cases.py`, `flow_cases.py` and `loop_cases.py` in `tests/` saves a small
pipeline with random weights to disk, adds it with `swell models add`, draws with Swell's engine or
in diffusers' own loop, and has diffusers draw the same with the same seed, in float32 on the CPU. A
case agrees if no channel of any pixel is apart by more than one level of 255. So do LoRAs: put on
they must change the picture, and taken off leave the same bits.

Value: families and ways of use that agree. The largest difference is in the details.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import torch_environment
from machine import ROOT, folder, report, say

TOLERANCE = 1

#: Below this spread of levels there is too little to see for an agreement to mean anything.
CONTRAST = 20


def swapped(cases: Any, loop: Any, tiny: Any, place: Path) -> dict[str, bool]:
    """Whether a LoRA changes the picture, and leaves it as it was, by family."""
    found = {}
    for name, build, network in (
        ("sd", tiny.stable_diffusion, "unet"),
        ("sdxl", tiny.stable_diffusion_xl, "unet"),
        ("sd 3", tiny.stable_diffusion_3, "transformer"),
        ("flux", tiny.flux, "transformer"),
        ("own loop", cases.sd(loop.unipc), "unet"),
    ):
        weights = build(place / name)
        file = tiny.lora(place / f"{name}.safetensors", weights, network=network)
        added = cases.add(weights, place / "data", f"test/{name.replace(' ', '')}")
        definition, model = cases.loaded(added)
        lora = importlib.import_module("swell.sdk.media").LoRA(file)
        plain, inked, again = (
            cases.draw(definition, model, steps=3, loras=loras) for loras in ([], [lora], [])
        )
        found[name] = bool((plain != inked).any() and (plain == again).all())
    return found


def measure() -> None:
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(ROOT / "tests"))
    names = ("family_cases", "flow_cases", "loop_cases", "tiny_pipelines")
    cases, flow, loop, tiny = (importlib.import_module(name) for name in names)
    torch, diffusers = importlib.import_module("torch"), importlib.import_module("diffusers")
    torch.set_num_threads(1)
    apart: dict[str, int] = {}
    with folder("families") as place:
        for number, case in enumerate([*cases.CASES, *flow.CASES, *loop.CASES]):
            mine, theirs = case.run(place / str(number))
            is_seen = mine.shape == theirs.shape and theirs.std() > CONTRAST
            apart[case.name] = int(abs(mine.astype(int) - theirs).max()) if is_seen else 255
            say(f"{case.name}: {apart[case.name]}")
        loras = swapped(cases, loop, tiny, place)
    agreeing = [name for name, levels in apart.items() if levels <= TOLERANCE]
    detail = {
        "cases": len(apart),
        "same_to_the_bit": sum(levels == 0 for levels in apart.values()),
        "largest_difference_levels": max(apart.values()),
        "apart": {name: levels for name, levels in apart.items() if levels},
        "loras_come_and_go": loras,
        "diffusers": str(diffusers.__version__),
        "torch": str(torch.__version__),
    }
    is_right = len(agreeing) == len(apart) and all(loras.values())
    report(float(len(agreeing)), detail, ok=is_right)


if __name__ == "__main__":
    sys.exit(torch_environment.run(measure))
