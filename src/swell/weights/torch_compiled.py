"""What torch.compile made, for the next process that loads the same model.

torch keeps the graphs that it compiled in one block (`torch.compiler.save_cache_artifacts`), but
not the libraries that a C++ compiler made of them for the CPU, which takes most of the time. Both
are kept here, as one content of a `CompiledCache`.

    compiled = TorchCompiled(CompiledCache(folder), digests, version, device)
    compiled.restore()           # before the first torch.compile
    network = torch.compile(network); network(example)
    compiled.keep()              # after the warm-up; compiled.give_up() where that has failed

What was kept may fail when it is run, with an error or with the whole process. Then it is refused
on this machine, and compiled anew: by whoever calls `give_up`, or by the next process.

Source: https://pytorch.org/tutorials/recipes/torch_compile_caching_tutorial.html
"""

import hashlib
import importlib
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec
import torch

from swell.settings.environment import process_environment, replace_environment
from swell.weights.compile_cache import CompiledCache, CompiledKey, NotPrivate, processor


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
            tuple(weights), model, _libraries(), _place(torch.device(device)), _kind(device)
        )
        self._cache = cache
        self._folder: Path | None = None
        #: What was found, and the names of its libraries; None where nothing was, or it has failed.
        self._found: bytes | None = None
        self._restored: set[str] = set()
        #: Whether nothing can be kept.
        self._is_alone = False

    def restore(self) -> bool:
        """Give torch what was kept; return whether there was something. Before it compiles.

        From now on torch keeps what it compiles in a folder that only this process has. Where
        others can write to the cache, nothing is read from it or kept in it, and it is said so.
        """
        try:
            self._begin(self._cache.workplace())
            content = self._cache.get(self.key)
        except NotPrivate as error:
            sys.stderr.write(f"compiled programs are not kept: {error.detail}\n")
            self._begin(Path(tempfile.mkdtemp(prefix="swell-compiled-")))
            self._is_alone = True
            return False
        packed = None if content is None else _unpacked(content)
        if packed is None or content is None:
            return False
        return self._restore(content, packed)

    def _begin(self, folder: Path) -> None:
        """Have torch keep what it compiles in a folder."""
        self._folder = folder
        replace_environment(process_environment() | {"TORCHINDUCTOR_CACHE_DIR": str(folder)})

    def _restore(self, content: bytes, packed: _Packed) -> bool:
        assert self._folder is not None, "the caller has begun"
        # From here on its code may run, and take this process with it.
        self._cache.try_out(self._folder, content)
        self._found = content
        try:
            for name, code in packed.libraries.items():
                _write(self._folder, name, code)
            found = torch.compiler.load_cache_artifacts(packed.graphs)
        except OSError:
            # A disk that is full costs time, and no model.
            self._cache.tried_out(self._folder)
            self._found = None
            return False
        except Exception as error:  # pickles of a compiler raise anything
            sys.stderr.write(f"a compiled program cannot be read: {error}\n")
            self.give_up()
            return False
        self._restored = set(packed.libraries)
        return found is not None

    def give_up(self) -> bool:
        """Use what was restored no more on this machine: it has failed. Return whether there was.

        What is compiled after that is compiled anew. Whoever calls it has its modules compiled as
        the first time: torch has forgotten what it has compiled in this process.
        """
        content, self._found, self._restored = self._found, None, set()
        if content is None or self._folder is None:
            return False
        self._cache.tried_out(self._folder)
        try:
            self._cache.refuse(hashlib.sha256(content).hexdigest())
            self._begin(self._cache.workplace())
        except NotPrivate:  # somebody has opened it meanwhile
            self._begin(Path(tempfile.mkdtemp(prefix="swell-compiled-")))
            self._is_alone = True
        torch.compiler.reset()
        if not _clear_artifacts():
            # `keep` would save the failed program with the new one.
            self._is_alone = True
        return True

    def keep(self) -> bool:
        """Keep what torch has compiled in this process; return whether there was something new.

        Raises:
            NotPrivate: Others can write where it is kept, and could not before.
        """
        assert self._folder is not None, "restore() comes first"
        if self._is_alone:
            return False
        self._cache.tried_out(self._folder)
        libraries = {
            str(path.relative_to(self._folder)): path.read_bytes()
            for path in sorted(self._folder.rglob("*.so"))
        }
        saved = torch.compiler.save_cache_artifacts()
        if saved is None or (self._restored and set(libraries) <= self._restored):
            return False
        packed = msgspec.msgpack.encode(_Packed(saved[0], libraries))
        return self._cache.put(self.key, packed)


def _clear_artifacts() -> bool:
    """Clear what torch recorded for `save_cache_artifacts`; return whether this torch can.

    No public function of torch does this.
    """
    try:
        importlib.import_module("torch.compiler._cache").CacheArtifactManager.clear()
    except (ImportError, AttributeError):
        return False
    return True


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


def _place(device: torch.device) -> str:
    """Return what a program knows of the device: of a GPU also its number.

    torch has the number in what it compiles for a GPU, and finds nothing of another's: in the
    metadata of tensors, and as the number of the current one.

    Source: torch 2.13, `FxGraphHashDetails` in `torch/_inductor/codecache.py`.
    """
    if device.type != "cuda":
        return str(device.type)
    return f"cuda:{torch.cuda.current_device() if device.index is None else device.index}"


def _kind(device: str) -> str:
    if torch.device(device).type != "cuda":
        return processor()
    found = torch.cuda.get_device_properties(torch.device(device))
    return f"{found.name} {found.major}.{found.minor}, {processor()}"
