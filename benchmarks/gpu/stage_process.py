"""The process of the stages: it reads stages from stdin and writes events to stdout.

The first event describes the machine. Then each stage gives one event per row, and one at its end.
Other output of the process goes to stderr.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gpu.rig import NotPossible, Rig

Tell = Callable[[dict[str, Any]], None]

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "torchao", "swell")


def main() -> None:
    """Run the stages that stdin names, one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    tell = _events()
    torch.set_grad_enabled(False)
    tell({"machine": machine(given.device), "versions": versions()})
    rig = Rig(given.device, given.tiny, given.work, lambda row: tell({"row": row}))
    for line in sys.stdin:
        asked = json.loads(line)
        rig.end_s, rig.is_cut = time.monotonic() + asked["seconds"], False
        tell({"end": _ended(rig, asked["run"])})


def _events() -> Tell:
    """Keep stdout for events: everything printed otherwise goes to stderr."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(event: dict[str, Any]) -> None:
        stream.write(json.dumps(event) + "\n")
        stream.flush()

    return tell


def _ended(rig: Rig, reference: str) -> dict[str, str]:
    """Run one stage, and return its status and the reason."""
    try:
        module, _, function = reference.partition(":")
        rig.clear()
        getattr(importlib.import_module(module), function)(rig)
    except NotPossible as error:
        return {"status": "not run", "why": str(error)}
    except Exception as error:
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return {"status": "failed", "why": f"{error!r}"[:300] + f" at {where}"}
    if rig.is_cut:
        return {"status": "measured in part", "why": "the time of the stage ended"}
    return {"status": "measured", "why": ""}


def machine(device: str) -> dict[str, Any]:
    """Describe the device and its host."""
    found: dict[str, Any] = {
        "card": "no GPU (CPU)",
        "memory_gib": None,
        "driver": None,
        "cpu_cores": os.cpu_count(),
        "host_memory_gib": round(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1
        ),
    }
    if device.startswith("cuda"):
        found["card"] = torch.cuda.get_device_name(device)
        found["memory_gib"] = round(torch.cuda.mem_get_info(device)[1] / 2**30, 1)
        found["driver"] = _driver()
    return found


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (answer.stdout.splitlines() or [None])[0]


def versions() -> dict[str, str | None]:
    """Return versions of packages; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    found["CUDA of torch"] = torch.version.cuda
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    main()
