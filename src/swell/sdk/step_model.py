"""Base class of models that draw in steps: the samples of many tasks share each step."""

import importlib
import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from swell.sdk.media import LoRA
from swell.sdk.model import Model

#: A numpy array or a torch tensor, as the model prefers.
Array: TypeAlias = Any

#: Text of the `FloatingPointError` of a sample that would otherwise be a black picture.
NOT_FINITE: Final = (
    "the model returned values that are not numbers (NaN or infinite). The usual cause is half "
    "precision that overflows in the VAE or in the network: load it in bfloat16 or float32 "
    "(`swell models add … --dtype bfloat16`)"
)

#: The step engine. It is a layer above this module, and imported when a model needs it.
_ENGINE: Final = "swell.diffusion.run_locally"


class Arrays(Protocol):
    """Operations on arrays of one device. The engine uses only these and in-place operators."""

    def put(self, values: NDArray[Any]) -> Array:
        """Return the same numbers as an array of the model; may share memory with `values`."""

    def get(self, array: Array) -> NDArray[Any]:
        """Return the same numbers in host memory."""

    def rows(self, like: Array, count: int) -> Array:
        """Return zeros. Shape: (count, *like.shape), of the kind and type of `like`."""

    def is_finite(self, array: Array) -> Callable[[], bool]:
        """Return a function that waits for the device, and says if no number is NaN or infinite."""

    def mark(self) -> "Mark | None":
        """Return a mark to wait until the device has finished everything queued so far.

        None if the device works synchronously. With a mark, the engine queues the next step while
        this one runs.
        """


class Mark(Protocol):
    """A position in the queue of a device."""

    def wait(self) -> None:
        """Return once the device has reached this position.

        Raises:
            Exception: The device is broken; the models on it cannot continue.
        """


class NoiseStream(Protocol):
    """The noise of one sample. The same seed must give the same stream, on every machine."""

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the next numbers, of mean 0 and deviation 1."""

    def fill(self, out: NDArray[np.float32]) -> None:
        """Write the next numbers into `out`, which is contiguous: the same as `draw` gives."""


class HostArrays:
    """Arrays of numpy. A model that uses another library implements `Arrays`."""

    def put(self, values: NDArray[Any]) -> Array:
        return values

    def get(self, array: Array) -> NDArray[Any]:
        return np.asarray(array)

    def rows(self, like: Array, count: int) -> Array:
        return np.zeros((count, *np.shape(like)), np.asarray(like).dtype)

    def is_finite(self, array: Array) -> Callable[[], bool]:
        found = bool(np.isfinite(array).all())
        return lambda: found

    def mark(self) -> None:
        """Return None: numpy works synchronously."""


class Sampler:
    """Solver and schedule of one picture. A value: equal samplers share their coefficients.

    Args:
        solver: `euler`, `euler_ancestral`, `dpmpp_2m`, `plms`, `flow_euler`, `ddim` or `lcm`.
        steps: Number of steps.
        options: Options of the schedule and of the solver, by their names in
            `swell.diffusion.solvers`. diffusers calls them the scheduler's configuration:
            `spacing`, `offset`, `karras`, `shift`, `mu`, `eta`, `prediction` and others. `betas`,
            `beta_start`, `beta_end` and `train_steps` describe the noise of training. `strength`
            below 1 starts from a picture; `skip` says the same as a number of skipped steps.
    """

    __slots__ = ("options", "solver", "steps")

    def __init__(self, solver: str, steps: int, **options: Hashable) -> None:
        self.solver = solver
        self.steps = steps
        self.options = options

    def _value(self) -> tuple[Hashable, ...]:
        return (self.solver, self.steps, *sorted(self.options.items(), key=lambda pair: pair[0]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sampler) and self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"Sampler({self.solver!r}, {self.steps}{options})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to draw one sample, as `StepModel.prepare` returns it."""

    sampler: Sampler
    #: Shape of the sample's latents, without the batch.
    shape: tuple[int, ...]
    #: Input of `StepModel.encode`: a prompt, or a tuple of everything that the conditions depend
    #: on. None if the network takes no prompt.
    words: Hashable = None
    #: The same for the unconditional row, which guidance needs: often "" or a negative prompt. None
    #: for zeros.
    without: Hashable = None
    #: Classifier-free guidance. None takes one row instead of two, also for a network that takes
    #: its guidance as a value.
    guidance: float | None = None
    #: Other inputs of the network by name: numbers or arrays, the same for both rows.
    values: Mapping[str, Any] = field(default_factory=dict)
    #: Samples run together only if their keys are equal, and shape, solver, LoRAs and the shapes of
    #: conditions: the number of tokens. Never steps, seed, words, guidance or values.
    key: Hashable = ()
    #: LoRAs, for a model that has `adapt`. Samples with the same set run together.
    loras: Sequence[LoRA] = ()
    #: Rows of each step in exact mode; None for the model's `bucket`. For models that gain from
    #: batching at some sizes only: 1 if one sample fills the device.
    bucket: int | None = None
    #: Seed of the sample's noise; None for the item's, which is the task's plus the index.
    seed: int | None = None
    #: For variations of one picture: its seed, and the share of the initial noise that is the
    #: sample's own, from 0 to 1. The noise of later steps is always its own. None for all.
    near: tuple[int, float] | None = None
    #: Latents of a picture to start from, or a function that returns them, called once before the
    #: first step, when the model is on its device. Needs `strength` or `skip` in the sampler.
    start: Array | Callable[[], Array] | None = None


