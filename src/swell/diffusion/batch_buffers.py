"""Batch buffers: the latents of samples that run together, in arrays allocated once per batch key.

Sample i of a step has row i of every array. Samples with guidance come first, so the rows that the
network reads are

    0 … n      all samples, with their prompts
    n … n + g  the first g of them again, without a prompt
    …          padding up to the bucket: copies of the first row, never old data of other samples

A sample that runs again keeps its row. Only samples that come, leave or change sides are copied, so
the last sample moves to the row of a finished one. Paused samples keep their latents in their own
arrays.

A step has three parts: `load` writes the inputs of the network, `forward` calls it, and `advance`
moves the samples. Only `advance` changes latents, so a failure before it can be retried.
"""

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache, partial
from operator import is_
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.diffusion import solvers
from swell.diffusion.batch_scheduler import Sample
from swell.diffusion.solvers import AlphaBars, Noise, Sigmas, Solver, Table, blend
from swell.runtime.checkpoint_shm import FORMAT, decode_checkpoint, encode_checkpoint
from swell.sdk.step_model import Array, Arrays, NoiseStream, Plan, Sampler

Singles = NDArray[np.float32]

#: Further inputs of the network after latents and time, by name, without the batch dimension.
Conditions = Mapping[str, Array]

#: Bytes of latents and of the solver's history, as in a checkpoint.
Raw = tuple[memoryview, memoryview | None]


class InvalidCheckpoint(ValueError):
    """A checkpoint is broken, or belongs to another sample."""


class BatchKey(msgspec.Struct, frozen=True, cache_hash=True):
    """What samples must have in common to share a step: shapes and code, no numbers."""

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
        """Return a name for step costs, the same in every process.

        LoRAs are left out, because they do not change the cost of a step.
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


#: By solver: its schedule, and the function that makes a table of it.
_SOLVERS: Final[Mapping[str, tuple[Callable[..., Any], Callable[..., Table]]]] = {
    "euler": (solvers.euler_sigmas, solvers.euler),
    "euler_ancestral": (solvers.euler_sigmas, solvers.euler_ancestral),
    "dpmpp_2m": (solvers.dpmpp_sigmas, solvers.dpmpp_2m),
    "flow_euler": (solvers.flow_sigmas, solvers.flow_euler),
    "ddim": (solvers.ddim_bars, solvers.ddim),
    "lcm": (solvers.lcm_bars, solvers.lcm),
    "plms": (solvers.plms_bars, solvers.plms),
}

#: Options of the noise of training, and their names in `alpha_bars`.
_TRAINING: Final = {
    "betas": "betas",
    "beta_start": "start",
    "beta_end": "end",
    "train_steps": "train_steps",
}


def _schedule(
    plan: Callable[..., Any], sampler: Sampler, options: dict[str, Any]
) -> Sigmas | AlphaBars:
    # LCM spreads its steps over this part of the noise; other solvers skip the first ones.
    own_strength = "strength" in inspect.signature(plan).parameters
    skip = options.pop("skip", 0)
    strength = 1.0 if own_strength else options.pop("strength", 1.0)
    if plan is solvers.flow_sigmas:
        schedule = plan(sampler.steps, **_taken(options, plan))
    else:
        told = {name: options.pop(key) for key, name in _TRAINING.items() if key in options}
        bars = solvers.alpha_bars(told.pop("betas", "scaled_linear"), **told)
        schedule = plan(bars, sampler.steps, **_taken(options, plan))
    if skip or strength != 1:
        schedule = schedule.start(skip or solvers.first_step(sampler.steps, strength))
    made: Sigmas | AlphaBars = schedule
    return made


def _taken(options: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Remove from `options` those that `function` takes by name, and return them."""
    known = inspect.signature(function).parameters.values()
    names = [one.name for one in known if one.kind is inspect.Parameter.KEYWORD_ONLY]
    return {name: options.pop(name) for name in names if name in options}


# --- samples -------------------------------------------------------------------------------------


