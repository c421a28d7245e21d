"""Contract of a model: how an author writes one, and what everybody else may know of it.

Three rungs, each a superset of the one before:

    1. a typed function under `@model("owner/name")`
    2. the same with constraints and `swell.ui` hints in `Annotated`, and a `Context`
    3. a class derived from `Model`, with `load`, `warmup`, and batches of compatible inputs; one
       that draws in steps derives from `StepModel`, and samples of many tasks share each step

All become a `Definition`, and a `Definition` makes a `Model`: the worker knows only that. The
pydantic input type is the one source of validation, schema, form and command line.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import PIL.Image
import pydantic
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from swell.distributions import how_to_get
from swell.errors import InvalidInput, InvalidModel, InvalidRequest, NotFound, SwellError
from swell.examples import example_of
from swell.media import Attachment, Audio, File, Image, LoRA, Video, flatten
from swell.packs import wrong_pack
from swell.registry import MOST_PRICE_MICROS, ModelCard, Speed
from swell.results import TaskWarning
from swell.samples import read_samples
from swell.weights.files import content_of_link

__all__ = [
    "NOT_FINITE",
    "Array",
    "Arrays",
    "Attachment",
    "Audio",
    "Batch",
    "Cancelled",
    "CardFacts",
    "Context",
    "Definition",
    "File",
    "HostArrays",
    "Image",
    "InvalidModel",
    "Item",
    "Listener",
    "LoRA",
    "Mark",
    "Model",
    "NoiseStream",
    "Plan",
    "Reject",
    "Sampler",
    "Speed",
    "StepModel",
    "Video",
    "can_offload",
    "content_of_link",
    "define",
    "example_of",
    "flatten",
    "import_file",
    "is_function_model",
    "load_models",
    "model",
    "remedy",
    "whole",
]

#: A numpy array or a torch tensor, whichever the model works with.
Array: TypeAlias = Any

InputT = TypeVar("InputT")
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: What a sample fails with, as a `FloatingPointError`, instead of becoming a black picture.
NOT_FINITE: Final = (
    "the model returned values that are not numbers (NaN or infinite). The usual cause is half "
    "precision that overflows in the VAE or in the network: load it in bfloat16 or float32 "
    "(`swell models add … --dtype bfloat16`)"
)

#: Where `@model` leaves the definition on the function.
_MARK: Final = "__swell_model__"

#: As `TaskWarning.code`.
_WARNING_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*/[a-z0-9][a-z0-9_.-]*")


#: Built-in models by owner or full name; everything else under `swell/` is looked for in the zoo.
_ZOO: Final = "swell.zoo"

#: Models of `demo/` that have a file of their own; all others are in one.
_OWN_FILE: Final = frozenset({"curve"})

#: What drives the steps of a `StepModel`. It stands above this module and is looked up when needed.
_ENGINE: Final = "swell.worker.denoise"

#: What makes models of files that `swell models add` wrote; it stands above this module too.
_ADDED: Final = "swell.families.measured"


class Reject(Exception):
    """Raised or returned by a model for an input that no retry can help.

    The task fails at once with code `rejected`, and the text is shown to whoever asked.
    """


class Cancelled(Exception):
    """Raised by `Context.check` once the task is cancelled."""


# --- what an author gets -------------------------------------------------------------------------


class Listener(Protocol):
    """Who hears what a model tells while it works."""

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` steps are over."""
        ...

    def preview(self, make: Callable[[], Any]) -> None:
        """A small picture may be made by calling `make`, if somebody wants it now."""
        ...

    def is_cancelled(self) -> bool:
        """Whether the task is to be stopped."""
        ...

    def ready(self, index: int, file: Attachment) -> None:
        """A file of the result of sample `index` is there, before the result is."""
        ...

    def paid(self, micros: int) -> None:
        """So many millionths of a dollar were paid to somebody else."""
        ...

    def warn(self, warning: TaskWarning) -> None:
        """The task keeps a warning."""
        ...


class _Silence:
    """Nobody listens: a model called by hand or by a test."""

    def progress(self, done: int, total: int) -> None:
        pass

    def preview(self, make: Callable[[], Any]) -> None:
        pass

    def is_cancelled(self) -> bool:
        return False

    def ready(self, index: int, file: Attachment) -> None:
        pass

    def paid(self, micros: int) -> None:
        pass

    def warn(self, warning: TaskWarning) -> None:
        pass


_SILENCE: Final = _Silence()


