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
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from swell.diffusion import solvers
from swell.diffusion.solvers import AlphaBars, Noise, Sigmas, Solver, Table, blend
from swell.runtime.checkpoints import FORMAT, decode_checkpoint, encode_checkpoint
from swell.sdk.step_model import Array, Arrays, HostArrays, NoiseStream, Plan, Sampler

Singles = NDArray[np.float32]

#: Inputs of the network besides latents and time, by name, without the batch dimension.
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

#: Schedules that can be replaced by sigmas.
_OF_SIGMAS: Final = (solvers.euler_sigmas, solvers.dpmpp_sigmas, solvers.flow_sigmas)

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
        # As in its own schedule.
        scaled = sigmas[:-1].astype(np.float32) * np.float32(options.pop("train_steps", 1000))
        timesteps = scaled.astype(np.float64)
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
    """State of one sample.

    Its latents are in a row of the arena while it runs (`row` is not -1), and in `x` while it is
    paused or finished. It has none before its first step.
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
        #: Number of finished steps.
        self.step = 0
        #: Whether one of them had fewer rows than its key, for lack of memory. Its bits may differ.
        self.is_narrowed = False
        #: Its row in the arena; -1 for none.
        self.row = -1
        #: Bytes of the latents in its row, if they are as in a checkpoint; None without a row.
        self.raw: Raw | None = None
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
        self.told_s = self.previewed_s = -np.inf

    @property
    def is_guided(self) -> bool:
        """Whether it has a second row."""
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

    def draw(self, out: Singles) -> None:
        """Write the noise of the present step into `out`."""
        assert self.noise is not None, "noise begins with the latents"
        self.noise.fill(out)

    def checkpoint(
        self, raw: Raw, step: int | None = None, is_narrowed: bool | None = None
    ) -> bytes:
        """Return a checkpoint for `resume`.

        Args:
            raw: The result of `Drawn.read`.
            step: Number of finished steps at that time; by default of now.
            is_narrowed: The flag at that time; by default of now.
        """
        step = self.step if step is None else step
        is_narrowed = self.is_narrowed if is_narrowed is None else is_narrowed
        x, h = (None if each is None else each.tobytes() for each in raw)
        assert x is not None, "latents are always there"
        return encode_checkpoint(self.identity, step, x, h, is_narrowed=is_narrowed)

    def resume(self, raw: bytes, arrays: Arrays) -> None:
        """Continue from a checkpoint of the same sample.

        Raises:
            InvalidCheckpoint: It is broken, or belongs to another sample.
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
        """Text that is equal for the same sample in every process."""
        key = msgspec.structs.replace(self.key, bucket=None)
        loras = f" {key.loras}" if key.loras else ""
        return f"{key}{loras}, {len(self.table)} steps, seed {self.seed}"


def packed(values: NDArray[Any]) -> memoryview:
    """Return the bytes of numbers as in a checkpoint; they may share memory with `values`."""
    return memoryview(np.ascontiguousarray(values, "<f4")).cast("B")


def _unpacked(raw: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)


# --- rows ----------------------------------------------------------------------------------------


class _Part:
    """Rows of one call of the network, with views of its inputs and outputs.

    `t` is None if it is copied to the device in each step.
    """

    __slots__ = ("conditions", "inputs", "outputs", "rows", "shape", "t")

    def __init__(
        self, rows: slice, inputs: Array, outputs: Array, conditions: Conditions, t: Singles | None
    ) -> None:
        self.rows = rows
        self.t = None if t is None else t[rows]
        self.inputs = inputs[rows]
        self.shape = self.inputs.shape
        self.outputs = outputs[rows]
        self.conditions = {name: values[rows] for name, values in conditions.items()}


