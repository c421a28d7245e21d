"""Runs stages in child processes, with deadlines. Imports no torch.

A stage that raises, crashes, or runs too long ends with its rows so far; the next one runs.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu.catalog import LOADING_S, Stage

#: Seconds that a stage may take to end by itself after its deadline.
GRACE_S = 5.0

#: Seconds that a process may take to import torch and to describe its machine.
STARTING_S = 120.0

#: Statuses of stages with complete rows.
DONE = ("measured",)

Result = dict[str, Any]


class Died(Exception):
    """The process of the stages has ended."""


class Late(Exception):
    """The process of the stages did not answer in time."""


@dataclass(frozen=True)
class Plan:
    """Where stages run, and how long all of them may take.

    Args:
        device: As torch names it.
        tiny: Whether to run the miniature.
        work: Folder for weights and data.
        log: File for the output of the stages' processes.
        seconds: Seconds for all stages together.
        environment: Environment of the stages' processes.
    """

    device: str
    tiny: bool
    work: Path
    log: Path
    seconds: float
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


class StageProcess:
    """A process that runs stages one after another.

    Attributes:
        facts: Its description of the machine.
        has_model: Whether it has loaded the model that stages share.
    """

    def __init__(self, plan: Plan, timeout_s: float) -> None:
        command = [sys.executable, "-m", "gpu.stage_process"]
        command += ["--device", plan.device, "--work", str(plan.work)]
        command += ["--tiny"] if plan.tiny else []
        self.has_model = False
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with plan.log.open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=plan.environment,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.facts = self._next(timeout_s)
        except BaseException:
            self.kill()
            raise

    def run(self, stage: Stage, seconds: float, keep: Callable[[Any], None]) -> dict[str, str]:
        """Run a stage and return its status; `keep` receives its rows.

        Raises:
            Died: The process ended.
            Late: It still runs after its deadline.
        """
        assert self._process.stdin is not None
        end_s = time.monotonic() + seconds + GRACE_S
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"run": stage.run, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
        while True:
            event = self._next(end_s - time.monotonic())
            if "row" in event:
                keep(event["row"])
            else:
                self.has_model = self.has_model or stage.uses == "model"
                return event["end"]  # type: ignore[no-any-return]

    def kill(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(GRACE_S)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._events.put(json.loads(line))
        self._events.put(None)

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            event = self._events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise Late from None
        if event is None:
            raise Died(f"its process ended with code {self._process.wait()}")
        return event


class Supervisor:
    """Runs stages in their order and keeps their rows.

    Args:
        plan: Where they run.
        stages: All stages, in their order.
        result: Receives `machine`, `versions` and `stages`; complete stages do not run again.
        save: Called with the result after each stage.
    """

    def __init__(
        self,
        plan: Plan,
        stages: Sequence[Stage],
        result: Result,
        save: Callable[[Result], None] = lambda _: None,
    ) -> None:
        self._plan, self._stages, self._save = plan, stages, save
        self.result = result
        self._kept: dict[str, Any] = result.setdefault("stages", {})
        self._end_s = time.monotonic() + plan.seconds
        self._process: StageProcess | None = None

    def run(self, chosen: Sequence[str]) -> None:
        """Run the stages with these names, except for those that are already measured."""
        try:
            for stage in self._stages:
                before = self._kept.get(stage.name, {})
                if before.get("status") in DONE and (stage.name != "make" or self._has_weights()):
                    continue
                outcome = self._outcome(stage, stage.name in chosen)
                if outcome["status"] != "not run" or not before.get("rows"):
                    self._kept[stage.name] = outcome
                self._say(stage, outcome)
                self._save(self.result)
        finally:
            self._end_process()
            self._save(self.result)

    def _outcome(self, stage: Stage, is_chosen: bool) -> dict[str, Any]:
        why = "it was not asked for" if not is_chosen else self._obstacle(stage)
        if why:
            return {"status": "not run", "why": why, "rows": []}
        if stage.process != "shared":
            self._end_process()
        begin_s, rows = time.monotonic(), []  # type: ignore[var-annotated]
        try:
            process = self._process or self._start()
            limit_s = min(stage.limit_s, self._left_s() - GRACE_S)
            end = process.run(stage, limit_s, rows.append)
        except Late:
            end = {"status": "stopped", "why": "it did not end in its time"}
            self._end_process()
        except Died as error:
            end = {"status": "failed", "why": str(error)}
            self._end_process()
        if stage.process == "own":
            self._end_process()
        return {**end, "took_s": round(time.monotonic() - begin_s, 1), "rows": rows}

    def _obstacle(self, stage: Stage) -> str:
        """Return why a stage cannot run now; nothing if it can."""
        if stage.uses != "nothing" and not self._has_weights():
            return "it needs the weights that the stage `make` writes"
        needs_s: float = stage.needs_s
        if stage.uses == "model" and not (self._process and self._process.has_model):
            needs_s += LOADING_S
        needs_s = (min(needs_s, 5) if self._plan.tiny else needs_s) + GRACE_S
        if self._left_s() < needs_s:
            return f"it needs {needs_s:.0f} s, and {max(0.0, self._left_s()):.0f} s were left"
        return ""

    def _start(self) -> StageProcess:
        self._process = StageProcess(self._plan, min(STARTING_S, self._left_s()))
        self.result |= self._process.facts
        return self._process

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _left_s(self) -> float:
        return self._end_s - time.monotonic()

    def _has_weights(self) -> bool:
        return (self._plan.work / "sdxl" / "model_index.json").exists()

    def _say(self, stage: Stage, outcome: dict[str, Any]) -> None:
        why = f": {outcome['why']}" if outcome["why"] else ""
        seconds = f" in {outcome['took_s']:.0f} s" if "took_s" in outcome else ""
        print(f"{stage.name}: {outcome['status']}{seconds}{why}", file=sys.stderr, flush=True)
