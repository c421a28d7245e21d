"""The process in which `swell models check` tries one model, which may hang or die.

It writes what it finds out, one JSON line at a time, into a file that the command reads when it has
ended, so that it is known how far it came. It imports nothing that a model process does not import,
since it runs in the environment of the model.
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

#: The stage in which a model that works is looked at for what it lacks.
PROBE: Final = "a further look"


_MISFIT: Final = "the result is not what the model says that it returns"

#: Says what was found out.
Tell = Callable[..., None]


def main() -> None:
    """Entry point: `python -m swell.runtime.model_check FD REF INDEX DEVICE LIMIT_S PROBE_S`."""
    fd, ref, index, device, limit_s, probe_s = sys.argv[1:]
    # Shows where a model hangs, whatever it is busy with; it also ends an orphan.
    faulthandler.dump_traceback_later(float(limit_s), exit=True)
    file = os.fdopen(int(fd), "wb", buffering=0)

    def tell(**what: Any) -> None:
        # What UTF-8 cannot hold, such as half a surrogate pair in an error's text, becomes `?`.
        file.write(json.dumps(what, ensure_ascii=False).encode(errors="replace") + b"\n")

    _look(ref, int(index), device, float(probe_s), tell)
    tell(is_done=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    # Neither threads that the model left nor destructors of native libraries are waited for.
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
    stage = "import"

    def at(name: str) -> None:
        nonlocal stage
        stage = name
        tell(stage=name)

    one = _Checked(definitions[index], device, at, tell)
    probe = None
    try:
        probe = one.check(opened)
    except Exception as error:  # whatever an author's code may raise
        raised = error.__cause__ if isinstance(error, RunFailed) else error
        if raised is not None and not isinstance(raised, SwellError | Reject):
            sys.stderr.write(author_traceback(raised))
        tell(
            report={"error": {"stage": stage, "detail": _detail(error, definitions[index].source)}}
        )
    tell(report={"memory_bytes": max(0, _peak_bytes() - before_bytes)})
    if probe is not None and probe_s > 0:
        one.probe(probe, probe_s)


def _detail(error: Exception, source: Path | None) -> str:
    """Return what went wrong, and what to install if it is for want of that."""
    if isinstance(error, SwellError):
        fields = "; ".join(f"{each['pointer']} {each['detail']}" for each in error.errors)
        detail = f"{error.detail}{': ' if fields else ''}{fields}"
    else:
        detail = f"{type(error).__name__}: {error}"
    # Other errors of Swell say themselves what to install.
    raised = error.__cause__ if isinstance(error, RunFailed) else error
    return detail + remedy(raised, source)


class _Checked:
    """One model on its way through the check.

    Args:
        definition: It.
        device: What it is loaded on.
        at: Told of each stage before it begins.
        tell: Told of what was found out.
    """

    def __init__(
        self, definition: Definition, device: str, at: Callable[[str], None], tell: Tell
    ) -> None:
        self._definition = definition
        self._device = device
        self._at = at
        self._tell = tell
        self._clock = SystemClock()
        self._hints: list[Hint] = []

    def check(self, opened: Opened) -> Probe:
        """Load it and run its example; return what may look further.

        Raises:
            Exception: Whatever it raised.
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
        if str(definition.source).endswith(".toml"):
            tell(kept=self._kept(loaded, checked.model_dump(), result, grown_bytes))
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
            is_cpu=self._device.partition(":")[0] == "cpu",
        )
        return Probe(
            loaded,
            example,
            result,
            together,
            times,
            self._clock,
            trying=lambda what: tell(trying=what),
        )

    def _kept(
        self, loaded: Loaded, asked: dict[str, Any], result: LocalResult, grown_bytes: int
    ) -> dict[str, Any]:
        """Return what the card of an added model may tell from now on."""
        is_host = self._device.partition(":")[0] == "cpu"
        pictures = [each for each in result.files if isinstance(each, Image)]
        return {
            "version": self._definition.version(),
            "speed": {
                "device": _device_name(self._device),
                "what": _what(asked),
                "took_s": float(f"{result.run_s:.2g}"),
                "measured_on": f"{self._clock.now():%Y-%m-%d}",
            },
            "memory_bytes": loaded.model.memory_bytes or (grown_bytes if is_host else 0),
            "sample": base64.b64encode(_small(pictures[0])).decode() if pictures else "",
            "caption": str(asked.get("prompt") or "the example of `swell models check`"),
        }

    def _run_two(
        self, loaded: Loaded, checked: Any, returned: dict[str, list[dict[str, Any]]]
    ) -> LocalResult:
        """Run a batch of two; return the first result."""
        self._at("batch of two")
        results = run_together(loaded, checked, [1, 2], self._clock)
        self._tell(report={"batch_s": results[0].run_s, "results": len(results), "batch": 2})
        self._at("output of a batch of two")
        returned["output of a batch of two"] = [_returned(result) for result in results]
        self._tell(returned=returned)
        return results[0]

    def probe(self, probe: Probe, probe_s: float) -> None:
        """Look further for as long as that may take, in seconds."""
        self._at(PROBE)
        for hint in probe.hints(probe_s):
            self.hint([hint])
        self._tell(report={"not_looked_at": probe.left_out})

    def hint(self, hints: Sequence[Hint]) -> None:
        """Take hints down, whatever comes after them."""
        self._hints += hints
        self._tell(report={"hints": [msgspec.to_builtins(each) for each in self._hints]})


def _what(values: dict[str, Any]) -> str:
    """Return what an example asks for, as a card tells it, such as `512 x 512, 30 steps`."""
    width, height, steps = (values.get(each) for each in ("width", "height", "steps"))
    told = f"{width} x {height}" if width and height else "its example"
    return f"{told}, {steps} step{'s' if steps > 1 else ''}" if isinstance(steps, int) else told


def _device_name(device: str) -> str:
    """Return what people call a device."""
    # A model that uses a GPU has imported this; nothing else here needs it.
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None:
        return str(torch.cuda.get_device_name(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = re.search(r"model name\s*:\s*(.+)", _text(Path("/proc/cpuinfo")))
    told = name[1].strip() if name else platform.machine()
    return f"{cores} core{'s' if cores != 1 else ''} of {told}" if device == "cpu" else device


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _small(image: Image) -> bytes:
    """Return a picture as a card has room for it, in WebP."""
    picture = image.pil().convert("RGB")
    for side_px in (512, 384, 256, 128):
        picture.thumbnail((side_px, side_px))
        buffer = io.BytesIO()
        picture.save(buffer, "webp", quality=80)
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


def _example(definition: Definition) -> dict[str, Any]:
    """Return the model's first example; one with made files where it has none of its own."""
    if definition.facts.examples:
        return dict(definition.facts.examples[0])
    return made_example(definition.input_schema)


def _batches(loaded: Loaded) -> bool:
    return loaded.definition.facts.max_batch > 1 and not is_function_model(loaded.model)


def _returned(result: LocalResult) -> dict[str, Any]:
    """Return what the command needs to judge a result, whose files can be read.

    Raises:
        RunFailed: It cannot be told as JSON.
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
    """Return the most memory that this process has had."""
    try:
        # The kernel's other counter, of getrusage, begins with what the parent process had.
        text = Path("/proc/self/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
