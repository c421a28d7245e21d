"""Latents of samples that run together, in memory that is taken once for each batch key.

Sample i of a step has row i of every array. Those with guidance come first, so that the rows of
what the network sees are

    0 … n      all samples, with words
    n … n + g  the first g of them once more, without
    …          the first once more, as padding up to the bucket: never what is left of somebody else

Whoever runs again keeps its row; only who comes, goes or stands on the wrong side is copied. So the
last sample takes the row of one that is finished, and nothing is gathered. Paused samples keep
their latents in arrays of their own.

A step has three parts: `load` writes what the network is to see, `forward` asks it, `advance` moves
the samples. Latents change in `advance` alone: what goes wrong before can be tried again.
"""

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache, partial
from operator import is_
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.sdk.step_model import Array, Arrays, HostArrays, NoiseStream, Plan, Sampler
from swell.worker import solver as solvers
from swell.worker.checkpoint import FORMAT, decode_checkpoint, encode_checkpoint
from swell.worker.solver import AlphaBars, Noise, Sigmas, Solver, Table, blend

Singles = NDArray[np.float32]

#: Names of arrays → arrays without the batch: what the network hears beside latents and time.
Conditions = Mapping[str, Array]

#: Bytes of latents, and of what a solver keeps, as a checkpoint has them.
Raw = tuple[memoryview, memoryview | None]


class InvalidCheckpoint(ValueError):
    """A checkpoint is broken, or was made of another sample."""


class BatchKey(msgspec.Struct, frozen=True, cache_hash=True):
    """What samples must share to run together: shapes and code, but no numbers.

    Each step looks things up by it.
    """

    model: str
    shape: tuple[int, ...]
    solver: Solver
    #: Rows of each step; None in fast mode.
    bucket: int | None = None
    #: `Plan.key`.
    own: Hashable = ()
    #: Content and scale of each LoRA.
    loras: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        """The same for equal keys in every process: a name for what is measured of it.

        A step costs the same whatever LoRAs are on the weights, so they are left out.
        """
        shape = "x".join(map(str, self.shape))
        return f"{self.model} {shape} {self.solver} {self.bucket} {self.own!r}"


# --- tables --------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def table_of(sampler: Sampler) -> Table:
    """Return the coefficients of all steps.

    Raises:
        ValueError: Unknown solver or option, or a value out of range; the text says which.
    """
    if sampler.solver not in _SOLVERS:
        raise ValueError(f"solver {sampler.solver!r}: use one of {', '.join(_SOLVERS)}")
    plan, solve = _SOLVERS[sampler.solver]
    options = dict(sampler.options)
    schedule = _schedule(plan, sampler, options)
    table: Table = solve(schedule, **_taken(options, solve))
    if options:
        raise ValueError(f"{sampler!r}: {', '.join(options)} is no option of this solver")
    return table


#: The schedule of each solver, and what makes a table of it.
_SOLVERS: Final[Mapping[str, tuple[Callable[..., Any], Callable[..., Table]]]] = {
    "euler": (solvers.euler_sigmas, solvers.euler),
    "euler_ancestral": (solvers.euler_sigmas, solvers.euler_ancestral),
    "dpmpp_2m": (solvers.dpmpp_sigmas, solvers.dpmpp_2m),
    "flow_euler": (solvers.flow_sigmas, solvers.flow_euler),
    "ddim": (solvers.ddim_bars, solvers.ddim),
    "lcm": (solvers.lcm_bars, solvers.lcm),
    "plms": (solvers.plms_bars, solvers.plms),
}

#: Schedules that may be given as sigmas instead.
_OF_SIGMAS: Final = (solvers.euler_sigmas, solvers.dpmpp_sigmas, solvers.flow_sigmas)

#: Options that tell of training's noise, and what `alpha_bars` calls them.
_TRAINING: Final = {
    "betas": "betas",
    "beta_start": "start",
    "beta_end": "end",
    "train_steps": "train_steps",
}


