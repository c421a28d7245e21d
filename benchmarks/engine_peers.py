"""Does Swell draw more pictures per second, and keep people waiting less, than other model servers?

All serve the same built-in model, swell/icons, over HTTP on loopback: an input in, a PNG out, as
many threads of ONNX Runtime. The pictures have 4, 8, 20 or 30 steps, equally often. A peer's model
is a plain loop around the same networks (peers/painter.py) that draws what the server hands over
together; the pictures are compared. Swell is `swell up`, with its store on disk, asked for a task
that is waited for and answered with its file, as a peer answers.

Two loads, with the same inputs and times for all:

    backlog    32 clients with the next picture as soon as they have one: pictures per second
    0.9 load   Poisson arrivals at 0.9 of what a bare loop draws and encodes one after another, as
               measured before each round:
               p95 of the time from when a request was due to the last byte of its picture

All systems are started, warmed up, and stopped where they are (SIGSTOP); then each goes on when it
is its turn, in rounds of both loads, there and back again. So what is compared is some ten seconds
apart, and the speed of a shared machine, which changes by a tenth within minutes, is much the same.
Started anew for each turn, as other comparisons have it, they were minutes apart.

Each peer has a setting for each of the two loads (engine_systems.py), with one process for both
cores or one for each; `--sweep` compares those that were tried and names the best. With `--more`,
pictures of 512 px and 0.5 load are measured once.

Value: the least, over peers, of (Swell's pictures per second over the peer's) and (the peer's p95
over Swell's), both of all rounds together: the p95 of 80 pictures differs by a quarter from one run
of the same system to the next, and pictures per second by a tenth. The details say between what
both lie if other rounds are drawn from these (bootstrap, 90 %), and have each round alone.

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
import contextlib
import io
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Any

import numpy as np
import PIL.Image

import engine_systems
import processes
from engine_rig import PROMPTS
from engine_systems import PEER, Serving, Setting
from machine import quiet, report, say
from open_load import Ask, Seen, Wish, at_times, by_clients, percentile, poisson

STEPS = (4, 8, 20, 30)
LOAD = 0.9
CLIENTS = 32
WARM_UP = 16
SETTLE_S = 6.0
#: So often rounds are drawn from those that were measured, to see what a value owes to chance.
DRAWS = 2000
#: So many pictures of each run are compared with Swell's, and differ by no more.
COMPARED = 8
LEAST_PSNR_DB = 45.0


@dataclass(frozen=True)
class Size:
    """How much is done in a run, beside the pictures of the warm-up."""

    rounds: int = 8
    backlog: int = 128
    arrivals: int = 80
    serial: int = 24


SHORT = Size(rounds=2, backlog=16, arrivals=12, serial=8)


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

    @property
    def title(self) -> str:
        return self.name if self.setting is None else f"{self.name} {self.setting}"

    def started(self) -> AbstractContextManager[Serving]:
        if self.setting is None:
            return engine_systems.swell()
        return engine_systems.peer(self.name, self.setting)


@dataclass(frozen=True)
class Round:
    """What a system did in one round."""

    backlog: Seen | None
    arriving: Seen | None


def warm_up(ask: Ask, px: int) -> None:
    asyncio.run(by_clients(ask, wishes(WARM_UP, 0, px), WARM_UP // 2))
    # What a system still does at its start has ended by then.
    time.sleep(SETTLE_S)


def backlog_of(arm: Arm, ask: Ask, todo: Work) -> Seen:
    seen = asyncio.run(by_clients(ask, todo.backlog, CLIENTS))
    say(f"{arm.title}: {seen.images_per_s:.2f} pictures/s")
    return seen


def arriving_at(arm: Arm, ask: Ask, todo: Work) -> Seen:
    seen = asyncio.run(at_times(ask, todo.arriving, todo.at_s))
    say(f"{arm.title}: p95 {seen.p95_s * 1e3:.0f} ms")
    return seen


def measured(arm: Arm, todo: Work) -> Round:
    """Starts a system, lets it warm up, and puts the loads on it."""
    with arm.started() as system:
        warm_up(system.ask, todo.backlog[0]["size"])
        return Round(
            backlog_of(arm, system.ask, todo) if arm.backlog else None,
            arriving_at(arm, system.ask, todo) if arm.arriving else None,
        )


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


@contextlib.contextmanager
def its_turn(system: Serving) -> Iterator[Ask]:
    """Lets a system go on for as long as the block lasts."""
    processes.resume(system.pid)
    try:
        # It has not heard of anybody for a while.
        asyncio.run(by_clients(system.ask, [engine_systems.SMALLEST] * 2, 1))
        yield system.ask
    finally:
        processes.pause(system.pid)


@contextlib.contextmanager
def all_started(arms: Sequence[Arm], px: int) -> Iterator[list[tuple[Arm, Serving]]]:
    """All systems, warmed up and stopped where they are."""
    with contextlib.ExitStack() as stack:
        systems = []
        for arm in arms:
            system = stack.enter_context(arm.started())
            # To be ended, it has to go on.
            stack.callback(processes.resume, system.pid)
            warm_up(system.ask, px)
            processes.pause(system.pid)
            systems.append((arm, system))
        yield systems


def one_round(systems: Sequence[tuple[Arm, Serving]], todo: Work) -> dict[str, Round]:
    """Both loads, each on all systems in turn."""
    backlogs, arriving = {}, {}
    for arm, system in systems:
        if arm.backlog:
            with its_turn(system) as ask:
                backlogs[arm.name] = backlog_of(arm, ask, todo)
    for arm, system in systems:
        if arm.arriving:
            with its_turn(system) as ask:
                arriving[arm.name] = arriving_at(arm, ask, todo)
    return {name: Round(backlogs[name], arriving[name]) for name in backlogs}


# --- what came of it -----------------------------------------------------------------------------


def images_per_s(rounds: Iterable[Round]) -> float:
    """Of all rounds together, with a backlog."""
    backlogs = [one.backlog for one in rounds if one.backlog is not None]
    return sum(len(seen.files) for seen in backlogs) / sum(seen.seconds for seen in backlogs)


def latencies_s(rounds: Iterable[Round]) -> list[float]:
    """Of all rounds together, from arrivals by chance."""
    return [s for one in rounds if one.arriving is not None for s in one.arriving.latencies_s]


def ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> dict[str, float]:
    """Swell against a peer in the same rounds, above 1 where Swell is ahead."""
    return {
        "images_per_s": images_per_s(ours) / images_per_s(theirs),
        "p95": percentile(latencies_s(theirs), 0.95) / percentile(latencies_s(ours), 0.95),
    }


def by_chance(ours: Sequence[Round], theirs: Sequence[Round]) -> dict[str, list[float]]:
    """Between what the ratios lie in nine of ten draws of as many rounds from these."""
    rng, found = random.Random(0), []
    for _ in range(DRAWS):
        drawn = rng.choices(range(len(ours)), k=len(ours))
        found.append(ratios([ours[n] for n in drawn], [theirs[n] for n in drawn]))
    return {
        name: [round(percentile([one[name] for one in found], share), 3) for share in (0.05, 0.95)]
        for name in found[0]
    }


def rounded(ratios: Mapping[str, float]) -> dict[str, float]:
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


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
    arriving = [one.arriving for one in rounds if one.arriving is not None]
    every = latencies_s(rounds)
    return {
        "images_per_s": round(images_per_s(rounds), 3),
        "images_per_s_each_round": [round(images_per_s([one]), 3) for one in rounds],
        "p95_s": round(percentile(every, 0.95), 3),
        "p95_s_each_round": [round(seen.p95_s, 3) for seen in arriving],
        "p50_s": round(percentile(every, 0.5), 3),
        "mean_s": round(fmean(every), 3),
        "images_per_s_at_load": round(median(seen.images_per_s for seen in arriving), 3),
    }


def compared(rounds: Sequence[Mapping[str, Round]]) -> dict[str, Any]:
    """Each system, and the ratios of Swell to each peer: of all rounds, and of each alone."""
    of = {name: [seen[name] for seen in rounds] for name in rounds[0]}
    ours, peers = of["swell"], [name for name in of if name != "swell"]
    return {
        "ratios": {name: rounded(ratios(ours, of[name])) for name in peers},
        "ratios_by_chance": {name: by_chance(ours, of[name]) for name in peers},
        "ratios_each_round": {
            name: [
                rounded(ratios([our], [their])) for our, their in zip(ours, of[name], strict=True)
            ]
            for name in peers
        },
        **{name: summary(of[name]) for name in of},
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
    with all_started(arms, px) as systems:
        for number in range(size.rounds):
            # The machine's speed changes from minute to minute, and 0.9 is to be 0.9 each time.
            serial.append(capacity(size, px))
            todo = work(size, 100 * number + px, px, load * serial[-1])
            first = number // 2 % len(systems)
            order = [*systems[first:], *systems[:first]]
            rounds.append(one_round(order[::-1] if number % 2 else order, todo))
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
        found[arm.title] = summary([seen])
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
    least = min(min(over.values()) for over in detail["ratios"].values())
    report(least, detail)


if __name__ == "__main__":
    main()
