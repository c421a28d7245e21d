"""Does Swell draw more pictures per second, and keep people waiting less, than other model servers?

All serve the same built-in model, swell/icons, over HTTP on loopback: an input in, a PNG out, as
many threads of ONNX Runtime. The pictures have 4, 8, 20 or 30 steps, equally often. A peer's model
is a plain loop around the same networks (peers/painter.py) that draws what the server hands over
together; the pictures are compared. Swell is `swell up`, with its store on disk, asked for a task
that is waited for and answered with its file, as a peer answers.

Two loads, with the same inputs and times for all, in rounds that each begin with another system:

    backlog    32 clients with the next picture as soon as they have one: pictures per second
    0.9 load   Poisson arrivals at 0.9 of what a bare loop draws and encodes one after another, as
               measured before each round:
               p95 of the time from when a request was due to the last byte of its picture

Each peer has a setting for each of the two loads (engine_systems.py); `--sweep` compares those that
were tried and names the best. With `--more`, pictures of 512 px and 0.5 load are measured once.

Value: the smaller of (Swell's pictures per second over the best peer's) and (the best peer's p95
over Swell's), medians over rounds.

vLLM-Omni 0.30.0 is no peer here. It installs with vllm 0.30.0 and CUDA's torch (Python 3.12, 9 GB;
pip has to be allowed openai-whisper from source), and its step mode takes a pipeline of one's own
(`custom_pipeline_args`, with `prepare_encode`, `denoise_step`, `step_scheduler` and `post_decode`).
But it has platforms for CUDA, ROCm, NPU, XPU and MUSA only: without any of them its worker ends in
`DiffusionWorker.init_device` with NotImplementedError from `set_device` of UnspecifiedOmniPlatform,
before such a pipeline is made.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import PIL.Image

import engine_systems
from engine_rig import PROMPTS
from engine_systems import PEER, Setting
from machine import quiet, report, say
from open_load import Ask, Seen, Wish, at_times, by_clients, percentile, poisson

STEPS = (4, 8, 20, 30)
LOAD = 0.9
CLIENTS = 32
WARM_UP = 16
SETTLE_S = 6.0
#: So many pictures of each run are compared with Swell's, and differ by no more.
COMPARED = 8
LEAST_PSNR_DB = 45.0


@dataclass(frozen=True)
class Size:
    """How much is done in a run, beside the pictures of the warm-up."""

    rounds: int = 5
    backlog: int = 96
    arrivals: int = 120
    serial: int = 24


SHORT = Size(rounds=1, backlog=32, arrivals=24, serial=8)


@dataclass(frozen=True)
class Work:
    """The same for every system."""

    backlog: list[Wish]
    arriving: list[Wish]
    at_s: list[float]


def wishes(count: int, seed: int, size: int) -> list[Wish]:
    """Inputs with the mix of steps that is as even as it can be, in any order."""
    rng = random.Random(seed)
    steps = [STEPS[number % len(STEPS)] for number in range(count)]
    rng.shuffle(steps)
    return [
        {
            "prompt": rng.choice(PROMPTS),
            "steps": n,
            "guidance": 3.0,
            "size": size,
            "seed": rng.getrandbits(31),
        }
        for n in steps
    ]


def work(size: Size, seed: int, px: int, rate_per_s: float) -> Work:
    return Work(
        backlog=wishes(size.backlog, seed, px),
        arriving=wishes(size.arrivals, seed + 1, px),
        at_s=poisson(rate_per_s, size.arrivals, seed + 2),
    )


@dataclass(frozen=True)
class Arm:
    """A system in a setting, and which loads it is measured under."""

    name: str
    setting: Setting | None = None
    backlog: bool = True
    arriving: bool = True

    def started(self) -> AbstractContextManager[Ask]:
        if self.setting is None:
            return engine_systems.swell()
        return engine_systems.peer(self.name, self.setting)


@dataclass(frozen=True)
class Round:
    """What a system did in one round."""

    backlog: Seen | None
    arriving: Seen | None


def measured(arm: Arm, todo: Work) -> Round:
    """Starts a system, lets it warm up, and puts the loads on it."""
    backlog = arriving = None
    with arm.started() as ask:
        asyncio.run(by_clients(ask, wishes(WARM_UP, 0, todo.backlog[0]["size"]), WARM_UP // 2))
        # Whatever a system still does at its start, Swell's fork server among it, is over by then.
        time.sleep(SETTLE_S)
        if arm.backlog:
            backlog = asyncio.run(by_clients(ask, todo.backlog, CLIENTS))
        if arm.arriving:
            arriving = asyncio.run(at_times(ask, todo.arriving, todo.at_s))
    said = [f"{backlog.images_per_s:.2f} pictures/s"] if backlog else []
    said += [f"p95 {arriving.p95_s * 1e3:.0f} ms"] if arriving else []
    say(f"{arm.name} {arm.setting or ''}: {', '.join(said)}")
    return Round(backlog, arriving)


def arms_of(names: Sequence[str]) -> list[Arm]:
    """Swell, and each peer in its best setting for each load."""
    arms = [Arm("swell")]
    for name in names:
        about = PEER[name]
        if about.quick == about.full:
            arms.append(Arm(name, about.full))
        else:
            arms.append(Arm(name, about.full, arriving=False))
            arms.append(Arm(name, about.quick, backlog=False))
    return arms


def one_round(arms: Sequence[Arm], number: int, todo: Work) -> dict[str, Round]:
    """All systems in turn; each round begins with another one."""
    first = number % len(arms)
    seen: dict[str, Round] = {}
    for arm in (*arms[first:], *arms[:first]):
        new = measured(arm, todo)
        old = seen.get(arm.name, Round(None, None))
        seen[arm.name] = Round(new.backlog or old.backlog, new.arriving or old.arriving)
    return seen


# --- what came of it -----------------------------------------------------------------------------


def ratios(seen: Mapping[str, Round]) -> dict[str, float]:
    """Swell against the best peer of this round, above 1 where Swell is ahead."""
    ours = seen["swell"]
    peers = [one for name, one in seen.items() if name != "swell"]
    return {
        "images_per_s": ours.backlog.images_per_s / max(one.backlog.images_per_s for one in peers),
        "p95": min(one.arriving.p95_s for one in peers) / ours.arriving.p95_s,
    }


def least_psnr_db(seen: Mapping[str, Round]) -> float:
    """How far pictures are from Swell's of the same input; 99 for equal pixels.

    Raises:
        ValueError: A peer drew something else.
    """
    ours, found = seen["swell"].arriving.files, []
    for name, one in seen.items():
        for number in range(min(COMPARED, len(ours))):
            found.append(psnr_db(ours[number], one.arriving.files[number]))
            if found[-1] < LEAST_PSNR_DB:
                raise ValueError(f"{name} drew another picture: {found[-1]:.1f} dB")
    return min(found)


def psnr_db(one: bytes, other: bytes) -> float:
    pictures = [
        np.asarray(PIL.Image.open(io.BytesIO(file)).convert("RGB"), np.float64)
        for file in (one, other)
    ]
    error = float(np.mean((pictures[0] - pictures[1]) ** 2))
    return 99.0 if error == 0 else float(min(99.0, 10 * np.log10(255**2 / error)))


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    backlogs = [one.backlog for one in rounds if one.backlog is not None]
    arriving = [one.arriving for one in rounds if one.arriving is not None]
    return {
        "images_per_s": round(median(seen.images_per_s for seen in backlogs), 3),
        "images_per_s_each_round": [round(seen.images_per_s, 3) for seen in backlogs],
        "p95_s": round(median(seen.p95_s for seen in arriving), 3),
        "p95_s_each_round": [round(seen.p95_s, 3) for seen in arriving],
        "p50_s": round(median(percentile(seen.latencies_s, 0.5) for seen in arriving), 3),
        "images_per_s_at_load": round(median(seen.images_per_s for seen in arriving), 3),
    }


def compared(rounds: Sequence[Mapping[str, Round]]) -> dict[str, Any]:
    """Medians, each round's ratios, and the ratios' medians."""
    names = list(rounds[0])
    each = [ratios(seen) for seen in rounds]
    return {
        "ratios": {name: round(median(one[name] for one in each), 3) for name in each[0]},
        "ratios_each_round": [
            {name: round(ratio, 3) for name, ratio in one.items()} for one in each
        ],
        **{name: summary([seen[name] for seen in rounds]) for name in names},
        "least_psnr_db": round(min(least_psnr_db(seen) for seen in rounds), 1),
    }


# --- runs ----------------------------------------------------------------------------------------


def capacity(size: Size, px: int) -> float:
    """Pictures per second, one after another."""
    found = engine_systems.serial_images_per_s(wishes(size.serial, 7, px))
    say(f"{px} px, one after another: {found:.2f} pictures/s")
    return found


def compare(names: Sequence[str], size: Size, px: int, load: float) -> dict[str, Any]:
    arms = arms_of(names)
    serial, rounds = [], []
    for number in range(size.rounds):
        # The machine's speed changes from minute to minute, and 0.9 is to be 0.9 in each round.
        serial.append(capacity(size, px))
        todo = work(size, 100 * number + px, px, load * serial[-1])
        rounds.append(one_round(arms, number, todo))
    return {
        "size_px": px,
        "load": load,
        "serial_images_per_s_each_round": [round(found, 3) for found in serial],
        **compared(rounds),
    }


def sweep(names: Sequence[str], size: Size) -> dict[str, Any]:
    """Every setting that was tried of each peer, once."""
    serial = capacity(size, 128)
    todo = work(size, 1, 128, LOAD * serial)
    found: dict[str, Any] = {"serial_images_per_s": round(serial, 3)}
    arms = [Arm(name, setting) for name in names for setting in PEER[name].tried]
    for arm in (Arm("swell"), *arms):
        seen = measured(arm, todo)
        found[f"{arm.name} {arm.setting or ''}".strip()] = summary([seen])
    for name in names:
        of_it = {key: one for key, one in found.items() if key.startswith(f"{name} ")}
        found[f"best of {name}"] = {
            "backlog": max(of_it, key=lambda key: of_it[key]["images_per_s"]),
            "load": min(of_it, key=lambda key: of_it[key]["p95_s"]),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="*", choices=list(PEER), default=list(PEER))
    parser.add_argument("--short", action="store_true", help="to try it out")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--sweep", action="store_true", help="compare the peers' settings instead")
    parser.add_argument("--more", action="store_true", help="512 px and 0.5 load as well, once")
    asked = parser.parse_args()
    size = SHORT if asked.short else Size()
    if asked.rounds is not None:
        size = replace(size, rounds=asked.rounds)
    engine_systems.peers_python()
    with quiet():
        if asked.sweep:
            size = size if asked.short else replace(size, backlog=48, arrivals=48)
            report(None, sweep(asked.peers, size))
            return
        detail = compare(asked.peers, size, 128, LOAD)
        if asked.more:
            once = replace(size, rounds=1, backlog=32, arrivals=32, serial=12)
            detail["at_512_px"] = compare(asked.peers, once, 512, LOAD)
            detail["at_half_load"] = compare(asked.peers, once, 128, 0.5)
    detail["settings"] = {
        name: {"backlog": str(PEER[name].full), "load": str(PEER[name].quick)}
        for name in asked.peers
    }
    detail["versions"] = engine_systems.peer_versions()
    report(min(detail["ratios"].values()), detail)


if __name__ == "__main__":
    main()
