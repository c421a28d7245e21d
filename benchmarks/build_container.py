"""Does a worker from an image join, fetch its weights, draw and drain, as nobody special?

`swell build swell/icons` makes an image without weights; they are pushed to a backend on this
machine. A container of the image is given the backend's URL and a key, and nothing else. It must
join, draw a picture with the version that was built, end a task that runs when SIGTERM comes, and
exit with 0. The image must hold no weights, run as an ordinary user, and its check must find the
worker healthy.

Value: 1 if all of that holds, else 0.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import ROOT, report, say
from processes import free_port

sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "tests" / "containers"))

from container_cases import Backend, Image
from container_rig import build, mounted, podman, until, why_not

from commandline import Swell, ready_line, stop

TAG = "localhost/swell-bench-container:latest"
#: Whatever would be weights beside the text files of a model.
WEIGHTS = (".onnx", ".safetensors", ".onnx_data")


def facts_of(told: dict[str, Any]) -> dict[str, Any]:
    """What the image is."""
    [inspected] = json.loads(podman("inspect", "--type", "image", TAG).stdout)
    with mounted(TAG) as root:
        models = root / "opt" / "swell"
        inside = [
            path.name
            for path in models.rglob("*")
            # What packages bring for their own tests is no model's.
            if path.suffix in WEIGHTS
            and not path.is_symlink()
            and "site-packages" not in path.parts
        ]
    return {
        "image_mb": round(told["bytes"] / 1e6, 1),
        "weights_apart_mb": round(told["weights_bytes"] / 1e6, 1),
        "weights_inside": inside,
        "user": inspected["Config"]["User"],
    }


def served(folder: Path, image: Image) -> dict[str, Any]:
    """Have a container serve; say what came of it."""
    swell = Swell(folder)
    process = swell.start("serve", "--json", "--port", str(free_port()))
    try:
        ready = ready_line(process, folder)
        key = swell.json("keys", "create", "worker", "--scope", "worker")["key"]
        backend = Backend(swell, ready["url"], key, folder)
        swell.ok("models", "push", "swell/icons")
        begun_s = time.perf_counter()
        worker = backend.worker(image, "one")
        try:
            backend.joined("one", worker)
            joined_s = time.perf_counter() - begun_s
            one = backend.ended(backend.submit("swell/icons", "prompt=a red fox"))
            healthy = worker.is_healthy()
            # Long enough that it runs when the signal comes.
            last = backend.submit("swell/icons", "prompt=a blue whale", "steps=50", count="4")
            until(lambda: backend.is_running(last), "running task")
            worker.signal("SIGTERM")
            code = worker.wait()
            drained = backend.ended(last)
        finally:
            worker.remove()
        return {
            "joined_s": round(joined_s, 2),
            "picture": one["state"],
            "version": one["version"] == image.told["models"]["swell/icons"],
            "healthy": healthy,
            "exit_code": code,
            "drained": [drained["state"], drained["attempt"]],
        }
    finally:
        stop(process)


def main() -> None:
    """Build, serve, report."""
    if why := why_not():
        report(None, {"error": why}, ok=False)
        return
    with tempfile.TemporaryDirectory(prefix="swell-container-") as place:
        folder = Path(place)
        told = build("swell/icons", "--tag", TAG, folder=folder)
        facts = facts_of(told)
        say(f"{facts['image_mb']} MB")
        came = served(folder, Image(TAG, told, folder))
    holds = {
        "no weights inside": not facts["weights_inside"] and facts["weights_apart_mb"] > 1,
        "an ordinary user": facts["user"] == "10001:10001",
        "joined and drew": came["picture"] == "succeeded" and came["version"],
        "healthy": came["healthy"],
        "drained": came["exit_code"] == 0 and came["drained"] == ["succeeded", 1],
    }
    podman("rmi", "--force", TAG)
    report(float(all(holds.values())), {**facts, **came, "holds": holds}, ok=all(holds.values()))


if __name__ == "__main__":
    main()
