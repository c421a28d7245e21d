"""How many graphs does torch.compile make of one block, for all numbers of rows and sizes?

Small networks of the four step-batched families, compiled as on a GPU, take steps of 1, 2, 4 and 8
rows for pictures of three sizes. Dynamo's guards decide what is compiled again; the backend runs
the graphs as they are, so that no compiler is needed. A real backend may add guards of its own.

Value: graphs at the end over graphs after the first step, of the family where that is most.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch_environment
from machine import ROOT, folder, report


def measure() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    graphs = importlib.import_module("family_graphs")

    found = {}
    for family in graphs.FAMILIES:
        with folder(family) as place:
            found[family] = graphs.graphs_of(family, Path(place))
    ratios = {family: last / first for family, (first, last) in found.items()}
    detail = {"first_and_last": found, "rows": graphs.ROWS, "sizes_px": graphs.SIZES}
    report(max(ratios.values()), detail, ok=all(ratios.values()))


if __name__ == "__main__":
    sys.exit(torch_environment.run(measure))
