"""Images, and workers that run in them, for tests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container_rig import Container, until

from commandline import Swell

#: Stand in what this machine's pip is told, and must not stand in an image.
MARK = "mark-of-the-building-machine"

#: Draws nothing, and takes as long as it is told; says in its output who ran it.
SLOW = '''
"""Waits."""

import os
import time
from typing import Annotated

import swell
from pydantic import Field

from pace import TICK_S


@swell.model("acme/slow")
def slow(text: str, wait_s: Annotated[float, Field(ge=0, le=60)] = 0.0) -> str:
    ends_s = time.monotonic() + wait_s
    while time.monotonic() < ends_s:
        time.sleep(TICK_S)
    return f"{text} by {os.getuid()}"
'''


@dataclass(frozen=True)
class Image:
    """An image, and what `swell build` told of it."""

    tag: str
    told: dict[str, Any]
    folder: Path


@dataclass
class Backend:
    """A backend on this machine, and workers in containers."""

    swell: Swell
    url: str
    token: str
    folder: Path
    containers: list[Container] = field(default_factory=list)

    def worker(self, image: Image, name: str, *options: str, **variables: str) -> Container:
        """Start a worker from an image: a URL and a key are all that it needs."""
        container = Container(image.tag, f"{self.folder.name}-{name}", self.folder / f"{name}.log")
        self.containers.append(container)
        told = {"SWELL_WORKER__URL": self.url, "SWELL_WORKER__TOKEN": self.token}
        container.start(told | {"SWELL_WORKER__NAME": name} | variables, *options)
        return container

    def typed(self, image: Image, name: str, script: str, *instead: tuple[str, str]) -> Container:
        """Start a worker by a `docker run` of a page, by podman and with no GPU."""
        container = Container(image.tag, f"{self.folder.name}-{name}", self.folder / f"{name}.log")
        self.containers.append(container)
        script = script.replace(" --gpus all", "")
        for there, here in instead:
            assert there in script, there
            script = script.replace(there, here)
        container.type(script, SWELL_WORKER__NAME=name)
        return container

    def joined(self, name: str, container: Container) -> None:
        """Wait until a worker takes tasks."""

        def has_joined() -> bool:
            assert container.process is not None
            assert container.process.poll() in (None, 0), container.said()
            workers = self.swell.json("workers")
            return any(each["name"] == name for each in workers)

        until(has_joined, f"worker {name}")

    def submit(self, model: str, *inputs: str, **options: str) -> str:
        words = [word for each in inputs for word in ("-i", each)]
        words += [word for name, value in options.items() for word in (f"--{name}", value)]
        return self.swell.ok("tasks", "submit", model, *words).strip()

    def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.swell.json("tasks", "show", task_id)
        return found

    def is_running(self, task_id: str) -> bool:
        return bool(self.task(task_id)["state"] == "running")

    def ended(self, task_id: str) -> dict[str, Any]:
        """Return a task once it has ended."""
        ends = ("succeeded", "failed", "canceled", "expired")
        until(lambda: self.task(task_id)["state"] in ends, "end of the task")
        return self.task(task_id)