class SampleState(Sample):
    """One sample, from its arrival until it is decoded.

    Its latents are in a row of the batch buffers while it runs (`row` is not -1), and in `x` while
    it is paused or finished. It has none before its first step.
    """

    key: BatchKey

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
        #: Whether it has a second row.
        self.is_guided = plan.guidance is not None
        super().__init__(
            id=sample_id,
            key=key,
            remaining=len(table),
            steps=len(table),
            weight=1 / max(1, item.count),
            rows=2 if self.is_guided else 1,
        )
        self.item = item
        self.plan = plan
        self.table = table
        self.seed: int = item.seed if plan.seed is None else plan.seed
        #: Number of finished steps.
        self.step = 0
        #: Whether one of them had fewer rows than its key, for lack of memory. Its bits may differ.
        self.is_narrowed = False
        #: Its row in the batch buffers; -1 for none.
        self.row = -1
        self.x: Array | None = None
        #: History of its solver, if it has one. Shape: (history, ...).
        self.h: Array | None = None
        #: The model's function for its stream of noise, if there is one; and the stream.
        self.stream = stream
        self.noise: NoiseStream | None = None
        #: Latents of the picture that it starts from.
        self.start: Array | None = None
        #: Conditions of each of its rows; None before they are encoded.
        self.with_words: Conditions | None = None
        self.without_words: Conditions | None = None
        #: Time of the latest progress report and preview.
        self.told_s = self.previewed_s = -np.inf
        #: Device time of its finished work, in seconds.
        self.device_s = 0.0
        self.has_ended = False

    @property
    def is_finished(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.steps

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
        """Get the latents of the picture that it starts from, before its first step."""
        if self.step == 0:
            start = self.plan.start
            self.start = start() if callable(start) else start

    def part(self) -> None:
        """Drop the references to its model that only the first step needs."""
        self.stream = None
        if self.plan.start is not None:
            self.plan = dataclasses.replace(self.plan, start=None)

    def _stream(self, seed: int) -> NoiseStream:
        return Noise(seed) if self.stream is None else self.stream(seed, self.plan)

    def resume(self, raw: bytes, arrays: Arrays) -> None:
        """Continue from a checkpoint of the same sample.

        Raises:
            InvalidCheckpoint: It is broken, or belongs to another sample.
        """
        try:
            kept = decode_checkpoint(raw)
        except msgspec.MsgspecError as error:
            raise InvalidCheckpoint(f"no checkpoint of a sample: {error}") from error
        mine, shape, history = self.identity, self.plan.shape, self.table.solver.history
        size = 4 * int(np.prod(shape))
        sizes = len(kept.x), len(kept.h or b"")
        if kept.format != FORMAT or kept.identity != mine or sizes != (size, size * history):
            raise InvalidCheckpoint(f"a checkpoint of {kept.identity}, not of {mine}")
        if not 0 < kept.step <= self.steps:
            raise InvalidCheckpoint(f"step {kept.step} of {self.steps}")
        self.step, self.is_narrowed = kept.step, kept.is_narrowed
        self.remaining = self.steps - self.step
        self.x = arrays.put(_unpacked(kept.x, shape))
        self.h = kept.h and arrays.put(_unpacked(kept.h, (history, *shape)))
        # The state of a stream is how much was drawn from it.
        self.noise = self._stream(self.seed)
        for _ in range(1 + int(self.table.draws[: self.step].sum())):
            self.noise.draw(shape)

    @property
    def identity(self) -> str:
        """Text that is equal for the same sample in every process."""
        key = msgspec.structs.replace(self.key, bucket=None)
        loras = f" {key.loras}" if key.loras else ""
        return f"{key}{loras}, {self.steps} steps, seed {self.seed}"


class Drawn(NamedTuple):
    """The latents of a sample after some of its steps, for a checkpoint."""

    state: SampleState
    #: Number of finished steps, and `SampleState.is_narrowed` at that time.
    step: int
    is_narrowed: bool
    arrays: Arrays
    x: Array
    h: Array | None
    #: Whether `read` does not wait for a device. Then it must be called before the next step.
    is_at_hand: bool

    def read(self) -> Raw:
        """Return latents and history as a `Checkpoint` has them; waits for the device."""
        x, h = (None if each is None else self.arrays.get(each) for each in (self.x, self.h))
        return _packed(x), None if h is None else _packed(h)

    def checkpoint(self) -> bytes:
        """Return a checkpoint for `SampleState.resume`; waits for the device."""
        x, h = (None if each is None else each.tobytes() for each in self.read())
        assert x is not None, "latents are always there"
        return encode_checkpoint(self.state.identity, self.step, x, h, is_narrowed=self.is_narrowed)


def _packed(values: Any) -> memoryview:
    """Return the bytes of numbers as in a checkpoint; they may share memory with `values`."""
    return memoryview(np.ascontiguousarray(values, "<f4")).cast("B")


def _unpacked(raw: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)


# --- rows ----------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """The batch layout: guidance pairs, padding, and the views that the network reads.

    It is cached while the same samples run in the same bucket, because building it takes longer
    than the arithmetic of a small step.
    """

    bucket: int
    #: Tables of all samples, in the order of rows.
    tables: list[Table]
    #: Whether the network reads the latents themselves, without scaling, guidance or padding.
    reads_latents: bool
    #: Copies (target, source) of each step: second rows, and padding.
    copies: list[tuple[Array, Array]]
    #: One call of the network each: its rows, inputs, outputs and conditions.
    parts: list[tuple[slice, Array, Array, dict[str, Array]]]
    #: Outputs in use, and the guidance scales of samples with guidance; None without guidance.
    guidance: tuple[Array, Array] | None


class BatchBuffers:
    """The rows of one batch key.

    Args:
        key: The batch key.
        arrays: Operations on the model's arrays.
        most_rows: Most rows of a step; at least 1.
        conditions: Conditions of the first sample. All others have the same names and shapes.
    """

    def __init__(
        self, key: BatchKey, arrays: Arrays, most_rows: int, conditions: Conditions
    ) -> None:
        # A sample with guidance has two rows, also if a step has one row and two passes.
        rows = max(most_rows, 2)
        self._solver = solver = key.solver
        self._arrays = arrays
        self._host_z = np.zeros((most_rows, *key.shape), np.float32)
        self._host_t = np.zeros(rows, np.float32)
        like = arrays.put(np.zeros(key.shape, np.float32))
        self._x = arrays.rows(like, most_rows)
        self._h = None
        if kept := solver.history:
            self._h = arrays.rows(arrays.put(np.zeros((kept, *key.shape), np.float32)), most_rows)
        #: Inputs of the network, unless it reads the latents; and its outputs.
        self._inputs = arrays.rows(like, rows)
        self._outputs = arrays.rows(like, rows)
        self._conditions = {name: arrays.rows(value, rows) for name, value in conditions.items()}
        #: The sample and the conditions of each row.
        self._samples: list[SampleState | None] = [None] * most_rows
        self._row_conditions: list[Conditions | None] = [None] * rows
        #: Samples of the present step, in the order of rows.
        self._placed: list[SampleState] = []
        #: The same in the order of `place`; empty if a row has changed.
        self._placed_as: tuple[SampleState, ...] = ()
        self._layout: _Layout | None = None
        self._guided = 0
        self._k: Array = None

    def check(self, conditions: Conditions) -> None:
        """Check that conditions fit the rows.

        Raises:
            ValueError: Their names or shapes differ from those of the first sample.
        """
        shapes = {name: tuple(value.shape) for name, value in conditions.items()}
        mine = {name: tuple(rows.shape[1:]) for name, rows in self._conditions.items()}
        if shapes != mine:
            raise ValueError(
                f"conditions of shapes {shapes} do not fit {mine} of the same batch key: put what "
                "decides them, such as the number of words, into Plan.key"
            )

    def place(self, samples: Sequence[SampleState]) -> None:
        """Assign the first rows to these samples for the next step, and pause all others."""
        count = len(samples)
        if count == len(self._placed_as) and all(map(is_, samples, self._placed_as)):
            return
        # First, because a sample may fail to begin.
        self._placed_as, self._layout = (), None
        guided = self._guided = sum(sample.is_guided for sample in samples)
        # A sample on the right side keeps its row.
        order: list[SampleState | None] = [None] * count
        sides = range(guided, count), range(guided)
        moving = []
        for sample in samples:
            if sample.row in sides[sample.is_guided]:
                order[sample.row] = sample
            else:
                moving.append(sample)
        for sample in moving:
            order[next(r for r in sides[sample.is_guided] if order[r] is None)] = sample
        for row, other in enumerate(self._samples):
            if other is not None and (row >= count or order[row] is not other):
                self.take(other)
        self._placed = [sample for sample in order if sample is not None]
        for row, sample in enumerate(self._placed):
            if self._samples[row] is sample:
                continue
            self._x[row] = sample.begin(self._arrays) if sample.x is None else sample.x
            if self._h is not None:
                self._h[row] = 0 if sample.h is None else sample.h
            sample.x, sample.h, sample.row = None, None, row
            self._samples[row] = sample
        self._placed_as = tuple(samples)

    def take(self, sample: SampleState) -> None:
        """Free the row of a sample. It keeps its latents; its conditions are dropped."""
        row = sample.row
        if row >= 0:
            sample.x = _copy(self._x[row])
            if self._h is not None:
                sample.h = _copy(self._h[row])
            sample.row, self._samples[row] = -1, None
        self._placed_as, self._layout = (), None
        if not any(self._samples):
            self._placed = []
        own, without = sample.with_words, sample.without_words
        self._row_conditions = [
            None if each is own or each is without else each for each in self._row_conditions
        ]

    def latents(self, sample: SampleState) -> tuple[Array, Array | None]:
        """Return views of a running sample's latents and solver history."""
        return self._x[sample.row], None if self._h is None else self._h[sample.row]

    def load(self, bucket: int) -> None:
        """Write the inputs of the network for the placed samples."""
        layout = self._layout
        if layout is None or layout.bucket != bucket:
            layout = self._layout = self._build_layout(bucket)
        steps = [sample.step for sample in self._placed]
        self._k = self._arrays.put(solvers.gather(layout.tables, steps))
        for row, table in enumerate(layout.tables):
            self._host_t[row] = table.heard[steps[row]]
        if not layout.reads_latents:
            n = len(steps)
            solvers.scale_input(self._solver, self._x[:n], self._k, self._inputs[:n])
        for to, source in layout.copies:
            to[...] = source

    def _build_layout(self, bucket: int) -> _Layout:
        """Set the conditions of all rows, and return the batch layout."""
        self._layout = None
        placed, n, g = self._placed, len(self._placed), self._guided
        rows = n + g
        padded = -(-rows // bucket) * bucket
        wanted = [sample.with_words for sample in placed]
        wanted += [sample.without_words for sample in placed[:g]]
        wanted += wanted[:1] * (padded - rows)
        for row, conditions in enumerate(wanted):
            if self._row_conditions[row] is not conditions:
                assert conditions is not None, "conditions come before the first step"
                self._row_conditions[row] = None
                for name, value in conditions.items():
                    self._conditions[name][row] = value
                self._row_conditions[row] = conditions
        reads_latents = not (self._solver.scales_input or padded > n)
        inputs, t = self._inputs, self._host_t
        copies: list[tuple[Array, Array]] = []
        guidance = None
        if g:
            copies += (inputs[n:rows], inputs[:g]), (t[n:rows], t[:g])
            scale = np.array([sample.plan.guidance for sample in placed[:g]], np.float32)
            guidance = self._outputs[:rows], self._arrays.put(scale)
        if rows < padded:
            copies += (inputs[rows:padded], inputs[:1]), (t[rows:padded], t[:1])
        read = self._x if reads_latents else inputs
        parts = []
        for start in range(0, rows, bucket):
            part = slice(start, start + bucket)
            conditions = {name: values[part] for name, values in self._conditions.items()}
            parts.append((part, read[part], self._outputs[part], conditions))
        tables = [sample.table for sample in placed]
        return _Layout(bucket, tables, reads_latents, copies, parts, guidance)

    def forward(self, denoise: Callable[[Array, Array, Conditions], Array]) -> None:
        """Call the network on `bucket` rows at a time, then apply guidance. `load` comes first.

        Raises:
            ValueError: The network returned another shape.
        """
        layout = self._layout
        assert layout is not None, "its inputs were loaded"
        t = self._arrays.put(self._host_t)
        for rows, inputs, outputs, conditions in layout.parts:
            output = denoise(inputs, t[rows], dict(conditions))
            if output.shape != inputs.shape and tuple(output.shape) != tuple(inputs.shape):
                raise ValueError(
                    f"denoise() returned shape {tuple(output.shape)} for latents of shape "
                    f"{tuple(inputs.shape)}"
                )
            outputs[...] = output
        if layout.guidance is not None:
            outputs, scale = layout.guidance
            solvers.guide(outputs, len(layout.tables), scale)

    def foreseen(self, sample: SampleState) -> Callable[[], Array]:
        """Return a function that predicts the final latents of a sample, for a preview.

        Call it between `forward` and `advance`. Now only the row is copied.
        """
        row = slice(sample.row, sample.row + 1)
        x, m = _copy(self._x[row]), _copy(self._outputs[row])
        return partial(_foreseen, self._arrays, sample.table, sample.step, x, m)

    def advance(self) -> None:
        """Advance the samples by one step. After an error their latents are invalid."""
        n, z = len(self._placed), None
        drawing = [sample for sample in self._placed if sample.table.draws[sample.step]]
        if drawing or self._solver.needs_noise:
            for sample in drawing:
                assert sample.noise is not None, "noise begins with the latents"
                sample.noise.fill(self._host_z[sample.row])
            z = self._arrays.put(self._host_z[:n])
        x, m, scratch = self._x[:n], self._outputs[:n], self._inputs[:n]
        h = None if self._h is None else self._h[:n]
        solvers.advance(self._solver, x, m, self._k, z=z, h=h, scratch=scratch)
        for sample in self._placed:
            sample.step += 1


def _copy(row: Array) -> Array:
    return row * 1


def _foreseen(arrays: Arrays, table: Table, step: int, x: Array, m: Array) -> Array:
    kept, k = table.solver.history, arrays.put(_whole_way(table, step))
    moved = x * 1
    h = arrays.put(np.zeros((1, kept, *x.shape[1:]), np.float32))
    solvers.advance(table.solver, moved, m * 1, k, z=x * 0, h=h)
    return h[0, 0] if table.solver.name == "dpmpp_2m" else moved[0]


def _whole_way(table: Table, step: int) -> Singles:
    """Return coefficients of one step from here to the final latents. Shape: (1, k).

    DPM++ 2M predicts them in each step.
    """
    k = table.coefficients[step : step + 1].copy()
    match table.solver.name:
        case "flow_euler":
            k[:, 1] = table.coefficients[step:, 1].sum()  # all of the remaining sigma
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