class Context:
    """What a model may know of the task beside its input, and say while it works.

    Args:
        seed: Seed of this sample; always set, and recorded with the result.
        index: Which of the task's samples this is, from 0.
        count: How many samples the task asked for.
        listener: Who hears progress and previews.
    """

    __slots__ = ("_listener", "count", "index", "seed")

    def __init__(
        self, *, seed: int = 0, index: int = 0, count: int = 1, listener: Listener = _SILENCE
    ) -> None:
        self.seed = seed
        self.index = index
        self.count = count
        self._listener = listener

    def progress(self, done: int, total: int) -> None:
        """Say that `done` of `total` steps are over. Cheap: call it at every step."""
        self._listener.progress(done, total)

    def preview(self, make: Callable[[], Any]) -> None:
        """Offer a preview. `make` returns an `Image` or a Pillow picture, and is called only if
        somebody may see it: at most a few times a second, never for cancelled tasks.
        """
        self._listener.preview(make)

    def ready(self, file: Attachment) -> None:
        """Say that a file of this sample's result is there, so that it goes out at once.

        Of a result that is a list of files: tell each as it is made, and return all of them, the
        same objects in the same order. Whoever follows the task gets them one by one.

        Args:
            file: An `Image` or a `File`; not to be changed any more.

        Raises:
            TypeError: It is something else.
        """
        given: object = file
        if not isinstance(given, Image | File):
            kind = type(given).__name__
            raise TypeError(f"ready() was given {kind}: give it a swell.Image or a swell.File")
        self._listener.ready(self.index, file)

    def paid(self, micros: int) -> None:
        """Say that this sample was paid for elsewhere, such as with an API; each time that it was.

        It is charged beside the device's time, whatever becomes of the sample, where the model has
        a `price_micros`: without one nothing is.

        Args:
            micros: In millionths of a dollar; >= 0.

        Raises:
            ValueError: It is below 0, or no whole number.
        """
        given: object = micros
        if not isinstance(given, int) or given < 0:
            raise ValueError(f"paid({micros!r}): give it whole millionths of a dollar, 0 or more")
        self._listener.paid(micros)

    def warn(self, code: str, message: str, suggestions: Sequence[str] = ()) -> None:
        """Add a warning to the task: it succeeds, but the user should know something.

        The API lists warnings in `warnings` of the task, once each. A task keeps the first 8.

        Args:
            code: A stable word to compare, such as `unknown_subject`: at most 40 characters of
                `a-z`, `0-9` and `_`.
            message: One or two sentences for the user; cut after 300 characters.
            suggestions: Prompts that work better. The first 6 are kept, each cut after 100
                characters.

        Raises:
            ValueError: The code has another form.
        """
        if not _WARNING_CODE.fullmatch(code):
            raise ValueError(f"warn({code!r}): a code is a word such as 'unknown_subject'")
        hints = tuple(each[:100] for each in suggestions[:6])
        self._listener.warn(TaskWarning(code=code, message=message[:300], suggestions=hints))

    @property
    def cancelled(self) -> bool:
        """Whether the task is to be stopped; look at every step."""
        return self._listener.is_cancelled()

    def check(self) -> None:
        """Stop here if the task is cancelled.

        Raises:
            Cancelled: It is.
        """
        if self._listener.is_cancelled():
            raise Cancelled


