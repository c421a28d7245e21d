"""Models that work, fail, refuse, or kill the process that runs them, as the input says."""

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


class Work(swell.Model):
    """Turns a text round; four at a time."""

    name = "chaos/work"
    batch = swell.Batch(max=4)
    Output = Result

    class Input(BaseModel):
        """What to do."""

        text: str = Field(max_length=200)
        ms: int = Field(default=0, ge=0, le=60_000)
        mode: Literal["work", "flaky", "bad", "reject", "poison", "deaf"] = "work"
        #: Poison does no harm once this file is there.
        antidote: str = ""
        #: A file that is there from when the model has begun with it.
        begun: str = ""

    def run(self, items: list[swell.Item[Input]]) -> list[Result | Exception]:
        """Take as long as the slowest asks, then give each what its mode says."""
        for begun in {item.input.begun for item in items} - {""}:
            Path(begun).touch()
        until_s = time.monotonic() + max(item.input.ms for item in items) / 1000
        while any(item.input.mode == "deaf" for item in items) and time.monotonic() < until_s:
            time.sleep(0.01)  # and never look whether to stop
        while time.monotonic() < until_s and not all(item.cancelled for item in items):
            time.sleep(min(0.005, max(0.0, until_s - time.monotonic())))
        return [_result(item) for item in items]


@swell.model("chaos/turn")
def turn(text: str, ms: int = 0) -> Result:
    """Turn a text round, as a function."""
    time.sleep(ms / 1000)
    return Result(text=text[::-1], nonce=secrets.token_hex(8))


def _result(item: "swell.Item[Work.Input]") -> Result | Exception:
    asked = item.input
    if item.cancelled:
        return swell.Cancelled()
    if asked.mode == "poison" and not (asked.antidote and os.path.exists(asked.antidote)):
        os.kill(os.getpid(), signal.SIGKILL)
    if asked.mode == "bad" or (asked.mode == "flaky" and random.random() < FLAKY):
        return RuntimeError(f"no luck with {asked.text}")
    if asked.mode == "reject":
        return swell.Reject(f"nobody wants {asked.text}")
    return Result(text=asked.text[::-1], nonce=secrets.token_hex(8))
