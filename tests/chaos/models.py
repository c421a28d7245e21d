"""Models that work, fail, refuse, or kill the process that runs them, as the input says."""

import json
import os
import random
import secrets
import signal
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

import swell

#: Failing models fail so often.
FLAKY = 0.5


class Result(BaseModel):
    """The text turned round, and a number that no other run of the same input gives.

    An outcome that was written twice would show in it.
    """

    text: str
    nonce: str


class WithFile(Result):
    """The same with a file: the nonce, again and again."""

    file: swell.File


def run_began(runs: str, name: str) -> str:
    """Write down in the file `runs` that this process works on `name`; return the run's nonce."""
    nonce = secrets.token_hex(8)
    _write_down(runs, {"name": name, "mark": nonce, "begun_s": time.monotonic()})
    return nonce


def run_ended(runs: str, name: str, nonce: str) -> None:
    """Write down that the run is over."""
    _write_down(runs, {"name": name, "mark": nonce, "ended_s": time.monotonic()})


def _write_down(runs: str, what: dict[str, object]) -> None:
    if not runs:
        return
    # One write, so that lines of several processes do not mix and a SIGKILL leaves no half of one.
    place = os.open(runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(place, json.dumps({**what, "pid": os.getpid()}).encode() + b"\n")
    finally:
        os.close(place)


class Work(swell.Model):
    """Turns a text round; four at a time."""

    name = "chaos/work"
    batch = swell.Batch(max=4)
    Output = Result | WithFile

    class Input(BaseModel):
        """What to do."""

        text: str = Field(max_length=200)
        ms: int = Field(default=0, ge=0, le=60_000)
        mode: Literal["work", "flaky", "bad", "reject", "poison", "deaf"] = "work"
        #: Poison does no harm once this file is there.
        antidote: str = ""
        #: A file that is there from when the model has begun with it.
        begun: str = ""
        #: It takes at least until this file is there.
        until: str = ""
        #: Where runs are written down.
        runs: str = ""
        #: Size of a file that comes with the text; 0 for none.
        file_bytes: int = Field(default=0, ge=0, le=2_000_000)

    def run(self, items: list[swell.Item[Input]]) -> list[Result | Exception]:
        """Take as long as the slowest asks, then give each what its mode says."""
        for begun in {item.input.begun for item in items} - {""}:
            Path(begun).touch()
        nonces = [run_began(item.input.runs, item.input.text) for item in items]
        until_s = time.monotonic() + max(item.input.ms for item in items) / 1000
        while any(item.input.mode == "deaf" for item in items) and time.monotonic() < until_s:
            time.sleep(0.01)  # and never look whether to stop
        while time.monotonic() < until_s and not all(item.cancelled for item in items):
            time.sleep(min(0.005, max(0.0, until_s - time.monotonic())))
        gates = {Path(item.input.until) for item in items if item.input.until}
        while not all(map(Path.exists, gates)) and not all(item.cancelled for item in items):
            time.sleep(0.005)
        results = [_result(item, nonce) for item, nonce in zip(items, nonces, strict=True)]
        for item, nonce in zip(items, nonces, strict=True):
            run_ended(item.input.runs, item.input.text, nonce)
        return results


@swell.model("chaos/turn")
def turn(text: str, ms: int = 0, runs: str = "") -> Result:
    """Turn a text round, as a function."""
    nonce = run_began(runs, text)
    time.sleep(ms / 1000)
    run_ended(runs, text, nonce)
    return Result(text=text[::-1], nonce=nonce)


def _result(item: "swell.Item[Work.Input]", nonce: str) -> Result | Exception:
    asked = item.input
    if item.cancelled:
        return swell.Cancelled()
    if asked.mode == "poison" and not (asked.antidote and os.path.exists(asked.antidote)):
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.mode == "bad" or (asked.mode == "flaky" and random.random() < FLAKY):
        return RuntimeError(f"no luck with {asked.text}")
    if asked.mode == "reject":
        return swell.Reject(f"nobody wants {asked.text}")
    if asked.file_bytes:
        data = (nonce.encode() * (asked.file_bytes // len(nonce) + 1))[: asked.file_bytes]
        file = swell.File(data, content_type="application/octet-stream", name="nonce.bin")
        return WithFile(text=asked.text[::-1], nonce=nonce, file=file)
    return Result(text=asked.text[::-1], nonce=nonce)
