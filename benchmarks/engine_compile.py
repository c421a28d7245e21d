"""How long until the first result of a compiled network, with what an earlier process compiled?

A small convolutional network is compiled with `torch.compile` (inductor, a C++ compiler) and run
once, in a fresh process each time. The clock runs from the start of the process to its result, the
import of torch included; `first_s` in the details is compiling and running alone.

    without   nothing was compiled before; torch keeps what it compiles in an empty folder
    with      an earlier process compiled into the same folder of Swell's cache

Value: with over without; the median of rounds that pair them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine_load import inside
from machine import folder, quiet, report, say

ARMS = ("without", "with")

WEIGHTS = "0" * 64


# --- what runs in the processes ------------------------------------------------------------------


def network(torch: Any) -> Any:
    torch.manual_seed(0)
    nn = torch.nn

    def block(wide: int) -> list[Any]:
        return [nn.Conv2d(wide, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU()]

    return nn.Sequential(*block(4), *block(32), nn.Conv2d(32, 4, 3, padding=1)).eval()


def one(arm: str, place: Path) -> None:
    torch = importlib.import_module("torch")
    cache = importlib.import_module("swell.weights.compile_cache")
    compiled = importlib.import_module("swell.weights.torch_compiled")
    begun = time.perf_counter()
    kept = compiled.TorchCompiled(cache.CompileCache(place / arm), [WEIGHTS], "1", "cpu")
    is_restored = kept.restore()
    with torch.inference_mode():
        said = torch.compile(network(torch))(torch.ones(1, 4, 32, 32)).double().sum().item()
    first_s = time.perf_counter() - begun
    print(json.dumps({"said": said, "restored": is_restored, "first_s": first_s}), flush=True)
    # Skip the destructors of native libraries, which say nothing about the result.
    os._exit(0)


# --- the rounds ----------------------------------------------------------------------------------


def timed(arm: str, place: Path) -> tuple[float, dict[str, Any]]:
    begun = time.perf_counter()
    command = [sys.executable, __file__, "--inside", "--role", arm, str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        spent = time.perf_counter() - begun
    return spent, json.loads(line)


def measure(rounds: int) -> None:
    spent: dict[str, list[float]] = {arm: [] for arm in ARMS}
    first: dict[str, list[float]] = {arm: [] for arm in ARMS}
    results: set[float] = set()
    restored = True
    with folder("compile") as place, quiet():
        timed("with", place)
        kept = (path for path in (place / "with").rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in kept)
        for turn in range(rounds):
            for arm in ARMS if turn % 2 == 0 else reversed(ARMS):
                if arm == "without":
                    shutil.rmtree(place / arm, ignore_errors=True)
                seconds, said = timed(arm, place)
                spent[arm].append(seconds)
                first[arm].append(said["first_s"])
                results.add(said["said"])
                restored = restored and said["restored"] == (arm != "without")
            say(f"{turn}: " + ", ".join(f"{arm} {s[-1]:.1f} s" for arm, s in spent.items()))
    pairs = [a / b for a, b in zip(spent["with"], spent["without"], strict=True)]
    is_right = restored and len(results) == 1
    detail = {
        "rounds": rounds,
        "kept_bytes": size,
        "median_s": {arm: round(statistics.median(s), 2) for arm, s in spent.items()},
        "first_s": {arm: round(statistics.median(s), 2) for arm, s in first.items()},
        "with_over_without_range": [round(min(pairs), 3), round(max(pairs), 3)],
        "results_agree": len(results) == 1,
        "all_restored": restored,
    }
    report(statistics.median(pairs), detail, ok=is_right)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--role", nargs=2, default=[], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.role:
        one(asked.role[0], Path(asked.role[1]))
    elif asked.inside:
        measure(asked.rounds)
    else:
        return inside(__file__, "--rounds", str(asked.rounds), with_swell=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