def _schedule(
    plan: Callable[..., Any], sampler: Sampler, options: dict[str, Any]
) -> Sigmas | AlphaBars:
    # A consistency model lays its steps over that part of the noise; others leave out the first.
    own_strength = "strength" in inspect.signature(plan).parameters
    skip = options.pop("skip", 0)
    strength = 1.0 if own_strength else options.pop("strength", 1.0)
    if "sigmas" in options and plan in _OF_SIGMAS:
        schedule = _given(plan, sampler, options)
    elif plan is solvers.flow_sigmas:
        schedule = plan(sampler.steps, **_taken(options, plan))
    else:
        told = {name: options.pop(key) for key, name in _TRAINING.items() if key in options}
        bars = solvers.alpha_bars(told.pop("betas", "scaled_linear"), **told)
        schedule = plan(bars, sampler.steps, **_taken(options, plan))
    if skip or strength != 1:
        schedule = schedule.start(skip or solvers.first_step(sampler.steps, strength))
    made: Sigmas | AlphaBars = schedule
    return made


def _given(plan: Callable[..., Any], sampler: Sampler, options: dict[str, Any]) -> Sigmas:
    sigmas = np.asarray(options.pop("sigmas"), np.float32).astype(np.float64)
    timesteps = np.asarray(options.pop("timesteps", ()), np.float64)
    if plan is solvers.flow_sigmas and not timesteps.size:
        # As in a schedule of its own.
        heard = sigmas[:-1].astype(np.float32) * np.float32(options.pop("train_steps", 1000))
        timesteps = heard.astype(np.float64)
    if sigmas.shape != (sampler.steps + 1,) or timesteps.shape != (sampler.steps,):
        raise ValueError(f"{sampler!r}: use {sampler.steps + 1} sigmas and a timestep a step")
    return Sigmas(timesteps, sigmas, float(options.pop("peak", sigmas[0])))


