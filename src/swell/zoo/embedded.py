"""Weights that come with Swell, and sessions of ONNX Runtime that read them.

The weights are a distribution of their own, `swell-models`, which `swell[embedded]` brings.
"""

from pathlib import Path
from typing import Any

from swell.model import InvalidModel

try:
    import onnxruntime

    import swell_models
except ModuleNotFoundError as error:
    raise InvalidModel(
        f"{error.name} is not installed, built-in models need it: pip install 'swell[embedded]'"
    ) from error

__all__ = ["session", "weights"]


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


def session(name: str, threads: int | None = None) -> Any:
    """Return a network on the CPU, its integer weights turned to float32 once.

    Args:
        name: Of the file, such as `upscale.onnx`.
        threads: Threads of one call; None leaves the number to ONNX Runtime.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Threads that spin until the next call take the cores from whoever else has work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(weights(name), options, ["CPUExecutionProvider"])