class _Layout:
    """The batch layout: row order, guidance pairs, padding, and the views that the network reads.

    It is cached while the same samples run in the same bucket, because building it takes longer
    than the arithmetic of a small step.
    """

    __slots__ = (
        "bucket",
        "copies",
        "is_single_row",
        "numbers",
        "outputs",
        "parts",
        "reads_latents",
        "scale",
        "tables",
    )

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        #: Tables of all samples, in the order of rows; and `solver.numbers` of a single sample.
        self.tables: list[Table] = []
        self.numbers: list[tuple[np.float32, ...]] | None = None
        #: Whether the network reads one row only.
        self.is_single_row = False
        #: Whether the network reads the latents themselves, without scaling, guidance or padding.
        self.reads_latents = False
        #: Copies (target, source) of each step: second rows, and padding.
        self.copies: list[tuple[Array, Array]] = []
        self.parts: list[_Part] = []
        #: Outputs in use, and the guidance scales of samples with guidance.
        self.outputs: Array = None
        self.scale: Array = None


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
        #: Inputs of the network, unless it reads the latents; and its outputs.
        self._inputs = arrays.rows(like, rows)
        self._outputs = arrays.rows(like, rows)
        self._conditions = {name: arrays.rows(value, rows) for name, value in conditions.items()}
        #: Views of the rows, and their bytes if they are as in a checkpoint; made once.
        self._is_host = type(arrays) is HostArrays
        self._is_raw = self._is_host and self._x.dtype == np.dtype("<f4")
        self._rows: list[tuple[Array, Array | None] | None] = [None] * most_rows
        self._raws: list[Raw | None] = [None] * most_rows
        #: The sample and the conditions of each row.
        self._samples: list[SampleState | None] = [None] * most_rows
        self._row_conditions: list[Conditions | None] = [None] * rows
        #: Samples of the present step, in the order of rows.
        self._placed: list[SampleState] = []
        #: The same in the order of `place`; empty if a row has changed.
        self._placed_as: tuple[SampleState, ...] = ()
        self._layout: _Layout | None = None
        #: Views of their rows: latents, outputs, inputs, history.
        self._moving: tuple[Array, Array, Array, Array | None] = (None, None, None, None)
        self._guided = 0
        self._k: Array = None
        #: The latest output of the network, if it was not copied.
        self._fresh: Array | None = None

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
        placed_as = self._placed_as
        if samples is placed_as or (
            len(samples) == len(placed_as) and all(map(is_, samples, placed_as))
        ):
            return
        # First, because a sample may fail to begin.
        self._forget_layout()
        self._guided = sum(sample.is_guided for sample in samples)
        order = self._ordered(samples)
        for row, sample in enumerate(self._samples):
            if sample is not None and (row >= len(order) or order[row] is not sample):
                self._pause(sample)
        for row, sample in enumerate(order):
            if self._samples[row] is not sample:
                self._assign(sample, row)
        self._placed, self._placed_as = order, tuple(samples)
        n = len(order)
        h = None if self._h is None else self._h[:n]
        self._moving = self._x[:n], self._outputs[:n], self._inputs[:n], h

    def _ordered(self, samples: Sequence[SampleState]) -> list[SampleState]:
        """Return the samples in the order of rows. A sample on the right side keeps its row."""
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
        self._forget_layout()

    def _forget_layout(self) -> None:
        self._placed_as, self._layout = (), None

    def _assign(self, sample: SampleState, row: int) -> None:
        self._x[row] = sample.begin(self._arrays) if sample.x is None else sample.x
        if self._h is not None:
            self._h[row] = 0 if sample.h is None else sample.h
        sample.x, sample.h, sample.row = None, None, row
        sample.raw = self._raw(row)
        self._samples[row] = sample

    def take(self, sample: SampleState) -> None:
        """Free the row of a sample. It keeps its latents; its conditions are dropped."""
        if sample.row >= 0:
            self._pause(sample)
        self._forget_layout()
        if not any(self._samples):
            self._placed = []
        own, without = sample.with_words, sample.without_words
        self._row_conditions = [
            None if each is own or each is without else each for each in self._row_conditions
        ]

    def latents(self, sample: SampleState) -> tuple[Array, Array | None]:
        """Return views of a running sample's latents and solver history."""
        return self._latents(sample.row)

    def _latents(self, row: int) -> tuple[Array, Array | None]:
        found = self._rows[row]
        if found is None:
            found = self._x[row], None if self._h is None else self._h[row]
            self._rows[row] = found
        return found

    def _raw(self, row: int) -> Raw | None:
        """Return the bytes of a row; None if a checkpoint has another format."""
        if not self._is_raw:
            return None
        raw = self._raws[row]
        if raw is None:
            x, h = self._latents(row)
            raw = self._raws[row] = packed(x), None if h is None else packed(h)
        return raw

    def copied(self, sample: SampleState) -> tuple[Array, Array | None]:
        """Return copies of `latents`."""
        x, h = self.latents(sample)
        return _copy(x), None if h is None else _copy(h)

    def load(self, bucket: int) -> None:
        """Write the inputs of the network for the placed samples."""
        layout = self._layout
        if layout is None or layout.bucket != bucket:
            layout = self._layout = self._build_layout(bucket)
        placed, t = self._placed, self._host_t
        if layout.numbers is not None:
            step = placed[0].step
            self._k, t[0] = layout.numbers[step], layout.tables[0].heard[step]
        else:
            steps = [sample.step for sample in placed]
            self._k = self._arrays.put(solvers.gather(layout.tables, steps))
            for row, table in enumerate(layout.tables):
                t[row] = table.heard[steps[row]]
        if not layout.reads_latents:
            solvers.scale_input(self._solver, self._moving[0], self._k, self._moving[2])
        for to, source in layout.copies:
            to[...] = source

    def _build_layout(self, bucket: int) -> _Layout:
        """Set the conditions of all rows, and return the batch layout."""
        self._layout = None
        placed, n, g = self._placed, len(self._placed), self._guided
        rows = n + g
        padded = -(-rows // bucket) * bucket
        row_conditions = [sample.with_words for sample in placed]
        row_conditions += [sample.without_words for sample in placed[:g]]
        row_conditions += row_conditions[:1] * (padded - rows)
        for row, conditions in enumerate(row_conditions):
            self._set_conditions(row, conditions)
        layout = _Layout(bucket)
        layout.tables = [sample.table for sample in placed]
        if n == 1 and self._is_host:
            layout.numbers = solvers.numbers(placed[0].table)
            layout.is_single_row = padded == 1
        layout.reads_latents = not (self._scales_input or padded > n)
        inputs, t = self._inputs, self._host_t
        if g:
            layout.copies += (inputs[n:rows], inputs[:g]), (t[n:rows], t[:g])
            scale = np.array([sample.plan.guidance for sample in placed[:g]], np.float32)
            layout.outputs, layout.scale = self._outputs[:rows], self._arrays.put(scale)
        if rows < padded:
            layout.copies += (inputs[rows:padded], inputs[:1]), (t[rows:padded], t[:1])
        read = self._x if layout.reads_latents else inputs
        lies = t if self._is_host else None
        layout.parts = [
            _Part(slice(start, start + bucket), read, self._outputs, self._conditions, lies)
            for start in range(0, rows, bucket)
        ]
        return layout

    def _set_conditions(self, row: int, conditions: Conditions | None) -> None:
        if self._row_conditions[row] is conditions:
            return
        assert conditions is not None, "conditions come before the first step"
        self._row_conditions[row] = None
        for name, value in conditions.items():
            self._conditions[name][row] = value
        self._row_conditions[row] = conditions

    def forward(self, denoise: Callable[[Array, Array, Conditions], Array], bucket: int) -> None:
        """Call the network on `bucket` rows at a time, then apply guidance. `load` comes first.

        Args:
            denoise: Calls the network.
            bucket: The same as for `load`.

        Raises:
            ValueError: The network returned another shape.
        """
        layout = self._layout
        assert layout is not None, "its inputs were loaded"
        assert layout.bucket == bucket, "as many as were loaded"
        self._fresh = None
        put_t = None if self._is_host else self._arrays.put(self._host_t)
        for part in layout.parts:
            t = part.t if put_t is None else put_t[part.rows]
            output = denoise(part.inputs, t, dict(part.conditions))
            if output.shape != part.shape and tuple(output.shape) != tuple(part.shape):
                raise ValueError(
                    f"denoise() returned shape {tuple(output.shape)} for latents of shape "
                    f"{tuple(part.shape)}"
                )
            if layout.is_single_row and type(output) is np.ndarray and output.dtype == np.float32:
                self._fresh = output
            else:
                part.outputs[...] = output
        if layout.scale is not None:
            solvers.guide(layout.outputs, len(layout.tables), layout.scale)

    def foreseen(self, sample: SampleState) -> Callable[[], Array]:
        """Return a function that predicts the final latents of a sample, for a preview.

        Call it between `forward` and `advance`. Now only the row is copied.
        """
        row = slice(sample.row, sample.row + 1)
        outputs = self._outputs if self._fresh is None else self._fresh
        x, m = _copy(self._x[row]), _copy(outputs[row])
        return partial(_foreseen, self._arrays, sample.table, sample.step, x, m)

    def advance(self) -> None:
        """Advance the samples by one step. After an error their latents are invalid."""
        x, m, inputs, h = self._moving
        z = self._noise() if self._may_draw else None
        output, self._fresh = self._fresh, None
        solvers.advance(self._solver, x, m, self._k, z=z, h=h, scratch=inputs, said=output)
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
