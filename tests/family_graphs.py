"""Counts the graphs that `torch.compile` makes of a family's network, without a compiler."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

import family_cases as cases
import tiny_pipelines as tiny
from swell.sdk.context import Item
from swell.sdk.model_loader import load_models

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")
ROWS = (2, 4, 8, 1)
#: Their numbers of tokens differ from the small networks' channels and heads: dynamo takes equal
#: numbers for one.
SIZES = ((96, 160), (128, 96), (192, 192))


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Have dynamo trace and guard blocks as ever, and run them eagerly."""
    real = nn.Module.compile

    def traced(module: nn.Module, *args: Any, **options: Any) -> None:
        real(module, *args, **{**options, "backend": "eager"})

    with mock.patch.object(nn.Module, "compile", traced):
        yield


def graphs_of(family: str, place: Path) -> tuple[int, int]:
    """Return the graphs after the first step, and after steps of all numbers of rows and sizes."""
    with contextlib.redirect_stderr(io.StringIO()):
        folder = getattr(tiny, family)(place / "weights")
        [definition] = load_models(str(cases.add(folder, place / "data", f"test/{family}")))
        model: Any = definition.make()
        model.load("cpu")
    counters = torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    counters.clear()
    with _without_compiler():
        model.parts._compile_blocks()
    first = 0
    for width, height in SIZES:
        asked = definition.input_type(prompt="a fox", width=width, height=height)
        plan = model.prepare(Item(asked, seed=0))
        [told] = model.encode([plan.words])
        told = {**told, **{name: torch.as_tensor(value) for name, value in plan.values.items()}}
        for rows in ROWS:
            conditions = {name: torch.stack([value] * rows) for name, value in told.items()}
            model.denoise(torch.randn(rows, *plan.shape), torch.full((rows,), 500.0), conditions)
            first = first or counters["unique_graphs"]
    return first, counters["unique_graphs"]
