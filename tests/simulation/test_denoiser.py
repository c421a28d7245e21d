"""The scheduler against serial work and batches of whole requests, in simulated time.

The limits are the targets of the worker, not what happened to come out. Devices are published
curves; arrivals have seeds.
"""

from dataclasses import replace
from itertools import pairwise
from statistics import fmean

import msgspec
import pytest

from replay import (
    GENTD26_STEPS,
    H200_512,
    H200_1024,
    MIXED_STEPS,
    Job,
    Run,
    device,
    gentd26,
    in_order,
    in_steps,
    load_times_s,
    poisson,
    quantile,
    request_latencies_s,
)
from swell.diffusion.batch_scheduler import Policy
from swell.sdk.define import define
from swell.worker.batching import room_of
from swell_models.simulated_gpu import CurveModel

SMALL = {"key": device(H200_512)}
LARGE = {"key": device(H200_1024)}
GAIN_OF_8 = 8 * H200_512[1] / H200_512[8]
SEEDS = [1, 2, 3]


def backlog(count: int, steps: int) -> list[Job]:
    return [Job(str(n), "key", steps, 0.0) for n in range(count)]


def test_under_backlog_the_worker_reaches_the_gain_of_the_curve() -> None:
    jobs = backlog(256, 30)
    gain = in_order(jobs, SMALL).end_s / in_steps(jobs, SMALL).end_s
    assert gain / GAIN_OF_8 >= 0.95


def test_where_a_batch_gains_nothing_it_is_found_out_at_no_cost() -> None:
    jobs = backlog(64, 30)
    serial, steps = in_order(jobs, LARGE), in_steps(jobs, LARGE)
    assert serial.end_s / steps.end_s >= 0.99
    assert steps.mean_latency_s / serial.mean_latency_s <= 1.02


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_where_a_batch_gains_nothing_nobody_waits_longer_than_in_order(load: float) -> None:
    jobs = poisson(1000, GENTD26_STEPS, H200_1024[1], load, seed=4)
    serial, steps = in_order(jobs, LARGE), in_steps(jobs, LARGE)
    assert serial.end_s / steps.end_s >= 0.99
    assert steps.mean_latency_s / serial.mean_latency_s <= 1.02


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("steps", "limit"), [(GENTD26_STEPS, 1.6), (MIXED_STEPS, 1.7)])
def test_near_serial_capacity_hardly_anybody_waits(
    steps: dict[int, float], limit: float, seed: int
) -> None:
    jobs = poisson(1500, steps, H200_512[1], 0.9, seed)
    stepwise = in_steps(jobs, SMALL)
    assert stepwise.p95_slowdown <= limit
    assert stepwise.p95_slowdown < in_order(jobs, SMALL, batch=8).p95_slowdown
    assert stepwise.p95_slowdown < in_order(jobs, SMALL).p95_slowdown


def test_a_batch_of_steps_has_the_capacity_of_a_batch_of_requests() -> None:
    jobs = poisson(1500, GENTD26_STEPS, H200_512[1], 2.2, seed=1)
    stepwise, whole = in_steps(jobs, SMALL), in_order(jobs, SMALL, batch=8)
    assert whole.end_s / stepwise.end_s >= 0.99
    assert stepwise.mean_slowdown < whole.mean_slowdown


@pytest.mark.parametrize("load", [0.3, 0.9])
def test_who_finds_a_free_slot_takes_part_in_the_very_next_step(load: float) -> None:
    jobs = poisson(1500, MIXED_STEPS, H200_512[1], load, seed=5)
    admissions = in_steps(jobs, SMALL).admissions
    assert len(admissions) > 1000
    assert quantile(admissions, 0.99) <= 1.2


@pytest.fixture(scope="module", params=SEEDS)
def taking_turns(request: pytest.FixtureRequest) -> tuple[Run, Run]:
    """Mixed steps at nine tenths of capacity where a batch gains nothing: in order, and ours."""
    jobs = poisson(2500, MIXED_STEPS, H200_1024[1], 0.9, request.param)
    return in_order(jobs, LARGE), in_steps(jobs, LARGE)


