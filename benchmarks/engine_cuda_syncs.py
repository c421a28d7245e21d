"""How often does the host wait for the device while the step engine draws?

On a pretended GPU (tests/pretended_cuda.py), small models of the four step-batched families draw
five pictures: new prompts, shared steps, a picture under a mask, previews and finished pictures.
Each blocking copy, read number or synchronisation of the loop counts. Waits for the mark of the
step before, which pace the loop, do not.

Value: waits, of all families.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch_environment
from machine import ROOT, folder, report


def measure() -> None:
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "unit")]
    pretended = importlib.import_module("test_pretended_cuda_torch")

    detail: dict[str, Any] = {}
    for family in pretended.FAMILIES:
        with folder(family) as place, pretended.PretendCuda() as cuda:
            taken = pretended.everything(pretended.Made(family, Path(place)), cuda)
            detail[family] = {
                "boundaries": len(taken),
                "host_waits": sum(each.host_waits for each in taken),
                "where": {key: n for each in taken for key, n in each.waits.items()},
                "launches_of_a_step": pretended.middle(taken).launches,
            }
    report(float(sum(each["host_waits"] for each in detail.values())), detail, ok=True)


if __name__ == "__main__":
    sys.exit(torch_environment.run(measure))
