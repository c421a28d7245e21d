"""Compiled programs of torch, kept between processes; needs torch and a C++ compiler."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from swell.settings.environment import process_environment, replace_environment
from swell.weights.compile_cache import CompileCache
from swell.weights.torch_compiled import TorchCompiled

PROCESS = """
import json, sys
from pathlib import Path
import torch
from swell.weights.compile_cache import CompileCache
from swell.weights.torch_compiled import TorchCompiled

compiled = TorchCompiled(CompileCache(Path(sys.argv[1])), ["0" * 64], "1", "cpu")
told = [compiled.restore()]
for given_up in (False, True):
    if given_up:
        told.append(compiled.give_up())
    twice = torch.compile(lambda x: (x * 2).relu().sum())
    told.append(twice(torch.arange(-3.0, 4.0)).item())
    told.append(torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_process_has_what_an_earlier_one_compiled_until_it_gives_up(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", PROCESS, str(tmp_path / "compiled")]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append(json.loads(ran.stdout))
        assert len(found) == 2 or list(tmp_path.rglob("*.so"))
    assert found[0][:5] == [False, 12.0, 0, False, 12.0]
    assert found[1] == [True, 12.0, 1, True, 12.0, 1], "compiled again after it gave up"


@contextlib.contextmanager
def same_environment() -> Iterator[None]:
    before = process_environment()
    try:
        yield
    finally:
        replace_environment(before)


def test_where_others_can_write_nothing_is_used_or_kept_and_the_model_compiles(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "compiled"
    compiled = TorchCompiled(CompileCache(folder), ["0" * 64], "1", "cpu")
    place, _ = CompileCache(folder).open(compiled.key)
    (place / "never.so").write_bytes(b"read")
    folder.chmod(0o777)
    with same_environment():
        assert not compiled.restore()
        own = Path(process_environment()["TORCHINDUCTOR_CACHE_DIR"])
        assert own.stat().st_mode & 0o077 == 0
        assert folder not in own.parents
        assert not compiled.give_up()
    shutil.rmtree(own)
    assert "compiled programs are not kept" in capfd.readouterr().err


def test_a_key_tells_device_and_versions_apart(tmp_path: Path) -> None:
    cache = CompileCache(tmp_path / "compiled")
    one = TorchCompiled(cache, ["0" * 64], "1", "cpu").key
    assert one == TorchCompiled(cache, ["0" * 64], "1", "cpu").key
    assert one != TorchCompiled(cache, ["1" * 64], "1", "cpu").key
    assert one != TorchCompiled(cache, ["0" * 64], "2", "cpu").key
    assert one == TorchCompiled(cache, ["0" * 64], "1", "cpu:0").key, "it is the same device"