class Item(Context, Generic[InputT]):
    """One sample of one task, as a class model gets it."""

    __slots__ = ("input", "kept")

    def __init__(
        self,
        input: InputT,  # noqa: A002 - the word authors see
        *,
        seed: int = 0,
        index: int = 0,
        count: int = 1,
        listener: Listener = _SILENCE,
    ) -> None:
        # Written out rather than through `super`: made once per task on the worker's hot path.
        self.input = input
        #: Whatever a model wants to find again: `StepModel.prepare` may leave it to `decode`.
        self.kept: Any = None
        self.seed = seed
        self.index = index
        self.count = count
        self._listener = listener

    def of_pack(self, number: int, size: int) -> "Item[InputT]":
        """Return the item of one picture of a pack; see `StepModel.pack`.

        Args:
            number: Which picture, from 0.
            size: How many the pack has.
        """
        index = self.index * size + number
        return Item(
            self.input,
            seed=self.seed - self.index + index,
            index=index,
            count=self.count * size,
            listener=self._listener,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Which inputs may be run together.

    Args:
        max: At most this many samples at once.
        by: Names of input fields whose values must be equal within a batch.
    """

    max: int = 1
    by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.max < 1:
            raise InvalidModel(f"Batch(max={self.max}): use 1 or more")
        by: object = self.by  # a string is a sequence of names to nobody but Python
        if isinstance(by, str):
            raise InvalidModel(f"Batch(by={self.by!r}): use a tuple, by=({self.by!r},)")


class Model:
    """A model with weights: derive from it, set `name` and `Input`, write `run`.

    The docstring of the derived class is the model card, in Markdown.
    """

    #: `owner/name`.
    name: ClassVar[str] = ""
    #: What one input looks like.
    Input: ClassVar[type[BaseModel]]
    #: Type of one result, for the schema; anything pydantic knows, `swell.Image` or `swell.File`.
    Output: ClassVar[Any] = None
    batch: ClassVar[Batch] = Batch()
    #: Files whose content is part of the version, such as weights; relative to the file that this
    #: attribute is written in.
    files: ClassVar[Sequence[str | Path]] = ()
    #: Inputs that work, for docs, checks and warm-up; taken from the schema if empty.
    examples: ClassVar[Sequence[Mapping[str, Any]]] = ()
    #: `trial`, `canary` or `live`.
    stage: ClassVar[str] = "live"
    #: Of the code and of the weights: an SPDX expression such as `Apache-2.0`, or words.
    licence: ClassVar[str] = ""
    #: Markdown for the card: who made what it stands on, and what to name.
    credits: ClassVar[str] = ""
    #: What it takes, as measured by its author.
    speed: ClassVar[Sequence[Speed]] = ()
    #: Pictures, sounds and texts for the card, small ones, by their captions; relative to the file
    #: that this attribute is written in.
    samples: ClassVar[Mapping[str, str | Path]] = MappingProxyType({})
    #: What it takes of the device, in bytes; `load` may set it. 0 stands for what the process grows
    #: by while it loads, which tells nothing of a GPU's memory.
    memory_bytes: int = 0
    #: What one sample costs beside the device's time, in millionths of a dollar: with an API that
    #: `run` asks, which it tells with `Item.paid`.
    price_micros: ClassVar[int] = 0
    #: What is raised if the device has no memory left, beside `MemoryError`.
    out_of_memory: tuple[type[Exception], ...] = ()

    def load(self, device: str) -> None:
        """Get ready to run on `device` (`cpu`, `cuda`, `cuda:1`); called once per process."""

    def warmup(self) -> None:
        """Run something small once after `load`, so that the first user does not wait for it."""

    def offload(self) -> int:
        """Leave the device to others; return how many bytes of host memory that takes. Optional.

        Called between two batches or steps, and only where models share a device by turns. A model
        without it is dropped, and made and loaded anew when it is needed.
        """
        raise NotImplementedError

    def onload(self) -> None:
        """Come back to the device, as `offload` found it. Optional, and only together with it."""
        raise NotImplementedError

    def run(self, items: list[Any]) -> list[Any]:
        """Return one result or exception per item, in order.

        An exception in the list fails that item only. Where one is raised, the halves are run anew,
        each by itself, until the item to blame is alone; items that have told something with
        `ready` or `paid` fail with it instead. Look at `item.cancelled` between steps.
        """
        raise NotImplementedError


# --- models that draw in steps -------------------------------------------------------------------


class Arrays(Protocol):
    """Where the arrays of a model live. Beyond this only operators are used, in place."""

    def put(self, values: NDArray[Any]) -> Array:
        """Return the same numbers as an array of the model; may share memory with `values`."""
        ...

    def get(self, array: Array) -> NDArray[Any]:
        """Return the same numbers in the machine's memory."""
        ...

    def rows(self, like: Array, count: int) -> Array:
        """Return zeros. Shape: (count, *like.shape), of the kind and type of `like`."""
        ...

    def is_finite(self, array: Array) -> Callable[[], bool]:
        """Return what says whether none of the numbers is NaN or infinite; waits for the device."""
        ...

    def mark(self) -> "Mark | None":
        """Return what tells when the device has done all that it was told until now.

        None if it has, because it works while it is told. Anything else lets the next step be told
        while this one runs.
        """
        ...


class Mark(Protocol):
    """A place in what a device was told to do."""

    def wait(self) -> None:
        """Return once the device has come to this place.

        Raises:
            Exception: The device is broken. Whoever used it cannot go on.
        """
        ...


class NoiseStream(Protocol):
    """One sample's own noise. The same seed must give the same stream, on every machine."""

    def draw(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the next numbers, of mean 0 and deviation 1."""
        ...

    def fill(self, out: NDArray[np.float32]) -> None:
        """Write the next numbers into `out`, which is contiguous: the same as `draw` gives."""
        ...


class HostArrays:
    """Arrays of numpy. A model that uses torch brings its own five functions (`Arrays`)."""

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
        """See `Arrays.mark`. Everything is done when it is told."""


class Sampler:
    """By which steps noise becomes a picture. A value: equal ones share their coefficients.

    Args:
        solver: `euler`, `euler_ancestral`, `dpmpp_2m`, `plms`, `flow_euler`, `ddim` or `lcm`.
        steps: How many.
        options: Of the schedule and of the solver, by their names in `swell.worker.solver`. They
            are those that diffusers calls the scheduler's configuration, such as `spacing`,
            `offset`, `karras`, `shift`, `mu`, `eta` and `prediction`. `betas`, `beta_start`,
            `beta_end` and `train_steps` tell of training's noise. `strength` below 1 starts from a
            picture; `skip` says the same as a number of steps left out. `sigmas` (steps + 1 of
            them, the last 0) and `timesteps` replace the schedule; a flow may leave out the latter.
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
    """How one sample is drawn: what `StepModel.prepare` makes of an item."""

    sampler: Sampler
    #: Of the sample's latents, without the batch.
    shape: tuple[int, ...]
    #: What `StepModel.encode` is to make conditions of: a prompt, or a tuple of whatever they
    #: depend on. None if the network hears no words.
    words: Hashable = None
    #: The same for the row without the prompt, which guidance needs: often "" or what is unwanted.
    #: None for zeros.
    without: Hashable = None
    #: Classifier-free guidance. None takes one row instead of two, as does a network that is told
    #: its guidance as a value.
    guidance: float | None = None
    #: What else the network hears, by name: numbers or arrays, for both rows the same.
    values: Mapping[str, Any] = field(default_factory=dict)
    #: What samples must share to run together, beside shape, solver, LoRAs and the shapes of
    #: conditions: the number of words. Never steps, seed, words, guidance or values.
    key: Hashable = ()
    #: LoRAs to draw with, for a model that has `adapt`. Samples of one set run together.
    loras: Sequence[LoRA] = ()
    #: Rows of each step in exact mode; None for the model's `bucket`. For models that gain from a
    #: batch at some sizes only: 1 where one sample fills the device.
    bucket: int | None = None
    #: Of the sample's own noise; None takes the item's, which is the task's plus the index.
    seed: int | None = None
    #: For variations of one picture: the seed of that, and how much of the noise that the sample
    #: starts from is its own, from 0 to 1. Noise of later steps is its own. None for all.
    near: tuple[int, float] | None = None
    #: Latents of a picture to start from, or a function that returns them: it is called once,
    #: before the first step, when the model is on its device. Needs `strength` or `skip` in the
    #: sampler.
    start: Array | Callable[[], Array] | None = None


class StepModel(Model):
    """A model that draws in steps: write `prepare`, `denoise`, `decode`, and `encode` for words.

    The engine owns what lies between: noise, batches, guidance, the solver, progress, cancelling.
    Samples of many tasks, at different steps, with and without guidance, run in one `denoise`.
    Whatever a row's result is, it must not depend on the other rows, nor on where it stands.
    """

    #: Where the arrays live; set it in `load` if that is not the machine's memory.
    arrays: Arrays = HostArrays()
    #: Rows that a step may have at most. A sample with guidance takes two.
    most_rows: int = 16
    #: Rows that every step has in exact mode, padding included: the same bits whoever is there. A
    #: larger one has more throughput and makes a single picture wait. See `Plan.bucket`.
    bucket: int = 2
    #: Whether a row has the same bits in steps of any number of rows, as with kernels that are
    #: batch-invariant. Exact mode then needs no bucket: steps have as many rows as pay off. `load`
    #: or `warmup` may set it, after a look.
    batch_invariant: bool = False
    #: Whether steps of other numbers of rows than the exact bucket are padded to one of a few, for
    #: which a network is compiled or captured. Say False where any number is as good.
    padded: bool = True
    #: Into how many partitions the processors can be divided that it runs on; `load` may set it.
    #: Each has samples of its own, and none waits for another at the end of a step. See
    #: `denoise_in_partition`.
    partitions: int = 1

    _runs: Callable[[list[Any]], list[Any]] | None = None

    def prepare(self, item: Any) -> Plan:
        """Return how this sample is drawn. Cheap, and before anybody waits for it.

        The model need not be on the device then, nor loaded: use nothing that `load` brings, unless
        it also stays through `offload`. An exception fails the item; `Reject` for good.
        """
        raise NotImplementedError

    def pack(self, asked: Any) -> int | None:
        """Return how many pictures one input asks for; optional, and for the usual one None.

        Each is a sample by itself. `prepare` finds in `item.index` which one it is: they go on
        through all packs of a task, and so do seeds. A result is then a list, of one picture too.
        Called with the input as validated, before anything is loaded.
        """
        return None

    def adapt(self, loras: Sequence[LoRA]) -> None:
        """Put these LoRAs on the weights, and take off all others; optional.

        Called before `encode` and `denoise` of samples with another set than the last, and after
        the model was brought back to its device; `()` for none. It may change what these two use,
        never what `decode` and `preview` use, and what it leaves must depend on the set alone:
        `swell.weights.adapted` does that. An exception fails the samples with that set.
        """
        raise NotImplementedError

    def noise(self, seed: int, plan: Plan) -> NoiseStream:
        """Return a sample's own stream of noise; optional, for pictures that others draw as well.

        The first draw makes the latents that it starts from; each step that takes noise has the
        next. Without it the stream is numpy's PCG64.
        """
        raise NotImplementedError

    def encode(self, words: list[Any]) -> list[Mapping[str, Array]]:
        """Return conditions by name for each of `words`; the engine remembers the latest.

        The shapes depend on nothing but `Plan.key`: pad to a fixed length, never to the longest.
        """
        raise NotImplementedError

    def denoise(self, x: Array, t: Array, conditions: Mapping[str, Array]) -> Array:
        """Return what the network says of each row: noise, v or velocity, as the solver expects.

        Shapes: x (B, *Plan.shape) float32, scaled for the network; t (B,) float32; conditions each
        (B, ...). B is a bucket; padding repeats the first row. Nothing may be written to nor
        reshaped in place, since the same arrays may come again. The result is copied before the
        next call.
        """
        raise NotImplementedError

    def denoise_in_partition(self, x: Array, t: Array, conditions: Mapping[str, Array]) -> Array:
        """Return what `denoise` does, bit for bit in exact mode, by one of `partitions`.

        A class that writes `denoise` anew has no partitions until it writes this one anew, too. It
        is called in threads, as many at a time, while another one calls `prepare`, `encode`,
        `decode` and `preview`. So what it returns is an array of its own: nothing that another call
        writes to. `arrays` are those of the machine's memory.
        """
        raise NotImplementedError

    def decode(self, latents: Array, item: Any) -> Any:
        """Return the result of one sample: most often an `Image`. Shape: latents (*Plan.shape).

        Or a function without arguments that returns it: what needs the device no more, such as
        waiting for a copy and making a picture of it. It is called in another thread while the next
        steps run.
        """
        raise NotImplementedError

    def preview(self, latents: Array, item: Any) -> Any:
        """Return a small picture of what the latents promise; optional. Shape: (*Plan.shape).

        Another thread makes a file of it, while the next step runs: it is not to be changed.
        """
        raise NotImplementedError

    def run(self, items: list[Any]) -> list[Any]:
        """Draw all items step by step, in exact mode, for who has no step engine of their own."""
        if self._runs is None:
            self._runs = importlib.import_module(_ENGINE).Runs(self)
        return self._runs(items)


def whole(result: Any) -> Any:
    """Return what `StepModel.decode` returned, or what that returns if it is a function."""
    if not callable(result):
        return result
    return result() if inspect.isroutine(result) or isinstance(result, partial) else result


# --- definitions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Definition:
    """A model as the worker, the command line and the docs know it, whatever its rung."""

    name: str
    #: Markdown.
    description: str
    input_type: type[BaseModel]
    output_schema: dict[str, Any]
    examples: tuple[dict[str, Any], ...]
    batch: Batch
    stage: str
    #: The file that defines it, and the files that it declares.
    source: Path | None
    files: tuple[Path, ...]
    #: Makes the model, not yet loaded.
    make: Callable[[], Model]
    #: `bucket` and `most_rows` of a `StepModel`; 0 for all others.
    step_bucket: int = 0
    step_rows: int = 0
    #: What else stands on its card; samples are files by their captions.
    licence: str = ""
    credits: str = ""
    memory_bytes: int = 0
    price_micros: int = 0
    speed: tuple[Speed, ...] = ()
    samples: Mapping[str, Path] = field(default_factory=dict)

    @property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the input, with `x-ui` hints."""
        return self.input_type.model_json_schema()

    def version(self) -> str:
        """Return 12 hex digits that change with the source, the schema or a declared file.

        A sample of the card counts as such a file.

        Raises:
            InvalidModel: A declared file cannot be read.
        """
        digest = hashlib.sha256(self.name.encode())
        digest.update(json.dumps([self.input_schema, self.output_schema]).encode())
        for path in [*([self.source] if self.source else []), *self.files, *self.samples.values()]:
            digest.update(b"\0" + _file_digest(path, self.name))
        return digest.hexdigest()[:12]

    def card(self) -> ModelCard:
        """Return what the world may know of it.

        Raises:
            InvalidModel: A declared file cannot be read, a sample is no small picture, or no
                backend would take the card.
        """
        try:
            samples = read_samples(self.samples)
        except InvalidRequest as error:
            raise InvalidModel(f"{self.name}: {error.detail}") from error
        card = ModelCard(
            name=self.name,
            version=self.version(),
            description=self.description,
            input_schema=self.input_schema,
            output_schema=self.output_schema,
            examples=list(self.examples),
            stage=self.stage,
            batch_by=self.batch.by,
            max_batch=self.batch.max,
            step_bucket=self.step_bucket,
            step_rows=self.step_rows,
            licence=self.licence,
            credits=self.credits,
            memory_bytes=self.memory_bytes,
            price_micros=self.price_micros,
            speed=list(self.speed),
            samples=samples,
        )
        _check_card(card)
        return card


def _check_card(card: ModelCard) -> None:
    """Raise `InvalidModel` where no backend would take a card."""
    try:
        from swell.card_limits import check_card  # noqa: PLC0415 - it may lack its library
    except ModuleNotFoundError:
        # An environment of the model's own has no jsonschema-rs: the backend checks the card.
        return
    try:
        check_card(card)
    except InvalidInput as error:
        raise InvalidModel(error.detail) from error


class CardFacts(typing.TypedDict, total=False):
    """What stands on the card of a model beside its docstring; see `Model`."""

    licence: str
    credits: str
    memory_bytes: int
    price_micros: int
    speed: Sequence[Speed]
    samples: Mapping[str, str | Path]


def _card_facts(facts: CardFacts, home: Path | None) -> dict[str, Any]:
    """Return the fields of a `Definition` that they are."""
    samples = facts.get("samples", {})
    return {
        **facts,
        "speed": tuple(facts.get("speed", ())),
        "samples": dict(zip(samples, _resolve(list(samples.values()), home), strict=True)),
    }


def _file_digest(path: Path, name: str) -> bytes:
    # A link into a cache of weights tells by its name, even before the content has come there.
    if content := content_of_link(path):
        return bytes.fromhex(content)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InvalidModel(
            f"{name}: cannot read {path.name} to hash it: {error.strerror}"
        ) from error


def model(
    name: str,
    *,
    batch: Batch = Batch(),
    examples: Sequence[Mapping[str, Any]] = (),
    files: Sequence[str | Path] = (),
    stage: str = "live",
    **facts: typing.Unpack[CardFacts],
) -> Callable[[FunctionT], FunctionT]:
    """Make a typed function a model. The function itself stays as it is and can be called.

    Each parameter becomes an input field; its default stays its default. A parameter of type
    `Context | None` gets the context instead, and one named `seed` that is left out or None gets
    the sample's seed.

    Args:
        name: `owner/name`.
        batch: How many inputs are handed over at once; they still run one after another.
        examples: Inputs that work.
        files: Files whose content is part of the version, relative to the function's file.
        stage: `trial`, `canary` or `live`.
        facts: For the card: `licence`, `credits`, `memory_bytes`, `price_micros`, `speed` and
            `samples`, as they are attributes of a `Model`.

    Raises:
        InvalidModel: The signature cannot become a schema; the text says which parameter and why.
    """

    def mark(function: FunctionT) -> FunctionT:
        made = _define_function(function, name, batch, examples, files, stage)
        _check_price(name, facts.get("price_micros", 0))
        setattr(function, _MARK, replace(made, **_card_facts(facts, made.source)))
        return function

    return mark


def define(source: Any) -> Definition:
    """Return the definition of a function under `@model` or of a class derived from `Model`.

    Raises:
        InvalidModel: It is neither, or the class is not complete.
    """
    definition = getattr(source, _MARK, None)
    if isinstance(definition, Definition):
        return definition
    if isinstance(source, type) and issubclass(source, Model):
        return _define_class(source)
    raise InvalidModel(
        f"{getattr(source, '__name__', source)!r} is not a model: put @swell.model('owner/name') "
        "above a typed function, or derive a class from swell.Model"
    )


def _define_function(
    function: Callable[..., Any],
    name: str,
    batch: Batch,
    examples: Sequence[Mapping[str, Any]],
    files: Sequence[str | Path],
    stage: str,
) -> Definition:
    _check_name(name)
    if not inspect.isfunction(function):
        raise InvalidModel(f"{name}: @swell.model goes above a function; for a class use Model")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidModel(
            f"{name}: the function is async; use a plain function, because each "
            "model has its own process"
        )
    if inspect.isgeneratorfunction(function):
        raise InvalidModel(
            f"{name}: the function is a generator; return the result and report "
            "progress through ctx.progress and ctx.preview"
        )
    types_of = _hints(function, name)
    fields, context_name = _fields(function, types_of, name)
    input_type = _input_type(name, function, fields)
    _check_packs(name, input_type)
    home = _home(function)
    return Definition(
        name=name,
        description=inspect.getdoc(function) or "",
        input_type=input_type,
        output_schema=_schema_of(types_of.get("return")),
        examples=_examples(input_type, examples, name),
        batch=batch,
        stage=stage,
        source=home,
        files=_resolve(files, home),
        make=lambda: _FunctionModel(function, context_name, "seed" in fields),
    )


def _define_class(cls: type[Model]) -> Definition:
    where = f"{cls.__module__}.{cls.__qualname__}"
    if not cls.name:
        raise InvalidModel(f"{where}: give it a name, such as name = 'owner/name'")
    _check_name(cls.name)
    input_type = getattr(cls, "Input", None)
    if not (isinstance(input_type, type) and issubclass(input_type, BaseModel)):
        raise InvalidModel(f"{cls.name}: write `class Input(pydantic.BaseModel): …` inside {where}")
    if cls.run is Model.run:
        raise InvalidModel(f"{cls.name}: write `def run(self, items)` in {where}")
    if issubclass(cls, StepModel):
        _check_steps(cls, where)
    if (cls.offload is Model.offload) != (cls.onload is Model.onload):
        raise InvalidModel(f"{cls.name}: write both `offload` and `onload` in {where}, or neither")
    if not isinstance(cls.batch, Batch):
        raise InvalidModel(f"{cls.name}: batch must be a swell.Batch, not {cls.batch!r}")
    unknown = [field for field in cls.batch.by if field not in input_type.model_fields]
    if unknown:
        known = ", ".join(input_type.model_fields)
        raise InvalidModel(f"{cls.name}: Batch(by=…) names {unknown[0]!r}; Input has {known}")
    if input_type.model_config.get("extra") is None:
        # A misspelt field must be an error, not a silent default.
        input_type = type(
            "Input",
            (input_type,),
            {
                "__module__": input_type.__module__,
                "__doc__": input_type.__doc__,
                "model_config": ConfigDict(extra="forbid"),
            },
        )
    _check_packs(cls.name, input_type)
    home = _home(cls)
    _check_price(cls.name, cls.price_micros)
    return Definition(
        name=cls.name,
        description=inspect.cleandoc(cls.__doc__ or ""),
        input_type=input_type,
        output_schema=_schema_of(cls.Output),
        examples=_examples(input_type, cls.examples, cls.name),
        batch=cls.batch,
        stage=cls.stage,
        source=home,
        files=_resolve(cls.files, _home_of(cls, "files")),
        make=cls,
        step_bucket=cls.bucket if issubclass(cls, StepModel) else 0,
        step_rows=max(cls.bucket, cls.most_rows) if issubclass(cls, StepModel) else 0,
        **_card_facts(
            {
                "licence": cls.licence,
                "credits": inspect.cleandoc(cls.credits),
                "memory_bytes": cls.memory_bytes,
                "price_micros": cls.price_micros,
                "speed": cls.speed,
                "samples": cls.samples,
            },
            _home_of(cls, "samples"),
        ),
    )


def _check_price(name: str, micros: object) -> None:
    if not isinstance(micros, int) or not 0 <= micros <= MOST_PRICE_MICROS:
        raise InvalidModel(
            f"{name}: price_micros = {micros!r} must be whole millionths of a dollar, from 0 to "
            f"{MOST_PRICE_MICROS:_}: 40_000 are $0.04"
        )


def _check_packs(name: str, input_type: type[BaseModel]) -> None:
    if wrong := wrong_pack(input_type):
        raise InvalidModel(
            f"{name}: {wrong!r} has ui.pack() and must be a list with bounds: give it "
            "Field(min_length=1, max_length=…)"
        )


def _check_steps(cls: type[StepModel], where: str) -> None:
    if cls.run is not StepModel.run:
        raise InvalidModel(
            f"{cls.name}: a StepModel must not define `run`; derive from Model instead"
        )
    for method in ("prepare", "denoise", "decode"):
        if getattr(cls, method) is getattr(StepModel, method):
            raise InvalidModel(f"{cls.name}: write `def {method}(self, …)` in {where}")
    if cls.bucket < 1 or cls.most_rows < 1:
        raise InvalidModel(f"{cls.name}: `bucket` and `most_rows` must be 1 or more in {where}")


class _FunctionModel(Model):
    """A function in the shape of a class: one call per item."""

    def __init__(
        self, function: Callable[..., Any], context_name: str | None, takes_seed: bool
    ) -> None:
        self._function = function
        self._context_name = context_name
        self._takes_seed = takes_seed

    def run(self, items: list[Item[BaseModel]]) -> list[Any]:
        return [self._call(item) for item in items]

    def _call(self, item: Item[BaseModel]) -> Any:
        arguments = dict(item.input.__dict__)
        if self._takes_seed:
            arguments["seed"] = _seed_of(arguments["seed"], item)
        if self._context_name is not None:
            arguments[self._context_name] = item
        try:
            return self._function(**arguments)
        except Exception as error:
            return error


def can_offload(candidate: Model) -> bool:
    """Whether it can leave its device and come back without being loaded anew."""
    return type(candidate).offload is not Model.offload


def _seed_of(own: Any, item: Item[BaseModel]) -> Any:
    """Return the seed of this sample: the input's own plus the index, or the item's."""
    if own is None:
        return item.seed
    is_number = isinstance(own, int) and not isinstance(own, bool)
    return own + item.index if is_number else own


def is_function_model(candidate: Model) -> bool:
    """Whether this is a function in the shape of a class, which runs its items one by one."""
    return isinstance(candidate, _FunctionModel)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidModel(
            f"{name!r} cannot name a model: use owner/name in lower-case letters, digits, "
            "'-', '_' and '.'"
        )


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidModel(
            f"{name}: the type {error.name!r} in the signature is not known in the function's "
            "module; import it there at the top level"
        ) from error


def _fields(
    function: Callable[..., Any], types_of: dict[str, Any], name: str
) -> tuple[dict[str, Any], str | None]:
    """Return pydantic's (type, default) per parameter, and the parameter that takes a context."""
    fields: dict[str, Any] = {}
    context_name = None
    for parameter in inspect.signature(function).parameters.values():
        if _is_context(types_of.get(parameter.name)):
            context_name = parameter.name
            continue
        _check_parameter(parameter, types_of, name)
        has_default = parameter.default is not inspect.Parameter.empty
        default = parameter.default if has_default else ...
        fields[parameter.name] = (types_of[parameter.name], default)
    return fields, context_name


def _check_parameter(parameter: inspect.Parameter, types_of: dict[str, Any], name: str) -> None:
    refused = {
        inspect.Parameter.VAR_POSITIONAL: "name each parameter instead of *",
        inspect.Parameter.VAR_KEYWORD: "name each parameter instead of **",
        inspect.Parameter.POSITIONAL_ONLY: "remove the '/' before which it stands:",
    }
    if parameter.kind in refused:
        raise InvalidModel(f"{name}: {refused[parameter.kind]} {parameter.name}")
    if parameter.name not in types_of:
        raise InvalidModel(
            f"{name}: give parameter {parameter.name!r} a type, such as {parameter.name}: str"
        )
    if parameter.name.startswith("_"):
        raise InvalidModel(f"{name}: parameter {parameter.name!r} may not begin with '_'")
    if isinstance(parameter.default, FieldInfo):
        raise InvalidModel(
            f"{name}: move Field(…) of {parameter.name!r} into its type, "
            f"{parameter.name}: Annotated[T, Field(…)] = default, so that a direct call works"
        )


def _is_context(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_is_context(part) for part in typing.get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, Context)


def _input_type(name: str, function: Callable[..., Any], fields: dict[str, Any]) -> type[BaseModel]:
    title = "".join(part.capitalize() for part in re.split(r"[^a-z0-9]+", name)) + "Input"
    # Names such as `model_size` or `copy` are an author's right: only `__dict__` is read.
    config = ConfigDict(extra="forbid", protected_namespaces=())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Field name .* shadows an attribute")
            made: type[BaseModel] = pydantic.create_model(
                title, __config__=config, __module__=function.__module__, **fields
            )
        made.model_json_schema()
    except (PydanticUserError, TypeError, NameError) as error:
        culprit = next((n for n, (t, _) in fields.items() if not _is_known(t)), None)
        told = f"parameter {culprit!r}" if culprit else "the signature"
        reason = str(error).splitlines()[0]
        raise InvalidModel(
            f"{name}: the type of {told} cannot become a JSON Schema ({reason}). Use str, int, "
            "float, bool, Literal, list, dict, a pydantic model, swell.Image or swell.File"
        ) from error
    return made


def _is_known(annotation: Any) -> bool:
    try:
        pydantic.TypeAdapter(annotation).json_schema()
    except (PydanticUserError, TypeError, NameError):
        return False
    return True


def _schema_of(output: Any) -> dict[str, Any]:
    """Return the schema of a result; empty, which allows anything, where its type says nothing."""
    if output is None or output is type(None):
        return {}
    if isinstance(output, type) and issubclass(output, PIL.Image.Image):
        output = Image
    try:
        return pydantic.TypeAdapter(output).json_schema(mode="serialization")
    except (PydanticUserError, TypeError, NameError):
        return {}


def _home(source: Any) -> Path | None:
    try:
        found = inspect.getsourcefile(source)
    except TypeError:
        return None
    return Path(found) if found and Path(found).is_file() else None


def _home_of(cls: type, attribute: str) -> Path | None:
    """Return the file of the class that an attribute was written in, which may be a parent."""
    return _home(next(each for each in cls.__mro__ if attribute in vars(each)))


def _resolve(files: Sequence[str | Path], home: Path | None) -> tuple[Path, ...]:
    base = home.parent if home else Path()
    return tuple(base / path for path in files)


# --- examples ------------------------------------------------------------------------------------


def _examples(
    input_type: type[BaseModel], given: Sequence[Mapping[str, Any]], name: str
) -> tuple[dict[str, Any], ...]:
    """Return the author's examples, checked, or one made from the schema where that is possible."""
    for example in given:
        try:
            input_type.model_validate_json(json.dumps(example))
        except pydantic.ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise InvalidModel(f"{name}: its example breaks at {where}: {problem['msg']}") from None
    if given:
        return tuple(dict(example) for example in given)
    made = example_of(input_type.model_json_schema())
    try:
        input_type.model_validate_json(json.dumps(made))
    except (pydantic.ValidationError, TypeError, ValueError):
        return ()
    return (made,)


# --- finding models ------------------------------------------------------------------------------


def load_models(ref: str) -> list[Definition]:
    """Return the models that `ref` names, in the order of their definition.

    Args:
        ref: A Python file (`models/poster.py`, also `models/poster.py:attribute`), a module
            (`my_models.poster`, `my_models:poster`), a file that `swell models add` wrote
            (`acme--dreams.toml`), or a built-in model (`swell/icons`, `demo/noop`, `demo/*`).

    Raises:
        NotFound: No such file, module, attribute or built-in model.
        InvalidModel: It cannot be imported, or holds no model, or a model is not complete.
    """
    if ref.endswith(".toml"):
        return [importlib.import_module(_ADDED).definition_of(Path(ref))]
    path, _, attribute = ref.rpartition(":") if ":" in ref else (ref, "", "")
    if path.endswith(".py"):
        return _models_in(import_file(Path(path)), attribute, ref)
    if "/" in ref:
        return _zoo_models(ref)
    return _models_in(_import_module(path, ref), attribute, ref)


def _zoo_models(ref: str) -> list[Definition]:
    owner, _, name = ref.partition("/")
    module_name = name.replace("-", "_")
    if owner == "swell" and (Path(__file__).parent / f"zoo/pipelines/{name}.toml").is_file():
        raise NotFound(
            f"{ref} is a pipeline, not a model: `swell up --pipelines {ref}` serves it; plain "
            "`swell up` serves it with its models"
        )
    if owner == "demo" and module_name not in _OWN_FILE:
        module_name = "stub"
    if not module_name.isidentifier() or importlib.util.find_spec(f"{_ZOO}.{module_name}") is None:
        raise NotFound(
            f"no built-in model is called {ref!r}: give a built-in such as swell/icons or "
            "demo/upper, a Python file ending in .py, or a module"
        )
    found = _models_in(_import_module(f"{_ZOO}.{module_name}", ref), "", ref)
    if name == "*":
        return found
    named = [definition for definition in found if definition.name == ref]
    if not named:
        known = ", ".join(definition.name for definition in found)
        raise NotFound(f"no built-in model is called {ref!r}: there are {known}")
    return named


def import_file(path: Path) -> types.ModuleType:
    """Return a Python file as a module: the same one each time.

    Raises:
        NotFound: There is none.
        InvalidModel: It cannot be imported; the text says why.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {str(path)!r}: give the path of a Python file")
    resolved = path.resolve()
    # The name holds the path, so that two files of one name do not replace each other.
    tag = hashlib.sha256(str(resolved).encode()).hexdigest()[:8]
    name = f"swell_models_{re.sub(r'[^a-zA-Z0-9_]', '_', resolved.stem)}_{tag}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise InvalidModel(f"{path.name} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A model's file may import its neighbours, as a script may.
    folder = str(resolved.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        _explain_import(error, path.name, resolved)
        raise
    return module


def _import_module(name: str, ref: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise NotFound(
                f"there is no module {error.name!r}, named by {ref!r}: install it, set "
                "PYTHONPATH, or give a file ending in .py"
            ) from error
        _explain_import(error, ref)
        raise
    except BaseException as error:
        _explain_import(error, ref)
        raise


def _explain_import(error: BaseException, what: str, source: Path | None = None) -> None:
    """Turn an error of somebody's module into one that names the place; let others pass."""
    if isinstance(error, SwellError) or not isinstance(error, Exception):
        return
    place = ""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    if frames:
        place = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})"
    raise InvalidModel(
        f"importing {what} failed: {type(error).__name__}: {error}{place}{remedy(error, source)}"
    ) from error