def _taken(options: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Remove from `options` those that `function` takes by name, and return them."""
    known = inspect.signature(function).parameters.values()
    names = [one.name for one in known if one.kind is inspect.Parameter.KEYWORD_ONLY]
    return {name: options.pop(name) for name in names if name in options}


# --- samples -------------------------------------------------------------------------------------


class SampleState:
    """One sample on its way from noise to picture.

    Its latents are in a row of the arena while it runs (`row` is not -1), in `x` while it is paused
    or finished, and nowhere before its first step.
    """

    __slots__ = (
        "h",
        "id",
        "is_narrowed",
        "item",
        "key",
        "noise",
        "plan",
        "previewed_s",
        "raw",
        "row",
        "seed",
        "start",
        "step",
        "stream",
        "table",
        "told_s",
        "with_words",
        "without_words",
        "x",
    )

    def __init__(
        self,
        sample_id: str,
        item: Any,
        plan: Plan,
        key: BatchKey,
        table: Table,
        *,
        stream: Callable[[int, Plan], NoiseStream] | None = None,
    ) -> None:
        self.id = sample_id
        self.item = item
        self.plan = plan
        self.key = key
        self.table = table
        self.seed: int = item.seed if plan.seed is None else plan.seed
        #: Steps that are over.
        self.step = 0
        #: Whether memory had no room for the rows of its key in one of them, here or elsewhere, and
        #: its bits may be others for that.
        self.is_narrowed = False
        #: Its row in the arena; -1 for none.
        self.row = -1
        #: Bytes of its latents, where they lie in its row as a checkpoint has them; None while it
        #: has no row.
        self.raw: Raw | None = None
        self.x: Array | None = None
        #: What its solver keeps of the steps before, if it looks back. Shape: (history, ...).
        self.h: Array | None = None
        #: Makes its stream of noise, where that is not Swell's own; and the stream itself.
        self.stream = stream
        self.noise: NoiseStream | None = None
        #: Latents of a picture that it starts from.
        self.start: Array | None = None
        #: What the network hears in each of its rows; None until somebody encoded it.
        self.with_words: Conditions | None = None
        self.without_words: Conditions | None = None
        self.told_s = self.previewed_s = -np.inf

    @property
    def is_guided(self) -> bool:
        """Whether it takes a second row."""
        return self.plan.guidance is not None

    @property
    def has_begun(self) -> bool:
        """Whether it has latents."""
        return self.row >= 0 or self.x is not None

    @property
    def is_finished(self) -> bool:
        """Whether no step is left."""
        return self.step >= len(self.table)

    def begin(self, arrays: Arrays) -> Array:
        """Return the latents before its first step, and start its stream of noise."""
        noise = self._stream(self.seed)
        fresh = noise.draw(self.plan.shape)
        if self.plan.near is not None:
            seed, own = self.plan.near
            fresh = blend(self._stream(seed).draw(self.plan.shape), fresh, own)
        if self.start is None:
            self.look()
        if self.start is None:
            x = arrays.put(fresh * np.float32(self.table.from_noise))
        else:
            keep, add = self.table.from_image
            x = arrays.put(fresh * np.float32(add)) + self.start * keep
        self.noise, self.start = noise, None
        return x

    def look(self) -> None:
        """See the picture that it starts from, if there is one and it has not begun."""
        if self.step == 0:
            start = self.plan.start
            self.start = start() if callable(start) else start

    def part(self) -> None:
        """Let go of what its model gave it to begin with, which nobody needs any more."""
        self.stream = None
        if self.plan.start is not None:
            self.plan = dataclasses.replace(self.plan, start=None)

    def _stream(self, seed: int) -> NoiseStream:
        return Noise(seed) if self.stream is None else self.stream(seed, self.plan)

    def draw(self, out: Singles) -> None:
        """Write the noise of its present step into `out`."""
        assert self.noise is not None, "noise begins with the latents"
        self.noise.fill(out)

    def checkpoint(
        self, raw: Raw, step: int | None = None, is_narrowed: bool | None = None
    ) -> bytes:
        """Return what `resume` needs to go on after a step, by default the last, of which `raw` is
        what `Drawn.read` returns.
        """
        step = self.step if step is None else step
        is_narrowed = self.is_narrowed if is_narrowed is None else is_narrowed
        x, h = (None if each is None else each.tobytes() for each in raw)
        assert x is not None, "latents are always there"
        return encode_checkpoint(self.identity, step, x, h, is_narrowed=is_narrowed)

    def resume(self, raw: bytes, arrays: Arrays) -> None:
        """Take over latents and steps from `checkpoint` of the same sample.

        Raises:
            InvalidCheckpoint: It is none, or of another sample.
        """
        try:
            kept = decode_checkpoint(raw)
        except msgspec.MsgspecError as error:
            raise InvalidCheckpoint(f"no checkpoint of a sample: {error}") from error
        mine = self.identity
        size = 4 * int(np.prod(self.plan.shape))
        sizes = len(kept.x), len(kept.h or b"")
        expected = size, size * self.table.solver.history
        if kept.format != FORMAT or kept.identity != mine or sizes != expected:
            raise InvalidCheckpoint(f"a checkpoint of {kept.identity}, not of {mine}")
        if not 0 < kept.step <= len(self.table):
            raise InvalidCheckpoint(f"step {kept.step} of {len(self.table)}")
        self.step, self.is_narrowed = kept.step, kept.is_narrowed
        shape = self.plan.shape
        self.x = arrays.put(_unpacked(kept.x, shape))
        kept_arrays = self.table.solver.history
        self.h = kept.h and arrays.put(_unpacked(kept.h, (kept_arrays, *shape)))
        # The state of a stream is how much was drawn from it.
        self.noise = self._stream(self.seed)
        for _ in range(1 + int(self.table.draws[: self.step].sum())):
            self.noise.draw(self.plan.shape)

    @property
    def identity(self) -> str:
        """What must be the same wherever it goes on."""
        key = msgspec.structs.replace(self.key, bucket=None)
        loras = f" {key.loras}" if key.loras else ""
        return f"{key}{loras}, {len(self.table)} steps, seed {self.seed}"


def packed(values: NDArray[Any]) -> memoryview:
    """Return bytes of numbers as `Checkpoint` has them; they may share memory with `values`."""
    return memoryview(np.ascontiguousarray(values, "<f4")).cast("B")


def _unpacked(raw: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)


# --- rows ----------------------------------------------------------------------------------------


class _Part:
    """Rows that the network sees at once: which, and views of what they are shown and say.

    `t` is None where arrays of the device are made anew of it.
    """

    __slots__ = ("heard", "rows", "said", "seen", "shape", "t")

    def __init__(
        self, rows: slice, seen: Array, said: Array, heard: Conditions, t: Singles | None
    ) -> None:
        self.rows = rows
        self.t = None if t is None else t[rows]
        self.seen = seen[rows]
        self.shape = self.seen.shape
        self.said = said[rows]
        self.heard = {name: values[rows] for name, values in heard.items()}


class _Seating:
    """What stays from step to step while the same samples sit in rows of one bucket.

    To look it up anew takes longer than all numbers of a small step.
    """

    __slots__ = (
        "bucket",
        "copies",
        "is_lone",
        "is_shown_latents",
        "numbers",
        "parts",
        "said",
        "scale",
        "tables",
    )

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        #: Of each sample, in the order of rows; and of a single one what `solver.numbers` says.
        self.tables: list[Table] = []
        self.numbers: list[tuple[np.float32, ...]] | None = None
        #: Whether that one is all that the network sees.
        self.is_lone = False
        #: Whether the network is to see nothing but the latents, so that it is shown these.
        self.is_shown_latents = False
        #: What is copied to where in each step: second rows, and padding.
        self.copies: list[tuple[Array, Array]] = []
        self.parts: list[_Part] = []
        #: All that is said, and how far guidance goes, for those with guidance.
        self.said: Array = None
        self.scale: Array = None


class Arena:
    """The rows of one batch key.

    Args:
        key: What its samples share.
        arrays: Where the model's arrays live.
        most_rows: Rows that a step may have; at least 1.
        conditions: Those of the first sample: all others have the same names and shapes.
    """

    def __init__(
        self, key: BatchKey, arrays: Arrays, most_rows: int, conditions: Conditions
    ) -> None:
        # One sample with guidance has two rows even where a step has one: then it has two passes.
        rows = max(most_rows, 2)
        self._solver = solver = key.solver
        self._scales_input, self._may_draw = solver.scales_input, solver.may_draw
        self._needs_noise = solver.needs_noise
        self._arrays = arrays
        self._host_z = np.zeros((most_rows, *key.shape), np.float32)
        self._host_t = np.zeros(rows, np.float32)
        like = arrays.put(np.zeros(key.shape, np.float32))
        self._x = arrays.rows(like, most_rows)
        self._h = None
        if kept := solver.history:
            self._h = arrays.rows(arrays.put(np.zeros((kept, *key.shape), np.float32)), most_rows)
        #: What the network is shown, unless it is the latents, and what it says.
        self._seen = arrays.rows(like, rows)
        self._said = arrays.rows(like, rows)
        self._heard = {name: arrays.rows(value, rows) for name, value in conditions.items()}
        #: Rows as they lie here, and their bytes where a checkpoint has the same: made once.
        self._is_host = type(arrays) is HostArrays
        self._is_raw = self._is_host and self._x.dtype == np.dtype("<f4")
        self._rows: list[tuple[Array, Array | None] | None] = [None] * most_rows
        self._raws: list[Raw | None] = [None] * most_rows
        #: Whose latents and whose conditions are in each row.
        self._samples: list[SampleState | None] = [None] * most_rows
        self._hearers: list[Conditions | None] = [None] * rows
        #: Samples of the present step, those with guidance among them, and their coefficients.
        self._placed: list[SampleState] = []
        #: The same as they were named, as long as all have their rows.
        self._seated: tuple[SampleState, ...] = ()
        self._seating: _Seating | None = None
        #: Rows of the placed: x, said, seen and h.
        self._moving: tuple[Array, Array, Array, Array | None] = (None, None, None, None)
        self._guided = 0
        self._k: Array = None
        #: What the network has just said, where it was not copied.
        self._fresh: Array | None = None

    def check(self, conditions: Conditions) -> None:
        """Refuse conditions that the rows have no place for.

        Raises:
            ValueError: They have other names or shapes than those of the first sample.
        """
        shapes = {name: tuple(value.shape) for name, value in conditions.items()}
        mine = {name: tuple(rows.shape[1:]) for name, rows in self._heard.items()}
        if shapes != mine:
            raise ValueError(
                f"conditions of shapes {shapes} do not fit {mine} of the same batch key: put what "
                "decides them, such as the number of words, into Plan.key"
            )

    def place(self, samples: Sequence[SampleState]) -> None:
        """Give these samples the first rows, for the next step; all others are paused."""
        seated = self._seated
        if samples is seated or (len(samples) == len(seated) and all(map(is_, samples, seated))):
            return
        # Until all sit: one of them may have no noise to begin with.
        self._unseat()
        self._guided = sum(sample.is_guided for sample in samples)
        order = self._ordered(samples)
        for row, sample in enumerate(self._samples):
            if sample is not None and (row >= len(order) or order[row] is not sample):
                self._pause(sample)
        for row, sample in enumerate(order):
            if self._samples[row] is not sample:
                self._seat(sample, row)
        self._placed, self._seated = order, tuple(samples)
        n = len(order)
        h = None if self._h is None else self._h[:n]
        self._moving = self._x[:n], self._said[:n], self._seen[:n], h

    def _ordered(self, samples: Sequence[SampleState]) -> list[SampleState]:
        """Return who gets which row: everybody the one they have, if it is on the right side."""
        order: list[SampleState | None] = [None] * len(samples)
        moving = []
        for sample in samples:
            if sample.row in self._side(sample, len(samples)):
                order[sample.row] = sample
            else:
                moving.append(sample)
        for sample in moving:
            row = next(r for r in self._side(sample, len(samples)) if order[r] is None)
            order[row] = sample
        return [sample for sample in order if sample is not None]

    def _side(self, sample: SampleState, count: int) -> range:
        return range(self._guided) if sample.is_guided else range(self._guided, count)

    def _pause(self, sample: SampleState) -> None:
        row = sample.row
        x = _copy(self._x[row])
        if self._h is not None:
            sample.h = _copy(self._h[row])
        sample.x, sample.raw, sample.row = x, None, -1
        self._samples[row] = None
        self._unseat()

    def _unseat(self) -> None:
        self._seated, self._seating = (), None

    def _seat(self, sample: SampleState, row: int) -> None:
        self._x[row] = sample.begin(self._arrays) if sample.x is None else sample.x
        if self._h is not None:
            self._h[row] = 0 if sample.h is None else sample.h
        sample.x, sample.h, sample.row = None, None, row
        sample.raw = self._raw(row)
        self._samples[row] = sample

    def take(self, sample: SampleState) -> None:
        """Free the sample's row; its latents go with it, and nothing that it heard is held."""
        if sample.row >= 0:
            self._pause(sample)
        self._unseat()
        if not any(self._samples):
            self._placed = []
        heard, without = sample.with_words, sample.without_words
        self._hearers = [
            None if each is heard or each is without else each for each in self._hearers
        ]

    def latents(self, sample: SampleState) -> tuple[Array, Array | None]:
        """Return a running sample's latents and what its solver keeps, as they lie here."""
        return self._latents(sample.row)

    def _latents(self, row: int) -> tuple[Array, Array | None]:
        found = self._rows[row]
        if found is None:
            found = self._x[row], None if self._h is None else self._h[row]
            self._rows[row] = found
        return found

    def _raw(self, row: int) -> Raw | None:
        """Return the bytes of latents as they lie here; None where a checkpoint has others."""
        if not self._is_raw:
            return None
        raw = self._raws[row]
        if raw is None:
            x, h = self._latents(row)
            raw = self._raws[row] = packed(x), None if h is None else packed(h)
        return raw

    def copied(self, sample: SampleState) -> tuple[Array, Array | None]:
        """Return copies of `latents`, which stay as they are."""
        x, h = self.latents(sample)
        return _copy(x), None if h is None else _copy(h)

    def load(self, bucket: int) -> None:
        """Write what the network is to see of the samples that were placed."""
        seating = self._seating
        if seating is None or seating.bucket != bucket:
            seating = self._seating = self._seat_all(bucket)
        placed, t = self._placed, self._host_t
        if seating.numbers is not None:
            step = placed[0].step
            self._k, t[0] = seating.numbers[step], seating.tables[0].heard[step]
        else:
            steps = [sample.step for sample in placed]
            self._k = self._arrays.put(solvers.gather(seating.tables, steps))
            for row, table in enumerate(seating.tables):
                t[row] = table.heard[steps[row]]
        if not seating.is_shown_latents:
            solvers.scale_input(self._solver, self._moving[0], self._k, self._moving[2])
        for to, source in seating.copies:
            to[...] = source

    def _seat_all(self, bucket: int) -> _Seating:
        """Have all of the placed heard, and return what stays as it is as long as they sit."""
        self._seating = None
        placed, n, g = self._placed, len(self._placed), self._guided
        rows = n + g
        padded = -(-rows // bucket) * bucket
        hearers = [sample.with_words for sample in placed]
        hearers += [sample.without_words for sample in placed[:g]]
        hearers += hearers[:1] * (padded - rows)
        for row, conditions in enumerate(hearers):
            self._hear(row, conditions)
        seating = _Seating(bucket)
        seating.tables = [sample.table for sample in placed]
        if n == 1 and self._is_host:
            seating.numbers = solvers.numbers(placed[0].table)
            seating.is_lone = padded == 1
        seating.is_shown_latents = not (self._scales_input or padded > n)
        seen, t = self._seen, self._host_t
        if g:
            seating.copies += (seen[n:rows], seen[:g]), (t[n:rows], t[:g])
            scale = np.array([sample.plan.guidance for sample in placed[:g]], np.float32)
            seating.said, seating.scale = self._said[:rows], self._arrays.put(scale)
        if rows < padded:
            seating.copies += (seen[rows:padded], seen[:1]), (t[rows:padded], t[:1])
        shown = self._x if seating.is_shown_latents else seen
        lies = t if self._is_host else None
        seating.parts = [
            _Part(slice(start, start + bucket), shown, self._said, self._heard, lies)
            for start in range(0, rows, bucket)
        ]
        return seating

    def _hear(self, row: int, conditions: Conditions | None) -> None:
        if self._hearers[row] is conditions:
            return
        assert conditions is not None, "conditions come before the first step"
        self._hearers[row] = None
        for name, value in conditions.items():
            self._heard[name][row] = value
        self._hearers[row] = conditions

    def forward(
        self,
        denoise: Callable[[Array, Array, Conditions], Array],
        bucket: int,
    ) -> None:
        """Call the network on `bucket` rows at a time, then apply guidance. `load` comes first.

        Args:
            denoise: Calls the network.
            bucket: The same as for `load`.

        Raises:
            ValueError: The network returned another shape.
        """
        seating = self._seating
        assert seating is not None, "its inputs were loaded"
        assert seating.bucket == bucket, "as many as were loaded"
        self._fresh = None
        put_t = None if self._is_host else self._arrays.put(self._host_t)
        for part in seating.parts:
            t = part.t if put_t is None else put_t[part.rows]
            said = denoise(part.seen, t, dict(part.heard))
            if said.shape != part.shape and tuple(said.shape) != tuple(part.shape):
                raise ValueError(
                    f"denoise() returned shape {tuple(said.shape)} for latents of shape "
                    f"{tuple(part.shape)}"
                )
            if seating.is_lone and type(said) is np.ndarray and said.dtype == np.float32:
                self._fresh = said
            else:
                part.said[...] = said
        if seating.scale is not None:
            solvers.guide(seating.said, len(seating.tables), seating.scale)

    def foreseen(self, sample: SampleState) -> Callable[[], Array]:
        """Return what makes the latents that the network promises: only somebody who looks at them
        pays for more than a copy. To be called between `forward` and `advance`.
        """
        row = slice(sample.row, sample.row + 1)
        said = self._said if self._fresh is None else self._fresh
        x, m = _copy(self._x[row]), _copy(said[row])
        return partial(_foreseen, self._arrays, sample.table, sample.step, x, m)

    def advance(self) -> None:
        """Move the samples by one step. After an error their latents are worth nothing."""
        x, m, seen, h = self._moving
        z = self._noise() if self._may_draw else None
        said, self._fresh = self._fresh, None
        solvers.advance(self._solver, x, m, self._k, z=z, h=h, scratch=seen, said=said)
        for sample in self._placed:
            sample.step += 1

    def _noise(self) -> Array | None:
        drawing = [sample for sample in self._placed if sample.table.draws[sample.step]]
        if not drawing and not self._needs_noise:
            return None
        for sample in drawing:
            sample.draw(self._host_z[sample.row])
        return self._arrays.put(self._host_z[: len(self._placed)])


def _copy(row: Array) -> Array:
    return row * 1


def _foreseen(arrays: Arrays, table: Table, step: int, x: Array, m: Array) -> Array:
    kept, k = table.solver.history, arrays.put(_whole_way(table, step))
    moved = x * 1
    h = arrays.put(np.zeros((1, kept, *x.shape[1:]), np.float32))
    solvers.advance(table.solver, moved, m * 1, k, z=x * 0, h=h)
    return h[0, 0] if table.solver.name == "dpmpp_2m" else moved[0]


def _whole_way(table: Table, step: int) -> Singles:
    """Return coefficients of a step that ends at the picture at once. Shape: (1, k).

    DPM++ 2M foresees it in any case.
    """
    k = table.coefficients[step : step + 1].copy()
    match table.solver.name:
        case "flow_euler":
            k[:, 1] = table.affine[step:, 1].sum()  # all that is left of sigma
        case "euler" | "euler_ancestral":
            k[:, 4], k[:, 5] = k[:, 3], 0
        case "ddim":
            k[:, 3:6] = 1, 0, 0
        case "lcm":
            k[:, 3:7] = 1, 0, 1, 0
        case "plms":
            root, rest = k[0, 14:16]
            k[:, 1:14] = 1, 0, 0, 0, 1, 1, 0, 0, root, rest, 1 / root, rest, root
    return k