class StepModel(Model):
    """A model that draws in steps: write `prepare`, `denoise`, `decode`, and `encode` for prompts.

    The engine does the rest: noise, batches, guidance, the solver, progress, cancelling. Samples of
    many tasks, at different steps, with and without guidance, run in one `denoise`. The result of a
    row must not depend on the other rows, nor on its position.
    """

    #: Operations on its arrays; set it in `load` if they are not in host memory.
    arrays: Arrays = HostArrays()
    #: Most rows of a step. A sample with guidance takes two.
    most_rows: int = 16
    #: Rows of every step in exact mode, with padding, so that results do not depend on the batch. A
    #: larger one has more throughput and makes a single picture slower. See `Plan.bucket`.
    bucket: int = 2
    #: Whether a row has the same bits in steps of any number of rows, as with batch-invariant
    #: kernels. Exact mode then needs no bucket: steps have as many rows as pay off. `load` or
    #: `warmup` may set it, after a check.
    batch_invariant: bool = False
    #: Whether steps of fast mode are padded to 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 64 rows. A
    #: network that is compiled or captured per row count is called with each of them in `warmup`,
    #: up to `most_rows`. False if any number is as fast.
    padded: bool = True

    _runs: Callable[[list[Any]], list[Any]] | None = None

    def prepare(self, item: Any) -> Plan:
        """Return the plan of this sample. Must be cheap.

        The model may be off the device then, or not loaded: use nothing that `load` makes, unless
        `offload` keeps it. An exception fails the item; `Reject` fails it without retry.
        """
        raise NotImplementedError

    def pack(self, asked: Any) -> int | None:
        """Return how many pictures one input asks for; optional. None for one.

        Each picture is a sample. Its `item.index` counts through all packs of a task, and so do
        seeds. The result is then a list, also of one picture. Called with the validated input,
        before anything is loaded.
        """
        return None

    def adapt(self, loras: Sequence[LoRA]) -> None:
        """Apply these LoRAs to the weights, and remove all others; optional.

        Called before `encode` and `denoise` of samples with another set than the last, and after
        `onload`; `()` for none. It may change what these two use, never what `decode` and `preview`
        use, and the result must depend on the set alone: `swell.weights.lora_weights` does that. An
        exception fails the samples with that set.
        """
        raise NotImplementedError

    def noise(self, seed: int, plan: Plan) -> NoiseStream:
        """Return the noise of a sample; optional, to match the pictures of another program.

        The first draw makes the initial latents; each step that adds noise takes the next. The
        default is numpy's PCG64.
        """
        raise NotImplementedError

    def encode(self, words: list[Any]) -> list[Mapping[str, Array]]:
        """Return conditions by name for each of `words`; the engine caches the latest.

        The shapes may depend on `Plan.key` only: pad to a fixed length, never to the longest.
        """
        raise NotImplementedError

    def denoise(self, x: Array, t: Array, conditions: Mapping[str, Array]) -> Array:
        """Return the prediction of the network for each row: noise, v or velocity.

        Shapes: x (B, *Plan.shape) float32, scaled for the network; t (B,) float32; conditions each
        (B, ...). B is a bucket; padding repeats the first row. Do not write to the arrays nor
        reshape them in place: the engine passes the same arrays again. It copies the result before
        the next call.
        """
        raise NotImplementedError

    def decode(self, latents: Array, item: Any) -> Any:
        """Return the result of one sample: most often an `Image`. Shape: latents (*Plan.shape).

        Or a function without arguments that returns it: work that does not need the device, such
        as waiting for a copy and making a picture of it. Another thread calls it while the next
        steps run.
        """
        raise NotImplementedError

    def preview(self, latents: Array, item: Any) -> Any:
        """Return a small picture made from the latents; optional. Shape: (*Plan.shape).

        Or a function that returns it, as `decode` may. Another thread calls and encodes it while
        the next step runs: do not change it afterwards.
        """
        raise NotImplementedError

    def run(self, items: list[Any]) -> list[Any]:
        """Draw all items step by step, in exact mode, for callers without a step engine."""
        if self._runs is None:
            self._runs = importlib.import_module(_ENGINE).Runs(self)
        return self._runs(items)


def whole(result: Any) -> Any:
    """Return the result of `StepModel.decode`; call it first if it is a function."""
    if not callable(result):
        return result
    return result() if inspect.isroutine(result) or isinstance(result, partial) else result
