"""How many ways to install Swell do not end with a picture?

Builds wheels and sdists of HEAD, and with each Python from 3.11 on that this machine has installs
each of both into an empty environment, with an empty home. `pip check` must have nothing to say,
the web app must be there, and the default pipeline must draw a picture through the whole path.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from demo_fresh import look
from machine import ROOT, report, say

PROMPT = "un zorro rojo en la nieve"
SMALLEST_PX = 256
STEP_LIMIT_S = 600


@dataclass(frozen=True)
class Release:
    """What is published: a wheel and an sdist of Swell, and the weights."""

    wheel: Path
    sdist: Path
    models_wheel: Path
    models_sdist: Path
    constraints: Path


def pythons() -> list[str]:
    """Return the Pythons of this machine that Swell is for and that can make environments."""
    found = [f"python3.{minor}" for minor in range(11, 20) if shutil.which(f"python3.{minor}")]
    return [each for each in found if not ran([each, "-c", "import ensurepip, venv"]).returncode]


def ran(
    words: list[str | Path], folder: Path = ROOT, home: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command without anything of this checkout in its environment."""
    left_out = ("SWELL_", "MAKE", "PYTHON", "VIRTUAL_ENV", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=kept if home is None else kept | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=STEP_LIMIT_S,
        check=False,
    )


def built(folder: Path, python: str) -> Release:
    """Build what would be published, from a clone."""
    clone, tools, dist = folder / "clone", folder / "tools", folder / "dist"
    for words, where in (
        (["git", "clone", "--quiet", ROOT, clone], folder),
        ([python, "-m", "venv", tools], folder),
        ([tools / "bin" / "pip", "install", "--quiet", "hatchling"], folder),
        ([tools / "bin" / "hatchling", "build", "-d", dist], clone),
        ([tools / "bin" / "hatchling", "build", "-d", dist], clone / "packages" / "swell-models"),
    ):
        done = ran(list(words), where)
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stdout[-1000:]}{done.stderr[-2000:]}")

    def one(pattern: str) -> Path:
        [found] = dist.glob(pattern)
        return found

    return Release(
        wheel=one("swell-*.whl"),
        sdist=one("swell-*.tar.gz"),
        models_wheel=one("swell_models-*.whl"),
        models_sdist=one("swell_models-*.tar.gz"),
        constraints=clone / "constraints.txt",
    )


def trouble(release: Release, python: str, form: str, folder: Path) -> str | None:
    """Install one form with one Python and draw; return what went wrong."""
    here, home, data = folder / "venv", folder / "home", folder / "empty"
    for each in (home, data):
        each.mkdir(parents=True)
    swell, models = (
        (release.wheel, release.models_wheel)
        if form == "wheel"
        else (release.sdist, release.models_sdist)
    )
    pip = [here / "bin" / "python", "-m", "pip"]
    web = "import importlib.resources as r; (r.files('swell') / 'web' / 'index.html').read_text()"
    done = None
    for words in (
        [python, "-m", "venv", here],
        [*pip, "install", "--quiet", "-c", release.constraints, f"{swell}[embedded]", models],
        [*pip, "check"],
        [here / "bin" / "python", "-c", web],
        [here / "bin" / "swell", "demo", "--once", "--port", "0", "--prompt", PROMPT],
    ):  # fmt: skip
        done = ran(list(words), data, home)
        if done.returncode:
            return f"{' '.join(map(str, words))}: {(done.stdout + done.stderr)[-2000:]}"
    assert done is not None
    picture = look(data / done.stdout.strip().splitlines()[-1])
    is_picture = min(picture["width"], picture["height"]) >= SMALLEST_PX and picture["spread"] > 10
    return None if is_picture else f"no picture: {picture}"


def main() -> None:
    """Build, install, draw, report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = pythons()
    wrong: dict[str, str] = {}
    took_s: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="swell-release-") as folder:
        say(f"building, with {found[0]}")
        release = built(Path(folder), found[0])
        sizes = {path.name: path.stat().st_size for path in release.wheel.parent.iterdir()}
        for python in found:
            for form in ("wheel", "sdist"):
                name = f"{python} {form}"
                say(name)
                began_s = time.monotonic()
                why = trouble(release, python, form, Path(folder) / name.replace(" ", "-"))
                took_s[name] = round(time.monotonic() - began_s, 1)
                if why:
                    say(why)
                    wrong[name] = why
                shutil.rmtree(Path(folder) / name.replace(" ", "-"))
    report(len(wrong), {"took_s": took_s, "wrong": wrong, "bytes": sizes})


if __name__ == "__main__":
    main()
