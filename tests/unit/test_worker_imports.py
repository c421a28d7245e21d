"""What is imported before a fork, and what must be equal between a worker and its server."""

import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from swell.worker import forkserver
from swell.worker.forkserver import Unforkable
from swell.worker.imports import outside_modules
from swell.worker.warm import ForksSettings, facts, identity

SETTINGS = ForksSettings(Path("warm"))


def module(name: str, origin: str | None, spec_name: str = "") -> types.ModuleType:
    made = types.ModuleType(name)
    made.__spec__ = ModuleSpec(spec_name or name, None, origin=origin)
    return made


def test_only_installed_modules_are_imported_for_others_in_their_order() -> None:
    installed = "/env/lib/python3.13/site-packages"
    found = {
        "os": module("os", "/usr/lib/python3.13/os.py"),
        "torch": module("torch", f"{installed}/torch/__init__.py"),
        "torch.ops": types.ModuleType("torch.ops"),
        "swell.model": module("swell.model", f"{installed}/swell/model.py"),
        "my_models.poster": module("my_models.poster", f"{installed}/my_models/poster.py"),
        "onnxruntime": module("onnxruntime", f"{installed}/onnxruntime/__init__.py"),
        "alias": module("alias", f"{installed}/real.py", "real"),
        "space": module("space", None),
        "near": module("near", "/srv/models/near.py"),
        "diffusers": module("diffusers", "/usr/lib/python3/dist-packages/diffusers/__init__.py"),
    }
    assert outside_modules(found, ["my_models.poster:Poster"]) == ["torch", "diffusers"]


@pytest.mark.parametrize(
    ("settings", "modules", "environment"),
    [
        (ForksSettings(Path("warm"), warm_s=1.0), ["torch"], {"A": "1"}),
        (SETTINGS, ["torch", "numpy"], {"A": "1"}),
        (SETTINGS, ["torch"], {"A": "2"}),
        (SETTINGS, ["torch"], {"A": "1", "OMP_NUM_THREADS": "1"}),
    ],
)
def test_whoever_differs_in_what_matters_finds_no_server(
    settings: ForksSettings, modules: list[str], environment: dict[str, str]
) -> None:
    one = identity(facts(SETTINGS, ["torch"], {"A": "1"}))
    assert one == identity(facts(SETTINGS, ["torch"], {"A": "1"}))
    assert one != identity(facts(settings, modules, environment))


def test_what_differs_at_each_start_makes_no_difference() -> None:
    fleeting = {"INVOCATION_ID": "x", "SWELL_WORKER__TOKEN": "secret", "SHLVL": "2"}
    assert identity(facts(SETTINGS, [], {})) == identity(facts(SETTINGS, [], fleeting))


def test_an_upgraded_package_makes_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = set()
    for version in ("1.0", "1.1"):
        (tmp_path / f"poster-{version}.dist-info").mkdir()
        seen.add(identity(facts(SETTINGS, [], {})))
        (tmp_path / f"poster-{version}.dist-info").rmdir()
    assert len(seen) == 2


@pytest.mark.parametrize("device", ["/dev/nvidia-uvm", "/dev/kfd"])
def test_a_process_that_has_a_gpu_open_is_not_forked(device: str) -> None:
    forkserver.refuse_devices(["/dev/null", "socket:[1]", "/dev/nvidiactl"])
    with pytest.raises(Unforkable, match=device):
        forkserver.refuse_devices(["/dev/null", device])
