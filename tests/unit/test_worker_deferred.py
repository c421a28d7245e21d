"""The compiler of torch, imported when it is asked for; a package of that name stands for it."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = {
    "torch/__init__.py": """
import importlib

def __getattr__(name):
    if name == "_dynamo":
        return importlib.import_module("torch._dynamo")
    raise AttributeError(name)
""",
    "torch/_dynamo/__init__.py": """
import torch
allowed, disabled = [], []

from . import config

def allow_in_graph(fn):
    allowed.append(fn)
    return fn

def disable(fn=None, recursive=True, *, reason=None):
    def wrapper(*args):
        disabled.append((fn.__name__, reason))
        return fn(*args)
    wrapper._torchdynamo_disable = True
    return wrapper
""",
    # As the compiler's own modules do it.
    "torch/_dynamo/config.py": "import torch\nseen = torch._dynamo.allowed\nlimit = 8\n",
}

BEGIN = """
import gc, inspect, sys
from swell.worker.deferred import defer_compiler
defer_compiler()
defer_compiler()
from torch._dynamo import allow_in_graph

@allow_in_graph
class Block: pass

@allow_in_graph
class Gone: pass

del Gone
gc.collect()

import torch

@torch._dynamo.disable
def plain(x): return x + 1

@torch._dynamo.disable(reason="slow")
def told(x): return x + 2

def is_there(): return "torch._dynamo.config" in sys.modules

inspect.getmodule(inspect.currentframe())
assert plain(1) == 2 and told(1) == 3 and plain.__name__ == "plain"
assert not is_there()
"""


def run(folder: Path, code: str, begin: str = BEGIN) -> None:
    for name, text in PACKAGE.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{begin}\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "asked",
    [
        "torch._dynamo.config.limit = 9",
        "import torch._dynamo.config as config; config.limit = 9",
        "from torch._dynamo import config; config.limit = 9",
        "import torch._dynamo.config; torch._dynamo.config.limit = 9",
    ],
)
def test_whoever_asks_for_the_compiler_has_it_and_it_knows_what_was_decorated(
    tmp_path: Path, asked: str
) -> None:
    run(
        tmp_path,
        f"""
{asked}
real = sys.modules["torch._dynamo"]
assert torch._dynamo is real and real.config is sys.modules["torch._dynamo.config"]
assert real.config.limit == 9 and real.config.__spec__.origin
assert real.allowed == [Block]
assert plain._torchdynamo_disable and told._torchdynamo_disable
assert plain(1) == 2 and told(1) == 3
assert real.disabled == [("plain", None), ("told", "slow")], real.disabled
assert allow_in_graph(run := lambda: 0) is run and run in real.allowed
""",
    )


def test_a_stand_in_that_somebody_holds_goes_on_as_the_compiler(tmp_path: Path) -> None:
    held = "import torch._dynamo as held\n"
    run(tmp_path, f"{held}held.new = 1\nassert torch._dynamo.new == 1 and 'allowed' in dir(held)")


def test_what_a_compiler_does_not_have_it_has_not(tmp_path: Path) -> None:
    run(tmp_path, "assert not hasattr(torch._dynamo, 'nothing') and is_there()")


def test_a_compiler_that_is_imported_already_stays(tmp_path: Path) -> None:
    begin = "import torch._dynamo as real\n" + BEGIN.partition("from torch")[0]
    run(tmp_path, "import torch\nassert torch._dynamo is real and torch._dynamo.config", begin)


def test_a_torch_without_a_compiler_has_none(tmp_path: Path) -> None:
    begin = BEGIN.partition("from torch")[0]
    code = """
import shutil
shutil.rmtree(sys.path[0] + "/torch/_dynamo")
try:
    from torch._dynamo import allow_in_graph
except ImportError:
    sys.exit(0)
sys.exit("it was imported")
"""
    run(tmp_path, code, begin)
