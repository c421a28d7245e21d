"""Runs `swell models check` for one model in a separate process, which may hang or crash.

It writes its findings, one JSON line at a time, into a file that the command reads. It runs in the
environment of the model, so it imports only what a model process imports.
"""

import base64
import contextlib
import ctypes
import faulthandler
import io
import json
import os
import platform
import re
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from swell.core.clock import SystemClock
from swell.core.errors import SwellError
from swell.runtime.example_inputs import made_example
from swell.runtime.local_run import (
    Loaded,
    LocalResult,
    RunFailed,
    author_traceback,
    check_input,
    load_model,
    run_together,
)
from swell.runtime.model_check_probe import Opened, Probe, resident_bytes
from swell.runtime.model_lint import Hint, Times, hints_of_card, hints_of_files
from swell.sdk.card_samples import MOST_BYTES
from swell.sdk.context import Reject
from swell.sdk.define import Definition, is_function_model
from swell.sdk.media import Image
from swell.sdk.model_loader import load_models, remedy

#: Name of the stage that probes a working model for hints.
PROBE: Final = "a further look"

_MISFIT: Final = "the result is not what the model says that it returns"

#: Writes a finding.
Tell = Callable[..., None]


def main() -> None:
    """Entry point: `python -m swell.runtime.model_check FD REF INDEX DEVICE LIMIT_S PROBE_S`."""
    fd, ref, index, device, limit_s, probe_s = sys.argv[1:]
    # Shows where a model hangs, and ends an orphaned process.
    faulthandler.dump_traceback_later(float(limit_s), exit=True)
    file = os.fdopen(int(fd), "wb", buffering=0)

    def tell(**what: Any) -> None:
        # Half a surrogate pair in an error's text becomes `?`.
        file.write(json.dumps(what, ensure_ascii=False).encode(errors="replace") + b"\n")

    _look(ref, int(index), device, float(probe_s), tell)
    tell(is_done=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    # Do not wait for threads of the model, nor for destructors of native libraries.
    os._exit(0)


def _look(ref: str, index: int, device: str, probe_s: float, tell: Tell) -> None:
    before_bytes = resident_bytes()
    opened = Opened()
    tell(stage="import")
    try:
        definitions = load_models(ref)
    except SwellError as error:
        tell(refused=error.code, detail=error.detail)
        return
    tell(models=[definition.name for definition in definitions])
    one = _Checked(definitions[index], device, tell)
    probe = None
    try:
        probe = one.check(opened)
    except Exception as error:  # of an author's code
        raised = error.__cause__ if isinstance(error, RunFailed) else error
        if raised is not None and not isinstance(raised, SwellError | Reject):
            sys.stderr.write(author_traceback(raised))
        detail = _detail(error, definitions[index].source)
        tell(report={"error": {"stage": one.stage, "detail": detail}})
    tell(report={"memory_bytes": max(0, _peak_bytes() - before_bytes)})
    if probe is not None and probe_s > 0:
        one.probe(probe, probe_s)


def _detail(error: Exception, source: Path | None) -> str:
    """Return what went wrong, and which missing package to install."""
    if isinstance(error, SwellError):
        fields = "; ".join(f"{each['pointer']} {each['detail']}" for each in error.errors)
        detail = f"{error.detail}{': ' if fields else ''}{fields}"
    else:
        detail = f"{type(error).__name__}: {error}"
    # Other errors of Swell name the package themselves.
    raised = error.__cause__ if isinstance(error, RunFailed) else error
    return detail + remedy(raised, source)


class _Checked:
    """The check of one model.

    Args:
        definition: The model.
        device: The device to load it on.
        tell: Writes findings.
    """

    def __init__(self, definition: Definition, device: str, tell: Tell) -> None:
        self._definition = definition
        self._device = device
        self._tell = tell
        self._clock = SystemClock()
        self._hints: list[Hint] = []
        self.stage = "import"

    def _at(self, stage: str) -> None:
        self.stage = stage
        self._tell(stage=stage)

    def check(self, opened: Opened) -> Probe:
        """Load the model and run its example; return the probe for hints.

        Raises:
            Exception: The model failed.
        """
        definition, at, tell = self._definition, self._at, self._tell
        at("version")
        tell(report={"version": definition.version()})
        at("card")
        card = definition.card()
        self.hint(hints_of_card(card))
        at("load")
        before_bytes = resident_bytes()
        with opened:
            loaded = load_model(definition, self._device, self._clock)
        grown_bytes = resident_bytes() - before_bytes
        tell(report={"load_s": loaded.load_s, "warmup_s": loaded.warmup_s})
        self.hint(hints_of_files(opened.pickles(definition.files)))
        at("example")
        example = _example(definition)
        tell(report={"example": example})
        checked = check_input(definition, example)
        at("run")
        [result] = run_together(loaded, checked, [1], self._clock)
        tell(report={"run_s": result.run_s, "results": 1, "batch": 1})
        is_cpu = self._device.partition(":")[0] == "cpu"
        if str(definition.source).endswith(".toml"):
            memory_bytes = loaded.model.memory_bytes or (grown_bytes if is_cpu else 0)
            tell(kept=self._kept(checked.model_dump(), result, memory_bytes))
        at("output")
        returned = {"output": [_returned(result)]}
        tell(returned=returned, schema=definition.facts.output_schema)
        tell(report={"output": result.output, "files": len(result.files)})
        together = self._run_two(loaded, checked, returned) if _batches(loaded) else None
        times = Times(
            warmup_s=loaded.warmup_s,
            run_s=result.run_s,
            grown_bytes=grown_bytes,
            said_bytes=loaded.model.memory_bytes,
            is_cpu=is_cpu,
        )
        more = {"trying": lambda what: tell(trying=what)}
        return Probe(loaded, example, result, together, times, self._clock, **more)

    def _kept(
        self, asked: dict[str, Any], result: LocalResult, memory_bytes: int
    ) -> dict[str, Any]:
        """Return facts for the card of an added model."""
        pictures = [each for each in result.files if isinstance(each, Image)]
        return {
            "version": self._definition.version(),
            "speed": {
                "device": _device_name(self._device),
                "what": _what(asked),
                "took_s": float(f"{result.run_s:.2g}"),
                "measured_on": f"{self._clock.now():%Y-%m-%d}",
            },
            "memory_bytes": memory_bytes,
            "sample": base64.b64encode(_small(pictures[0])).decode() if pictures else "",
            "caption": str(asked.get("prompt") or "the example of `swell models check`"),
        }

    def _run_two(
        self, loaded: Loaded, checked: Any, returned: dict[str, list[dict[str, Any]]]
    ) -> LocalResult:
        """Run a batch of two, and return the first result."""
        self._at("batch of two")
        results = run_together(loaded, checked, [1, 2], self._clock)
        self._tell(report={"batch_s": results[0].run_s, "results": len(results), "batch": 2})
        self._at("output of a batch of two")
        returned["output of a batch of two"] = [_returned(result) for result in results]
        self._tell(returned=returned)
        return results[0]

    def probe(self, probe: Probe, probe_s: float) -> None:
        """Run the probe for at most `probe_s` seconds."""
        self._at(PROBE)
        for hint in probe.hints(probe_s):
            self.hint([hint])
        self._tell(report={"not_looked_at": probe.left_out})

    def hint(self, hints: Sequence[Hint]) -> None:
        """Write hints at once: the process may die later."""
        self._hints += hints
        self._tell(report={"hints": [msgspec.to_builtins(each) for each in self._hints]})


def _what(values: dict[str, Any]) -> str:
    """Return a summary of an input, such as `512 x 512, 30 steps`."""
    width, height, steps = (values.get(each) for each in ("width", "height", "steps"))
    told = f"{width} x {height}" if width and height else "its example"
    return f"{told}, {steps} step{'s' if steps > 1 else ''}" if isinstance(steps, int) else told


def _device_name(device: str) -> str:
    """Return the product name of a device."""
    # A model that uses a GPU has imported torch; nothing else here needs it.
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    if device != "cpu":
        return device
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = None
    with contextlib.suppress(OSError):
        name = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    told = name[1].strip() if name else platform.machine()
    return f"{cores} core{'s' if cores != 1 else ''} of {told}"


def _small(image: Image) -> bytes:
    """Return an image as WebP, small enough for a card."""
    picture = image.pil().convert("RGB")
    for side_px in (512, 384, 256, 128):
        picture.thumbnail((side_px, side_px))
        buffer = io.BytesIO()
        picture.save(buffer, "webp", quality=80)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


def _example(definition: Definition) -> dict[str, Any]:
    """Return the model's first example, or a generated one."""
    if definition.facts.examples:
        return dict(definition.facts.examples[0])
    return made_example(definition.input_schema)


def _batches(loaded: Loaded) -> bool:
    return loaded.definition.facts.max_batch > 1 and not is_function_model(loaded.model)


def _returned(result: LocalResult) -> dict[str, Any]:
    """Return a result for the command, which compares it with the schema; read its files.

    Raises:
        RunFailed: It is not JSON.
    """
    try:
        json.dumps(result.output)
    except (TypeError, ValueError) as error:
        raise RunFailed(f"{_MISFIT}: it is not JSON: {error}") from None
    for file in result.files:
        if isinstance(file, Image):
            file.pil().load()
        else:
            file.read()
    return {"output": result.output, "kinds": [type(file).__name__ for file in result.files]}


def _peak_bytes() -> int:
    """Return the peak memory of this process."""
    try:
        # The counter of getrusage begins with the peak of the parent process.
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
