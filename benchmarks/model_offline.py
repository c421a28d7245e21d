"""Does all that comes with Swell work where there is no network at all?

Both wheels are built from this checkout and installed into an environment of their own. Then, in a
network namespace that has nothing but loopback, `swell up` is started from there, and a Spanish
prompt goes through the whole default pipeline, swell/picture: translated, checked, drawn, painted,
enlarged and looked at.

`--python FILE` takes an environment in which they are installed already.

Value: stages that ran, of six, by their names.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

from machine import ROOT, report, say

PROMPT = "un zorro rojo en la nieve"
ENGLISH = "a red fox in the snow"
#: Of swell/picture; written down here, since what runs this may not have Swell.
STAGES = ("translate", "check", "draw", "paint", "enlarge", "look")
#: Of the documentation (RFC 5737): nobody is there, and without a route nobody is asked.
OUTSIDE = ("192.0.2.1", 80)
LIMIT_S = 120
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def run(*command: str | Path) -> None:
    own = {**os.environ, "SWELL_WITHOUT_WEB": "1"}
    subprocess.run(list(map(str, command)), check=True, cwd="/", env=own, stdout=2)


def installed(folder: Path) -> Path:
    """Builds both wheels from a copy and installs them; returns the environment's Python."""
    copy, built, new = folder / "copy", folder / "built", folder / "new"
    for part in ("src", "packages"):
        shutil.copytree(ROOT / part, copy / part)
    # The web app is looked at elsewhere (web-wheel), and needs Node.js to be built.
    for part in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / part, copy)
    venv.create(new, with_pip=True)
    python = new / "bin" / "python"
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q")
    for source in (copy, copy / "packages" / "swell-models"):
        run(*pip, "wheel", "--no-deps", "-w", built, source)
    weights, swell = sorted(built.glob("*.whl"), key=lambda path: "swell_models" not in path.name)
    constraints = ROOT / "constraints.txt"
    run(*pip, "install", "-c", constraints, f"swell[embedded] @ {swell.as_uri()}", weights)
    return python


# --- inside the namespace ------------------------------------------------------------------------


def raise_loopback() -> None:
    """What `ip link set lo up` does. Source: netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        name = b"lo".ljust(16, b"\0")
        held = fcntl.ioctl(asker, _SIOCGIFFLAGS, name + bytes(24))
        flags = struct.unpack_from("h", held, 16)[0] | _IFF_UP
        fcntl.ioctl(asker, _SIOCSIFFLAGS, name + struct.pack("h", flags) + bytes(22))


def is_cut() -> bool:
    """Whether nobody outside can be asked."""
    try:
        socket.create_connection(OUTSIDE, timeout=1).close()
    except OSError as error:
        return not isinstance(error, TimeoutError)
    return False


def inside(python: Path, folder: Path) -> dict[str, Any]:
    raise_loopback()
    assert is_cut(), "the network is not cut"
    swell = [str(python), "-m", "swell"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SWELL_", "PYTHONPATH"))}
    begun = time.perf_counter()
    with (folder / "up.txt").open("w") as log:
        server = subprocess.Popen(
            [*swell, "up", "--json", "--port", "0"],
            cwd=folder,
            env=clean,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, (folder / "up.txt").read_text()
        up_s = time.perf_counter() - begun
        inputs = (f"prompt={PROMPT}", "art=starlight", "large=true")
        words = [word for pair in inputs for word in ("-i", pair)]
        done = subprocess.run(
            [*swell, "tasks", "submit", "swell/picture", *words, "--watch", "--json"],
            cwd=folder,
            env=clean,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        took_s = time.perf_counter() - begun
        if done.returncode:
            return {"error": done.stderr[-2000:], "log": (folder / "up.txt").read_text()[-2000:]}
        return {"said": json.loads(done.stdout), "up_s": up_s, "took_s": took_s}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--python", type=Path, help="of an environment with both wheels")
    parse.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parse.parse_args()
    if args.inside:
        print(json.dumps(inside(args.python, args.inside)))
        return
    with tempfile.TemporaryDirectory(prefix="swell-offline-") as name:
        folder = Path(name)
        # Not resolved: it tells its environment by where it lies.
        python = args.python.absolute() if args.python else installed(folder)
        say("installed; the network is cut")
        # Who is not root becomes root of a user namespace first.
        cut = ["unshare", "--net"] + (["--map-root-user"] if os.getuid() else [])
        command = [sys.executable, __file__, "--python", str(python), "--inside", str(folder)]
        done = subprocess.run(
            [*cut, *command], stdout=subprocess.PIPE, text=True, check=False, timeout=2 * LIMIT_S
        )
    told = json.loads(done.stdout) if done.stdout else {"error": f"exit status {done.returncode}"}
    if "error" in told:
        report(None, told, ok=False)
        return
    task = told["said"]
    stages = {stage["name"]: stage for stage in task["stages"]}
    value = sum(stages[name]["state"] == "succeeded" for name in STAGES)
    translated = stages["translate"]["output"]
    is_right = translated["text"] == ENGLISH and translated["language"] == "es"
    detail = {
        "prompt": PROMPT,
        "drawn": translated["text"],
        "stages_s": {name: (stages[name]["timings"] or {}).get("run_s") for name in STAGES},
        "looked": stages["look"]["output"],
        "seconds_from_start_to_picture": round(told["took_s"], 2),
        "seconds_until_up": round(told["up_s"], 2),
    }
    report(float(value), detail, ok=is_right)


if __name__ == "__main__":
    main()
