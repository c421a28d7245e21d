"""Swell's step engine, driven in this process. The only module here that imports `swell.worker`."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from gpu.rig import Rig, Size, drop_from_page_cache
from swell.cli import app
from swell.core.clock import SystemClock
from swell.diffusion.step_engine import Request, StepEngine
from swell.sdk.context import Item, Listener
from swell.sdk.model_loader import load_models

#: Name of the model that stages share.
SHARED = "gpu/sdxl"


@dataclass(frozen=True)
class Loaded:
    """A model on the device.

    Attributes:
        definition: As Swell knows it; it makes inputs.
        model: The model itself.
        facts: Rows that describe its loading: what, value, unit.
    """

    definition: Any
    model: Any
    facts: Sequence[tuple[str, Any, str]]


@dataclass(frozen=True)
class Drawing:
    """Results of samples in their order, and the time that they took."""

    results: Sequence[Any]
    seconds: float
    host_cpu_s: float

    @property
    def failures(self) -> list[str]:
        """Return the errors of samples that failed."""
        return [repr(each)[:90] for each in self.results if isinstance(each, Exception)]


class PreviewCounter(Listener):
    """Asks for every preview that it is offered."""

    def __init__(self) -> None:
        self.count = 0

    def preview(self, make: Any) -> None:
        self.count += 1
        make()


def add(rig: Rig, name: str, *options: str, folder: Path | None = None) -> Path:
    """Run `swell models add`, and return the file that it wrote."""
    source = str(folder or rig.sdxl)
    return Path(json.loads(_models(rig, "add", source, "--name", name, "--json", *options))["file"])


def add_only(rig: Rig, *names: str) -> None:
    """Add models, and remove all others: `swell up` serves every model of its data folder."""
    for file in sorted((rig.data / "models").glob("*.toml")):
        name = file.stem.replace("--", "/", 1)
        if name not in names:
            _models(rig, "remove", name)
    for name in names:
        add(rig, name)


def _models(rig: Rig, command: str, *words: str) -> str:
    """Run a command of `swell models`, and return what it printed."""
    result = CliRunner().invoke(app, ["models", command, *words, "--data", str(rig.data)])
    if result.exit_code:
        raise RuntimeError(f"swell models {command} failed: {result.output.strip()[-300:]}")
    return result.stdout


def load(
    rig: Rig, name: str, *options: str, folder: Path | None = None, warms_up: bool = True
) -> Loaded:
    """Add a model, load it from a cold disk and warm it up."""
    begin_s = time.perf_counter()
    file = add(rig, name, *options, folder=folder)
    added_s = time.perf_counter() - begin_s
    [definition] = load_models(str(file))
    model: Any = definition.make()
    rig.clear()
    drop_from_page_cache(folder or rig.sdxl)
    begin_s = time.perf_counter()
    model.load(rig.device)
    rig.wait()
    loaded_s = time.perf_counter() - begin_s
    begin_s = time.perf_counter()
    if warms_up:
        model.warmup()
    rig.wait()
    facts = [
        ("`swell models add`, which reads all weights once", round(added_s, 2), "s"),
        ("load from a cold disk", round(loaded_s, 2), "s"),
        ("warm-up, with compilation", round(time.perf_counter() - begin_s, 2), "s"),
        ("peak memory of loading and warm-up", rig.peak_gib(), "GiB"),
        ("memory that the model reports", rig.gib(model.memory_bytes), "GiB"),
        ("offload that Swell chose", model.parts.placement.choice, ""),
        ("blocks are compiled", "yes" if model.parts.is_compiled else "no", ""),
    ]
    return Loaded(definition, model, facts)


def shared_model(rig: Rig) -> Loaded:
    """Return the compiled SDXL that the stages of one process share."""
    if SHARED not in rig.shared:
        rig.shared[SHARED] = load(rig, SHARED)
    return rig.shared[SHARED]  # type: ignore[no-any-return]


def ask(
    rig: Rig, number: int, steps: int = 0, size: Size | None = None, guidance: float = 5.0
) -> dict[str, Any]:
    """Return an input: by default long, guided, and of the main size. Its seed follows `number`."""
    width, height = size or rig.sizes[0]
    return {
        "prompt": "a fox",
        "steps": steps or rig.long_steps,
        "guidance": guidance,
        "width": width,
        "height": height,
        "seed": 100 + number,
    }


def _request(loaded: Loaded, number: int, asked: dict[str, Any], more: dict[str, Any]) -> Request:
    listener = {"listener": more["listener"]} if more.get("listener") else {}
    item = Item(loaded.definition.input_type(**asked), seed=asked["seed"], **listener)
    checkpoint = more.get("checkpoint")
    return Request(id=str(number), model=loaded.model, item=item, checkpoint=checkpoint)


def draw(
    rig: Rig,
    loaded: Loaded,
    asked: Sequence[dict[str, Any]],
    *,
    exact: bool = True,
    bucket: int | None = None,
    arrive_every: int = 0,
    **more: Any,
) -> Drawing:
    """Draw samples with a new engine.

    Args:
        rig: The device.
        loaded: The model.
        asked: Inputs.
        exact: Whether the engine runs in exact mode.
        bucket: Rows of a step in exact mode; None for the model's own number.
        arrive_every: Calls of the engine between two arrivals; 0 has all samples arrive at once.
        more: `listener` or `checkpoint` of each request.
    """
    ended: dict[str, Any] = {}
    engine = StepEngine(SystemClock(), ended.__setitem__, exact=exact, bucket=bucket)
    waiting = [_request(loaded, number, each, more) for number, each in enumerate(asked)]
    if not arrive_every:
        engine.add(waiting)
        waiting = []
    cpu_s, begin_s, calls = time.thread_time(), time.perf_counter(), 0
    while True:
        if waiting and calls % arrive_every == 0:
            engine.add([waiting.pop(0)])
        has_more = engine.boundary()
        calls += 1
        if not has_more and not waiting:
            break
    results = [_value(ended[str(number)]) for number in range(len(asked))]
    rig.wait()
    return Drawing(results, time.perf_counter() - begin_s, time.thread_time() - cpu_s)


def checkpoint_after(loaded: Loaded, asked: dict[str, Any], steps: int) -> bytes:
    """Draw one sample for some steps, and return its checkpoint."""
    engine = StepEngine(SystemClock(), lambda _id, _result: None)
    engine.add([_request(loaded, 0, asked, {})])
    while engine.samples["0"].step < steps:
        if not engine.boundary():
            raise RuntimeError("the sample ended before its checkpoint")
    taken = engine.checkpoint("0")
    if taken is None:
        raise RuntimeError("the engine has no checkpoint of the sample")
    return taken


def _value(result: Any) -> Any:
    """Return a result, which may be a function that waits for the device."""
    if not callable(result) or isinstance(result, Exception):
        return result
    try:
        return result()
    except Exception as error:
        return error


def pixels(image: Any) -> np.ndarray[Any, Any]:
    """Return a picture's pixels; raises the error of a sample that failed."""
    if isinstance(image, Exception):
        raise image
    return np.asarray(image.pil())


def digest(image: Any) -> str:
    """Return a hash of a picture's pixels, or its error."""
    if isinstance(image, Exception):
        return repr(image)[:90]
    return hashlib.sha256(pixels(image).tobytes()).hexdigest()[:16]


def psnr(image: Any, reference: Any) -> float:
    """Return the distance of two pictures in dB; 99 means equal."""
    error = ((pixels(image).astype(float) - pixels(reference).astype(float)) ** 2).mean()
    return 99.0 if error == 0 else round(float(10 * np.log10(255**2 / error)), 1)
