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
import math
import os
import resource
import sys
import traceback
import wave
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import PIL.Image
import psutil

from swell.clock import SystemClock
from swell.errors import SwellError
from swell.media import Image
from swell.model import Definition, example_of, is_function_model, load_models
from swell.worker.alone import Loaded, LocalResult, RunFailed, check_input, load_model, run_together

__all__ = ["main"]

_MISFIT: Final = "the result is not what the model says that it returns"

#: Says what was found out.
Tell = Callable[..., None]


def main() -> None:
    """Entry point: `python -m swell.worker.examine FD REF INDEX DEVICE LIMIT_S`."""
    fd, ref, index, device, limit_s = sys.argv[1:]
    # Shows where a model hangs, whatever it is busy with; it also ends an orphan.
    faulthandler.dump_traceback_later(float(limit_s), exit=True)
    file = os.fdopen(int(fd), "wb", buffering=0)

    def tell(**what: Any) -> None:
        # What UTF-8 cannot hold, such as half a surrogate pair in an error's text, becomes `?`.
        file.write(json.dumps(what, ensure_ascii=False).encode(errors="replace") + b"\n")

    _look(ref, int(index), device, tell)
    tell(is_done=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)
    # Neither threads that the model left nor destructors of native libraries are waited for.
    os._exit(0)


def _look(ref: str, index: int, device: str, tell: Tell) -> None:
    before_bytes = psutil.Process().memory_info().rss
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

    try:
        _check(definitions[index], device, at, tell)
    except SwellError as error:
        fields = "; ".join(f"{each['pointer']} {each['detail']}" for each in error.errors)
        detail = f"{error.detail}{': ' if fields else ''}{fields}"
        tell(report={"error": {"stage": stage, "detail": detail}})
    except Exception as error:  # whatever an author's code may raise
        traceback.print_exc()
        detail = f"{type(error).__name__}: {error}"
        tell(report={"error": {"stage": stage, "detail": detail}})
    tell(report={"memory_bytes": max(0, _peak_bytes() - before_bytes)})


def _check(definition: Definition, device: str, at: Callable[[str], None], tell: Tell) -> None:
    clock = SystemClock()
    at("version")
    tell(report={"version": definition.version()})
    at("load")
    loaded = load_model(definition, device, clock)
    tell(report={"load_s": loaded.load_s, "warmup_s": loaded.warmup_s})
    at("example")
    example = _example(definition)
    tell(report={"example": example})
    checked = check_input(definition, example)
    at("run")
    [result] = run_together(loaded, checked, [1], clock)
    tell(report={"run_s": result.run_s, "results": 1, "batch": 1})
    at("output")
    returned = {"output": [_returned(result)]}
    tell(returned=returned, schema=definition.output_schema)
    tell(report={"output": result.output, "files": len(result.files)})
    if _batches(loaded):
        at("batch of two")
        results = run_together(loaded, checked, [1, 2], clock)
        tell(report={"batch_s": results[0].run_s, "results": len(results), "batch": 2})
        at("output of a batch of two")
        returned["output of a batch of two"] = [_returned(result) for result in results]
        tell(returned=returned)


def _example(definition: Definition) -> dict[str, Any]:
    """Return the model's first example; one with made files where it has none of its own."""
    if definition.examples:
        return dict(definition.examples[0])
    return example_of(_with_files(definition.input_schema))


def _with_files(schema: Any) -> Any:
    """Return a schema in which every file is a made one, and a list of files holds enough."""
    if isinstance(schema, list):
        return [_with_files(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    kind = schema.get("x-file")
    if isinstance(kind, str):
        return {"enum": [_made_file(kind)]}
    items = schema.get("items")
    if schema.get("type") == "array" and isinstance(items, Mapping) and "x-file" in items:
        return {"enum": [[_made_file(items["x-file"])] * max(1, schema.get("minItems", 1))]}
    return {name: _with_files(each) for name, each in schema.items()}


def _made_file(kind: str) -> str:
    """Return a small file as a data URI: a gradient of grays, a short tone, or a text.

    A video is too hard to make: it is a text as well, and a model that reads it needs an example.
    """
    buffer = io.BytesIO()
    if kind == "image":
        PIL.Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "png")
        content_type = "image/png"
    elif kind == "audio":
        with wave.open(buffer, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16_000)
            # 440 Hz for a quarter of a second; a silent one breaks whoever divides by loudness.
            tone = (round(8000 * math.sin(math.tau * 440 * i / 16_000)) for i in range(4_000))
            sound.writeframes(b"".join(each.to_bytes(2, "little", signed=True) for each in tone))
        content_type = "audio/wav"
    else:
        buffer.write(b"example")
        content_type = "text/plain"
    return f"data:{content_type};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _batches(loaded: Loaded) -> bool:
    return loaded.definition.batch.max > 1 and not is_function_model(loaded.model)


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
