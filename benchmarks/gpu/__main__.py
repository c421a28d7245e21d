"""Measures Swell on one GPU in at most ten minutes: `make gpu`.

    make gpu                                  all stages; writes docs/gpu.md and docs/gpu.json
    make gpu GPU=--continue                   the stages that the last run had no time for
    make gpu GPU="--only make bits"           some stages
    make gpu GPU="--tiny --device cpu"        a miniature on the CPU; writes to .bench/gpu/

Needs Linux and a Python with torch, diffusers, transformers and Swell's own dependencies.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu.catalog import STAGES
from gpu.gpu_page import ROOT, page, read
from gpu.supervisor import Plan, Supervisor
from machine import commit
from swell.settings.environment import configure_libraries

#: Modules without which no stage runs, and their packages.
_NEEDED = {
    **{name: name for name in ("torch", "diffusers", "transformers", "accelerate", "safetensors")},
    **{name: name for name in ("aiohttp", "httptools", "msgspec", "numpy", "psutil", "pydantic")},
    **{name: name for name in ("rich", "starlette", "structlog", "typer", "uvicorn", "uvloop")},
    "PIL": "pillow",
    "jsonschema_rs": "jsonschema-rs",
    "markdown_it": "markdown-it-py",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}

_NO_CUDA = (
    "make gpu: {python} finds no CUDA device, so nothing was measured; "
    'make gpu GPU="--tiny --device cpu" runs all stages in miniature on the CPU, '
    "which tests the measurement itself"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages and write the page."""
    given = _arguments(arguments)
    _check(given.device)
    out = given.out or (ROOT / ".bench" / "gpu" if given.tiny else ROOT / "docs")
    out.mkdir(parents=True, exist_ok=True)
    work = given.work or Path(tempfile.gettempdir()) / "swell-gpu"
    work.mkdir(parents=True, exist_ok=True)
    log = work / "gpu.log"
    log.write_text("")
    result = _kept(out, given) if given.resume else {}
    result |= {"miniature": given.tiny, "commit": commit()}
    result["at"] = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())

    def save(now: dict[str, Any]) -> None:
        _write(out / "gpu.json", json.dumps(now, indent=1) + "\n")
        _write(out / "gpu.md", page(now))

    plan = Plan(given.device, given.tiny, work, log, 60 * given.minutes - 10, _environment(work))
    try:
        Supervisor(plan, STAGES, result, save).run(given.only or [each.name for each in STAGES])
    finally:
        shutil.copyfile(log, out / "gpu.log") if given.out else None
        if not given.keep:
            shutil.rmtree(work / "sdxl", ignore_errors=True)
    print(f"{out / 'gpu.md'} is written; the stages' own output is in {log}")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__.partition("\n")[0])
    names = [each.name for each in STAGES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=", ".join(names))
    parser.add_argument("--continue", dest="resume", action="store_true", help="keep last results")
    parser.add_argument("--minutes", type=float, default=10, help="for all stages together")
    parser.add_argument("--device", default="cuda:0", help="as torch names it")
    parser.add_argument("--tiny", action="store_true", help="tiny networks and pictures")
    parser.add_argument("--out", type=Path, help="folder for gpu.md, gpu.json and gpu.log")
    parser.add_argument("--work", type=Path, help="folder for 7 GB of weights (FLUX: 34 GB)")
    parser.add_argument("--keep", action="store_true", help="keep the weights for the next run")
    return parser.parse_args(arguments)


def _check(device: str) -> None:
    """Stop with one sentence if packages or the device are missing."""
    missing = [package for name, package in _NEEDED.items() if not importlib.util.find_spec(name)]
    if missing:
        sys.exit(
            f"make gpu: {sys.executable} lacks {', '.join(missing)}; "
            "PYTHON=... names another Python"
        )
    if device.startswith("cuda"):
        # In a child process: this one stays without a CUDA context.
        code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
        if subprocess.run([sys.executable, "-c", code], check=False).returncode:
            sys.exit(_NO_CUDA.format(python=sys.executable))
    elif not device.startswith("cpu"):
        sys.exit(f"make gpu: the device {device!r} is not known; give cuda:N, or --tiny with cpu")


def _kept(out: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Return the last result if it is of the same commit and scale."""
    last = read(out / "gpu.json") or {}
    is_same = last.get("commit") == commit() and last.get("miniature") == given.tiny
    return last if is_same else {}


def _environment(work: Path) -> dict[str, str]:
    """Return the environment of the stages: this checkout, Swell's variables, and no network."""
    configure_libraries()
    paths = [str(ROOT / "src"), str(ROOT / "benchmarks")]
    try:
        metadata.version("swell")
    except metadata.PackageNotFoundError:
        paths.append(str(_metadata(work / "metadata")))
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


def _metadata(folder: Path) -> Path:
    """Write the version of the checkout where Python looks for it, as an installation does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    place = folder / f"swell-{project['version']}.dist-info"
    place.mkdir(parents=True, exist_ok=True)
    name, version = project["name"], project["version"]
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, so that a stop leaves the old one or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    part.replace(path)


if __name__ == "__main__":
    main()
