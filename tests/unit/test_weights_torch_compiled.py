"""What torch.compile made, kept between processes; needs torch and a C++ compiler."""

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from swell.config import process_environment, replace_environment
from swell.weights import CompiledCache
from swell.weights.torch_compiled import TorchCompiled

PROCESS = """
import json, os, sys
from pathlib import Path
import torch
from swell.weights import CompiledCache
from swell.weights.torch_compiled import TorchCompiled

compiled = TorchCompiled(CompiledCache(Path(sys.argv[1])), ["0" * 64], sys.argv[2], "cpu")
restored = compiled.restore()
there = len(list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.so")))
twice = torch.compile(lambda x: (x * 2).relu().sum())
said = twice(torch.arange(-3.0, 4.0)).item()
print(json.dumps([restored, there, said, compiled.keep()]))
"""


def compiled_by_a_process(folder: Path, version: str) -> list[object]:
    ran = subprocess.run(
        [sys.executable, "-c", PROCESS, str(folder), version],
        capture_output=True,
        text=True,
        check=True,
    )
    told: list[object] = json.loads(ran.stdout)
    return told


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_process_has_what_an_earlier_one_compiled(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    assert compiled_by_a_process(folder, "1") == [False, 0, 12.0, True]
    restored, libraries, said, is_new = compiled_by_a_process(folder, "1")
    assert (restored, said, is_new) == (True, 12.0, False)
    assert isinstance(libraries, int)
    assert libraries > 0
    # Another version of the model's code finds nothing.
    assert compiled_by_a_process(folder, "2")[:2] == [False, 0]


@pytest.mark.parametrize(
    "name", ["../x.so", "/x.so", "a/../../x.so", "a//x.so", "./x.so", "x.txt", "x\n.so", "", ".so/"]
)
def test_a_library_that_would_lie_elsewhere_is_not_written(tmp_path: Path, name: str) -> None:
    cache = CompiledCache(tmp_path / "compiled")
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    packed = {"graphs": b"never read", "libraries": {"good/x.so": b"code", name: b"code"}}
    cache.put(compiled.key, msgspec.msgpack.encode(packed))
    before = process_environment()
    try:
        assert not compiled.restore()
    finally:
        replace_environment(before)
    assert not list(tmp_path.rglob("x.*")), "not even the good one"


def test_what_is_no_pack_is_compiled_anew(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "compiled")
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    cache.put(compiled.key, b"\x80\x04rubbish")
    before = process_environment()
    try:
        assert not compiled.restore()
    finally:
        replace_environment(before)


def test_on_a_disk_that_takes_no_libraries_it_is_compiled_anew(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "compiled")
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    packed = {"graphs": b"never read", "libraries": {"x.so": bytes(1 << 16)}}
    cache.put(compiled.key, msgspec.msgpack.encode(packed))
    before, limits = process_environment(), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
    try:
        assert not compiled.restore()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
        replace_environment(before)
    assert not list(tmp_path.rglob("x.so")), "not even a part of it"


def test_a_key_tells_device_and_versions_apart(tmp_path: Path) -> None:
    cache = CompiledCache(tmp_path / "compiled")
    one = TorchCompiled(cache, ["0" * 64], "1", "cpu").key
    assert one == TorchCompiled(cache, ["0" * 64], "1", "cpu").key
    assert one != TorchCompiled(cache, ["1" * 64], "1", "cpu").key
    assert len(one.digest) == 64
