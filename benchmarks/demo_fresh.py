"""How long from a fresh clone with nothing installed to the first picture, by `make demo ONCE=1`?

Clones HEAD into an empty folder and times the command a newcomer types, with a prompt of its own.
Packages may lie in pip's cache; the virtual environment does not exist. The picture is opened and
looked at: its size, and that it is not one colour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from machine import ROOT, report, say

TARGET_S = 90.0
PROMPT = "a red fox in the snow"
SMALLEST_PX = 256


def main() -> None:
    """Clone, run, look, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit-s", type=float, default=480.0, help="give up after so long")
    limit_s = parser.parse_args().limit_s
    with tempfile.TemporaryDirectory(prefix="swell-fresh-") as folder:
        clone = Path(folder) / "swell"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        say(f"cloned; make demo ONCE=1 PROMPT={PROMPT!r}")
        started_s = time.monotonic()
        done = subprocess.run(
            ["make", "demo", "ONCE=1", f"PROMPT={PROMPT}", "PORT=0"],
            cwd=clone,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        took_s = time.monotonic() - started_s
        say(done.stderr)
        if done.returncode != 0:
            report(None, {"error": (done.stdout + done.stderr)[-2000:]}, ok=False)
            return
        picture = look(clone / done.stdout.strip().splitlines()[-1])
    is_picture = min(picture["width"], picture["height"]) >= SMALLEST_PX and picture["spread"] > 10
    ok = is_picture and took_s <= TARGET_S
    report(took_s, {"picture": picture, "said": done.stderr.strip().splitlines()[-3:]}, ok=ok)


def _environment() -> dict[str, str]:
    """What a newcomer's shell has: no virtual environment of ours, and none of our settings."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWELL_", "MAKE"))}
    own = environment.pop("VIRTUAL_ENV", None) or str(ROOT / ".venv")
    paths = [p for p in environment["PATH"].split(os.pathsep) if not p.startswith(own)]
    return environment | {"PATH": os.pathsep.join(paths)}


def look(path: Path) -> dict[str, object]:
    """Open the picture; `spread` is the standard deviation of its values, 0 to 127."""
    with Image.open(path) as picture:
        picture.load()
        pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
        return {
            "name": path.name,
            "format": picture.format,
            "width": picture.width,
            "height": picture.height,
            "bytes": path.stat().st_size,
            "spread": round(float(pixels.std()), 1),
        }


if __name__ == "__main__":
    main()
