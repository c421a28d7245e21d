"""Which of the modules that a model process has imported another one can find imported already."""

import types
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

#: Not imported where it would be forked: they start threads that know nothing of forks.
UNFORKABLE: Final = frozenset({"grpc", "jax", "jaxlib", "onnxruntime", "ray", "tensorflow"})


def outside_modules(modules: Mapping[str, types.ModuleType], refs: Sequence[str]) -> list[str]:
    """Return the names of installed modules that are neither Swell's nor the models' own.

    Args:
        modules: `sys.modules`, in the order of importing.
        refs: What the models were named by.
    """
    own = {"swell", "__main__"} | {ref.partition(":")[0].partition(".")[0] for ref in refs}
    return [
        name
        for name, module in modules.items()
        if name.partition(".")[0] not in own | UNFORKABLE and _is_installed(name, module)
    ]


def _is_installed(name: str, module: types.ModuleType) -> bool:
    # Some modules are stand-ins for others, or answer anything that they are asked.
    spec = getattr(module, "__spec__", None)
    if not isinstance(spec, ModuleSpec) or spec.name != name or spec.origin is None:
        return False
    return bool({"site-packages", "dist-packages"} & set(Path(spec.origin).parts))
