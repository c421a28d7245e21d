"""Keeps the programs of torch.compile for the next process that loads the same model.

    compiled = TorchCompiled(workers_cache(), digests, version, device)
    compiled.restore()           # before the first torch.compile
    network = torch.compile(network); network(example)
    compiled.give_up()           # if that failed: compile again without the kept programs

torch finds and stores programs by itself, in the folder that `restore` sets.

Source: https://docs.pytorch.org/tutorials/recipes/torch_compile_caching_tutorial.html
"""

import hashlib
import platform
import sys
import tempfile
from collections.abc import Sequence

import msgspec
import torch

from swell.settings.environment import process_environment, replace_environment
from swell.weights.compile_cache import CompileCache, NotPrivate, processor


class TorchCompiled:
    """The compiled programs of one model on one device.

    Args:
        cache: Where they are kept.
        weights: SHA-256 of each file of the model's weights.
        model: The version of the model's code.
        device: As torch names it.
    """

    def __init__(
        self, cache: CompileCache, weights: Sequence[str], model: str, device: str
    ) -> None:
        # torch itself tells GPUs apart.
        where = [str(torch.version.cuda), torch.device(device).type, platform.libc_ver()]
        parts = [*weights, model, str(torch.__version__), sys.version, *where, processor()]
        self.key = hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
        self._cache = cache
        self._is_restored = False

    def restore(self) -> bool:
        """Set the folder that torch compiles into; return whether it has programs.

        If others can write to the cache, torch gets a temporary folder, and stderr says so.
        """
        try:
            folder, self._is_restored = self._cache.open(self.key)
        except NotPrivate as error:
            sys.stderr.write(f"compiled programs are not kept: {error.detail}\n")
            _compile_in(tempfile.mkdtemp(prefix="swell-compiled-"))
            return False
        _compile_in(str(folder))
        return self._is_restored

    def give_up(self) -> bool:
        """Remove kept programs that have failed; return whether there were any.

        torch then drops the programs compiled in this process: compile the modules again.
        """
        if not self._is_restored:
            return False
        self._cache.discard(self.key)
        self._is_restored = False
        torch.compiler.reset()
        return True


def _compile_in(folder: str) -> None:
    replace_environment(process_environment() | {"TORCHINDUCTOR_CACHE_DIR": folder})
