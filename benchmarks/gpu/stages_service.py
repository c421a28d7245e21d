"""`swell up` on the device: pictures over HTTP, a killed model process, two models in turns."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from gpu.rig import Rig, drop_from_page_cache
from gpu.swell_engine import SHARED, add_only, ask

#: Name of the second model.
_OTHER = "gpu/other"

#: Share of the two models' weights for which the device has room.
_ROOM = 0.7

_FINAL = ("succeeded", "failed", "canceled")


@dataclass(frozen=True)
class Service:
    """A running service, and the rig for its deadline."""

    rig: Rig
    process: subprocess.Popen[str]
    url: str
    key: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def submit(self, asked: dict[str, Any], model: str = SHARED) -> str:
        task = self.call("POST", "/v1/tasks", {"model": model, "input": asked})
        return str(task["id"])

    def wait(self, ids: Sequence[str]) -> list[str]:
        """Wait for tasks to end; return their states, and "unfinished" for lack of time."""
        states: dict[str, str] = {}
        while len(states) < len(ids) and self.rig.left_s() > 5:
            for each in [one for one in ids if one not in states]:
                state = self.call("GET", f"/v1/tasks/{each}")["state"]
                if state in _FINAL:
                    states[each] = state
            time.sleep(0.05)
        self.rig.is_cut = self.rig.is_cut or len(states) < len(ids)
        return [states.get(each, "unfinished") for each in ids]


@contextlib.contextmanager
def _served(rig: Rig, *names: str, **environment: str) -> Iterator[Service]:
    """Run `swell up` with some models, and report when it was ready and drew a first picture."""
    command = [sys.executable, "-m", "swell", "up"]
    command += [word for name in names for word in ("-m", name)]
    command += ["--device", rig.device, "--slots", "8", "--port", "0"]
    command += ["--data", str(rig.data), "--json"]
    begin_s = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"swell up ended with {process.wait(10)}: see the log")
        ready = json.loads(line)
        rig.row("`swell up` is ready", s=round(time.perf_counter() - begin_s, 1))
        service = Service(rig, process, ready["url"], ready["key"])
        states = service.wait([service.submit(ask(rig, 0), names[0])])
        seconds = round(time.perf_counter() - begin_s, 1)
        rig.row("first picture after the start", s=seconds, states=_counted(states))
        yield service
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Stop the service, and kill those of its processes that remain."""
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        _, remaining = psutil.wait_procs(children, timeout=1)
        for each in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
    process.kill()
    process.wait()


def _counted(states: Sequence[str]) -> str:
    return ", ".join(f"{states.count(each)} {each}" for each in sorted(set(states)))


def over_http(rig: Rig) -> None:
    """Draw sixteen mixed pictures, then kill the model process while it draws three."""
    add_only(rig, SHARED)
    drop_from_page_cache(rig.sdxl)
    with _served(rig, SHARED) as service:
        begin_s = time.perf_counter()
        steps = (rig.short_steps, rig.long_steps)
        ids = [
            service.submit(ask(rig, number, steps[number % 2], rig.sizes[number % 2]))
            for number in range(16)
        ]
        states = service.wait(ids)
        seconds = time.perf_counter() - begin_s
        rig.row(
            f"sixteen of {steps[0]} and {steps[1]} steps, two sizes",
            s=round(seconds, 1),
            pictures_per_s=round(states.count("succeeded") / seconds, 3),
            states=_counted(states),
        )
        ids = [service.submit(ask(rig, 40 + number)) for number in range(3)]
        time.sleep(0.3 if rig.tiny else 3)
        begin_s = time.perf_counter()
        _kill_largest(service.process.pid)
        states = service.wait(ids)
        rig.row(
            "three while the model process is killed",
            s=round(time.perf_counter() - begin_s, 1),
            states=_counted(states),
        )


def _kill_largest(pid: int) -> None:
    """Kill the largest process below another one: that of the model."""
    children = psutil.Process(pid).children(recursive=True)
    max(children, key=lambda each: each.memory_info().rss).kill()


def two_models(rig: Rig) -> None:
    """Serve two models in turns; the memory budget has room for one."""
    add_only(rig, SHARED, _OTHER)
    size = sum(path.stat().st_size for path in rig.sdxl.rglob("*.safetensors"))
    budget = int(2 * _ROOM * size)
    rig.row("memory budget of the two models", GiB=rig.gib(budget))
    limit = {"SWELL_WORKER__DEVICE_MEMORY_BYTES": str(budget)}
    with _served(rig, SHARED, _OTHER, **limit) as service:

        def each(names: Sequence[str]) -> float | None:
            taken = []
            for number, name in enumerate(names):
                if not rig.has_time(10):
                    break
                begin_s = time.perf_counter()
                asked = ask(rig, 60 + number, rig.short_steps, guidance=0.0)
                if service.wait([service.submit(asked, name)]) == ["succeeded"]:
                    taken.append(time.perf_counter() - begin_s)
            return round(statistics.median(taken), 2) if taken else None

        rig.row("first change to the other model and back, median", s=each([_OTHER, SHARED]))
        same, turns = each([SHARED] * 4), each([_OTHER, SHARED] * 4)
        rig.row("a picture of the same model as before, median", s=same)
        rig.row("a picture of the other model than before, median", s=turns)
        if same and turns:
            rig.row("so a change takes", s=round(turns - same, 2))
        begin_s = time.perf_counter()
        names = (SHARED, _OTHER)
        ids = [
            service.submit(ask(rig, 80 + number, rig.short_steps, guidance=0.0), names[number % 2])
            for number in range(12)
        ]
        states = service.wait(ids)
        seconds = round(time.perf_counter() - begin_s, 1)
        rig.row("twelve of both models, submitted at once", s=seconds, states=_counted(states))
