"""What torch.compile made, kept between processes; needs torch and a C++ compiler."""

import contextlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch

from swell.settings.environment import process_environment, replace_environment
from swell.weights.compile_cache import CompiledCache
from swell.weights.torch_compiled import TorchCompiled

PROCESS = """
import json, os, sys
from pathlib import Path
import torch
from swell.weights.compile_cache import CompiledCache
from swell.weights.torch_compiled import TorchCompiled

compiled = TorchCompiled(CompiledCache(Path(sys.argv[1])), ["0" * 64], sys.argv[2], "cpu")
restored = compiled.restore()
there = len(list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.so")))
twice = torch.compile(lambda x: (x * 2).relu().sum())
said = twice(torch.arange(-3.0, 4.0)).item()
print(json.dumps([restored, there, said, compiled.keep()]))
"""

GIVES_UP = """
import json, os, sys
from pathlib import Path
import torch
from swell.weights.compile_cache import CompiledCache
from swell.weights.torch_compiled import TorchCompiled

cache = CompiledCache(Path(sys.argv[1]))
compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
restored = compiled.restore()
twice = torch.compile(lambda x: (x * 2).relu().sum())
twice(torch.arange(-3.0, 4.0))
given_up = compiled.give_up()
left = len(list(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).rglob("*.so")))
anew = torch.compile(lambda x: (x * 2).relu().sum())
said = anew(torch.arange(-3.0, 4.0)).item()
print(json.dumps([restored, given_up, left, said, compiled.keep()]))
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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_what_has_failed_is_compiled_anew_by_the_same_process(tmp_path: Path) -> None:
    folder = tmp_path / "compiled"
    compiled_by_a_process(folder, "1")
    ran = subprocess.run(
        [sys.executable, "-c", GIVES_UP, str(folder)], capture_output=True, text=True, check=True
    )
    assert json.loads(ran.stdout) == [True, True, 0, 12.0, True]
    assert compiled_by_a_process(folder, "1")[0] is True


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    before = process_environment()
    try:
        yield
    finally:
        replace_environment(before)


def test_a_program_that_cannot_be_read_is_used_no_more_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graphs: bytes) -> None:
        raise RuntimeError("a pickle of another time")

    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", broken)
    cache = CompiledCache(tmp_path / "compiled")
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    packed = {"graphs": b"graphs", "libraries": {"x.so": b"code"}}
    cache.put(compiled.key, msgspec.msgpack.encode(packed))
    with same_environment():
        assert not compiled.restore()
        folder = Path(process_environment()["TORCHINDUCTOR_CACHE_DIR"])
    assert cache.get(compiled.key) is None
    assert list(folder.iterdir()) == [], "nothing of it lies where torch looks from now on"
    assert not compiled.give_up(), "there is nothing more to give up"


def test_a_torch_that_cannot_forget_a_failed_program_keeps_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", lambda graphs: "told")
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"more", "told"))
    monkeypatch.setitem(sys.modules, "torch.compiler._cache", None)
    cache = CompiledCache(tmp_path / "compiled")
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    packed = {"graphs": b"graphs", "libraries": {"x.so": b"code"}}
    cache.put(compiled.key, msgspec.msgpack.encode(packed))
    with same_environment():
        assert compiled.restore()
        assert compiled.give_up()
        assert not compiled.keep()
    assert cache.get(compiled.key) is None


def test_what_adds_to_a_kept_program_is_kept_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", lambda graphs: "told")
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (b"more", "told"))
    cache = CompiledCache(tmp_path / "compiled")
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    packed = {"graphs": b"graphs", "libraries": {"x.so": b"code"}}
    cache.put(compiled.key, msgspec.msgpack.encode(packed))
    with same_environment():
        assert compiled.restore()
        (Path(process_environment()["TORCHINDUCTOR_CACHE_DIR"]) / "own.so").write_bytes(b"code")
        assert compiled.keep()
    content = cache.get(compiled.key)
    assert content is not None
    assert set(msgspec.msgpack.decode(content)["libraries"]) == {"x.so", "own.so"}
    assert not list((cache.folder / "work").glob("*.trial"))


def test_where_others_can_write_nothing_is_used_or_kept_and_the_model_compiles(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "compiled"
    cache = CompiledCache(folder)
    compiled = TorchCompiled(cache, ["0" * 64], "1", "cpu")
    cache.put(compiled.key, msgspec.msgpack.encode({"graphs": b"never read", "libraries": {}}))
    folder.chmod(0o777)
    with same_environment():
        assert not compiled.restore()
        own = Path(process_environment()["TORCHINDUCTOR_CACHE_DIR"])
        assert own.stat().st_mode & 0o077 == 0
        assert folder not in own.parents
        assert not compiled.keep()
        assert not compiled.give_up()
    shutil.rmtree(own)
    assert "compiled programs are not kept" in capfd.readouterr().err


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
    assert one == TorchCompiled(cache, ["0" * 64], "1", "cpu:0").key, "it is the same device"
    assert len(one.digest) == 64