def test_taking_turns_cuts_the_mean_slowdown_by_more_than_half(
    taking_turns: tuple[Run, Run],
) -> None:
    serial, stepwise = taking_turns
    assert stepwise.mean_slowdown / serial.mean_slowdown <= 0.40
    assert serial.end_s / stepwise.end_s >= 0.99
    assert serial.busy_s / stepwise.busy_s >= 0.99


def test_taking_turns_keeps_the_largest_slowdown_near_the_bound(
    taking_turns: tuple[Run, Run],
) -> None:
    serial, stepwise = taking_turns
    assert stepwise.slowdowns[-1] <= 1.25 * Policy().bound
    assert stepwise.slowdowns[-1] < serial.slowdowns[-1]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_that_draws_one_picture_at_a_time_holds_enough_to_choose_from(seed: int) -> None:
    card = msgspec.structs.replace(define(CurveModel).card(), step_bucket=1)
    jobs = poisson(2500, MIXED_STEPS, H200_1024[1], 0.9, seed)
    serial = in_order(jobs, LARGE)
    held = in_steps(jobs, LARGE, pinned=1, room=room_of(card))
    assert held.mean_slowdown / serial.mean_slowdown <= 0.40


class Replay:
    """Requests for 87 models on a worker with room for one of them, ours and in order."""

    def __init__(self, load: float, seeds: list[int], count: int = 4000) -> None:
        """Replay.

        Args:
            load: Share of the time that the pictures alone would keep the worker busy.
            seeds: One replay each; few hours make up most of each, so that they differ a lot.
            count: Requests in each. A step stands for thirty, which leaves what is decided between
                models as it is.
        """
        load_s = load_times_s()
        devices = dict.fromkeys(load_s, lambda rows: 30 * H200_1024[1] * rows)
        self.loads, self.latencies_s, self.longest_s = [0, 0], [0.0, 0.0], [0.0, 0.0]
        for seed in seeds:
            jobs = [
                replace(job, steps=max(1, round(job.steps / 30)))
                for job in gentd26(count, H200_1024[1], load, seed)
            ]
            ours = in_steps(jobs, devices, load_s=load_s, most_rows=1)
            for n, run in enumerate((ours, in_order(jobs, devices, load_s=load_s))):
                latencies_s = request_latencies_s(run, jobs).values()
                self.loads[n] += run.loads
                self.latencies_s[n] += fmean(latencies_s)
                self.longest_s[n] = max(self.longest_s[n], *latencies_s)


@pytest.fixture(scope="module")
def busy() -> Replay:
    return Replay(0.9, [1, 3])


def test_a_busy_worker_loads_models_three_tenths_as_often_as_in_order_or_less(
    busy: Replay,
) -> None:
    ours, in_order = busy.loads
    assert ours / in_order <= 0.30


def test_loading_less_often_keeps_nobody_waiting_longer(busy: Replay) -> None:
    assert busy.latencies_s[0] < busy.latencies_s[1]
    assert busy.longest_s[0] < busy.longest_s[1]


def test_a_worker_with_little_to_choose_from_still_loads_less_often() -> None:
    """At the trace's own load most requests find nobody waiting, and no order helps."""
    ours, in_order = Replay(0.39, [1]).loads
    assert ours / in_order <= 0.6


def test_the_replay_has_the_shape_of_the_trace() -> None:
    jobs = gentd26(5000, H200_1024[1], 0.39, seed=1)
    first = {job.request: job for job in reversed(jobs)}
    models = [first[str(n)].key for n in range(5000)]
    same = fmean(one == other for one, other in pairwise(models))
    assert same == pytest.approx(0.25, abs=0.03)
    assert len(jobs) / 5000 == pytest.approx(2.69, abs=0.15)
    assert models.count("model-0") / 5000 == pytest.approx(0.307, abs=0.03)