def remedy(error: BaseException | None, source: Path | None) -> str:
    """Return what to do if a module is missing, after a colon; nothing for all other errors.

    Args:
        error: What was raised.
        source: The model's file, if there is one.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    text, beside = "", set[str]()
    if source is not None:
        with contextlib.suppress(OSError):
            text = source.read_text(encoding="utf-8", errors="replace")
            beside = {each.stem for each in source.parent.iterdir()}
    return f": {how_to_get(error.name, text, beside)}"


def _models_in(module: types.ModuleType, attribute: str, ref: str) -> list[Definition]:
    if attribute:
        if not hasattr(module, attribute):
            raise NotFound(f"{ref}: the module has no attribute {attribute!r}")
        return [define(getattr(module, attribute))]
    candidates = [value for value in vars(module).values() if _is_model(value)]
    # Models that were only imported into the module do not count, unless there are no others.
    own = [value for value in candidates if value.__module__ == module.__name__]
    found = [define(value) for value in _unique(own or candidates)]
    if not found:
        raise InvalidModel(
            f"{ref} holds no model: put @swell.model('owner/name') above a typed function, or "
            "derive a class from swell.Model and give it a name"
        )
    names = [definition.name for definition in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InvalidModel(f"{ref} defines {twice} twice: give each model a different name")
    return found


def _is_model(value: Any) -> bool:
    if hasattr(value, _MARK):
        return True
    return isinstance(value, type) and issubclass(value, Model) and bool(value.name)


def _unique(values: Iterable[Any]) -> list[Any]:
    return list({id(value): value for value in values}.values())
