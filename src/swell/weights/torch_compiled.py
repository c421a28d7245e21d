"""What torch.compile made, for the next process that loads the same model.

torch keeps the graphs that it compiled in one block (`torch.compiler.save_cache_artifacts`), but
not the libraries that a C++ compiler made of them for the CPU, which takes most of the time. Both
are kept here, as one content of a `CompiledCache`.

    compiled = TorchCompiled(CompiledCache(folder), digests, version, device)
    compiled.restore()           # before the first torch.compile
    network = torch.compile(network); network(example)
    compiled.keep()              # after the warm-up

Source: https://pytorch.org/tutorials/recipes/torch_compile_caching_tutorial.html
"""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec
import torch

from swell.config import process_environment, replace_environment
from swell.weights.compiled import CompiledCache, CompiledKey, processor

__all__ = ["TorchCompiled"]


class _Packed(msgspec.Struct, frozen=True):
    """All that a process needs to compile nothing."""

    #: Of `torch.compiler.save_cache_artifacts`: pickles inside.
    graphs: bytes
    #: Path within torch's folder → machine code.
    libraries: dict[str, bytes]


class TorchCompiled:
    """What was compiled for one model on one device.

    Args:
        cache: Where it is kept.
        weights: SHA-256 of each file of the model's weights.
        model: The version of the model's code.
        device: As torch names it.
    """

    def __init__(
        self, cache: CompiledCache, weights: Sequence[str], model: str, device: str
    ) -> None:
        self.key = CompiledKey(
            tuple(weights), model, _libraries(), device, _kind(torch.device(device))
        )
        self._cache = cache
        self._folder: Path | None = None
        self._restored: set[str] = set()

    def restore(self) -> bool:
        """Give torch what was kept; return whether there was something. Before it compiles.

        What the worker of this process fetches is waited for, as long as it does.

        From now on torch keeps what it compiles in a folder that only this process has.

        Raises:
            NotPrivate: Others can write where it is kept.
        """
        self._folder = self._cache.workplace()
        replace_environment(process_environment() | {"TORCHINDUCTOR_CACHE_DIR": str(self._folder)})
        content = self._cache.find(self.key)
        packed = None if content is None else _unpacked(content)
        if packed is None:
            return False
        try:
            for name, code in packed.libraries.items():
                _write(self._folder, name, code)
            found = torch.compiler.load_cache_artifacts(packed.graphs)
        except OSError:
            # A disk that is full costs time, and no model.
            return False
        self._restored = set(packed.libraries)
        return found is not None

    def keep(self) -> bool:
        """Keep what torch has compiled in this process; return whether there was something new.

        Raises:
            NotPrivate: Others can write where it is kept.
        """
        assert self._folder is not None, "restore() comes first"
        libraries = {
            str(path.relative_to(self._folder)): path.read_bytes()
            for path in sorted(self._folder.rglob("*.so"))
        }
        saved = torch.compiler.save_cache_artifacts()
        if saved is None or (self._restored and set(libraries) <= self._restored):
            return False
        return self._cache.put(self.key, msgspec.msgpack.encode(_Packed(saved[0], libraries)))


def _unpacked(content: bytes) -> _Packed | None:
    """Return what a content holds; None where it is nothing that `keep` writes."""
    try:
        packed = msgspec.msgpack.decode(content, type=_Packed)
    except msgspec.MsgspecError:
        return None
    return packed if all(map(_is_plain, packed.libraries)) else None


def _is_plain(name: str) -> bool:
    """Whether a name is one of a library below torch's folder, and of nothing else."""
    parts = PurePosixPath(name).parts
    is_below = "/".join(parts) == name and not name.startswith("/") and ".." not in parts
    return is_below and name.endswith(".so") and name.isprintable()


def _write(folder: Path, name: str, code: bytes) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # The folder is fresh, and has no links: what is there has come by another name already.
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o500)
    try:
        with open(fd, "wb") as file:
            file.write(code)
    except OSError:
        # Else torch would take half of it for the whole.
        target.unlink(missing_ok=True)
        raise


def _libraries() -> dict[str, str]:
    return {
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "python": sys.version,
        "system": f"{platform.system()} {platform.machine()} {' '.join(platform.libc_ver())}",
    }


def _kind(device: torch.device) -> str:
    if device.type != "cuda":
        return processor()
    found = torch.cuda.get_device_properties(device)
    return f"{found.name} {found.major}.{found.minor}, {processor()}"
