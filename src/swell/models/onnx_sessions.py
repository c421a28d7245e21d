"""Weights that come with Swell, and sessions of ONNX Runtime that read them.

They are in the distribution `swell-models`, which `swell[embedded]` brings.
"""

import threading
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

from swell.core.errors import InvalidModel

try:
    import onnxruntime

    import swell_models
except ModuleNotFoundError as error:
    raise InvalidModel(
        f"{error.name} is not installed, built-in models need it: pip install 'swell[embedded]'"
    ) from error

#: Open sessions by file, threads and spinning.
_OPEN: Final[WeakValueDictionary[tuple[str, int | None, bool], Any]] = WeakValueDictionary()
_LOCK: Final = threading.Lock()


def weights(name: str) -> Path:
    """Return where a file of weights lies, such as `upscale.onnx`.

    Raises:
        InvalidModel: The version of `swell-models` that is installed does not have it.
    """
    try:
        return swell_models.path(name)
    except FileNotFoundError as error:
        raise InvalidModel(
            f"{error}, a built-in model needs it: pip install --upgrade 'swell[embedded]'"
        ) from error


def session(name: str, threads: int | None = None, *, spins: bool = False) -> Any:
    """Return a network on the CPU, its integer weights turned to float32 once.

    Models of one process that ask for the same get the same, for as long as one of them holds it:
    a session has no state, and may be run by several threads.

    Args:
        name: Of the file, such as `upscale.onnx`.
        threads: Threads of one call; None leaves the number to ONNX Runtime.
        spins: Whether threads spin until the next call. They take the cores from other
            work, and are a little faster on an idle machine.
    """
    with _LOCK:
        key = (name, threads, spins)
        found = _OPEN.get(key)
        if found is None:
            found = _OPEN[key] = _opened(name, threads, spins)
    return found


def _opened(name: str, threads: int | None, spins: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # Pictures come in many sizes: a plan of the memory for each takes a third more of it.
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(weights(name), options, ["CPUExecutionProvider"])
