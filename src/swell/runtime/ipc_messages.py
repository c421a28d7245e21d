"""What the worker and its model process say to each other.

A frame is four bytes of length, big-endian, and a MessagePack array whose first element names its
kind. Inputs and outputs stay JSON bytes, so that the worker never parses them.
"""

from typing import Final

import msgspec

from swell.core.records import ModelCard
from swell.core.results import TaskWarning
from swell.core.startup_phases import Span
from swell.runtime.unicode_repair import mend

#: Length of the length.
HEAD_BYTES: Final = 4

#: The batch of all that is drawn in steps.
DRAWN: Final = 0

#: What the length can tell.
MAX_FRAME_BYTES: Final = (1 << 8 * HEAD_BYTES) - 1

#: Input files of tasks that go out in one frame have at most so many bytes together. The rest
#: is for inputs, and for what earlier attempts have left.
MAX_INPUT_FILES_BYTES: Final = MAX_FRAME_BYTES - 512 * 1024 * 1024

#: Largest output of a task, as JSON without its files. It travels with the report, is kept in the
#: store and comes with every answer that shows the task; what is larger belongs into a file. Well
#: below what a backend takes as one report (`server.max_upload_bytes`).
MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024

#: Exit code of a model process whose device is broken: nothing that it ran is to blame.
DEVICE_BROKEN: Final = 75


class WeightLocations(msgspec.Struct, frozen=True, array_like=True):
    """Where weights are, which the worker may still be bringing."""

    cache_dir: str
    #: The cache below it that came with the machine's image.
    baked_dir: str | None = None
    #: SHA-256 of contents that must be there before anything is loaded: files of the models are
    #: links to them.
    contents: list[str] = []
    #: Where compiled programs are kept; None for the folder that the model chooses.
    compiled_dir: str | None = None
    compiled_bytes: int | None = None


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Import these models; told once, at the start."""

    refs: list[str]
    device: str
    #: What all models together may take of the device, and those that are away of the host's
    #: memory; None for as much as there is.
    device_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    #: Those of `refs` that are left out where they cannot be loaded.
    optional: list[str] = []
    weights: WeightLocations | None = None


class StepEngineConfig(msgspec.Struct, frozen=True, array_like=True, tag="studio"):
    """How models that draw in steps are run; told before the first task."""

    #: Whether a picture depends on its input alone, or steps have as many rows as pay off.
    exact: bool = True
    #: Folder for their step costs; None to keep none.
    step_costs: str | None = None


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One task to run. `handle` names it within this process."""

    handle: int
    #: JSON.
    input: bytes
    seed: int | None = None
    count: int = 1
    #: URL in the input → (bytes, media type).
    files: dict[str, tuple[bytes, str]] = {}
    #: Seconds until it is worthless; None for no deadline.
    within_s: float | None = None
    #: Sample → its checkpoint, for those that were on their way in an earlier process.
    checkpoints: dict[int, bytes] = {}
    #: What names a LoRA in the input → (path, SHA-256).
    loras: dict[str, tuple[str, str]] = {}


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Run a batch of one model; the answer is `Results` frames, the last of them marked.

    Batch `DRAWN` is what a model draws in steps: it never ends, and tasks join it at any time.
    """

    batch: int
    model: str
    orders: list[Order]
    #: Models whose batches wait behind this one.
    wanted: list[str] = []


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    """These tasks are cancelled."""

    handles: list[int]


class Watch(msgspec.Struct, frozen=True, array_like=True, tag="watch"):
    """Somebody follows these tasks: previews are worth making, and progress is told more often."""

    handles: list[int]


class HandOver(msgspec.Struct, frozen=True, array_like=True, tag="hand-over"):
    """Draw no more, and leave checkpoints of all that was drawn; the answer is `HandedOver`."""


Work = Load | StepEngineConfig | Run | Stop | Watch | HandOver


class Described(msgspec.Struct, frozen=True, array_like=True, tag="described"):
    """The models are imported, not yet loaded."""

    cards: list[ModelCard]


class Phased(msgspec.Struct, frozen=True, array_like=True, tag="phased"):
    """A phase has begun or ended: all of the process's start, or of the switch that goes on."""

    #: In monotonic seconds, which the processes of a machine share.
    spans: list[Span]


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The models are loaded and warm, or as many as the device has room for."""

    #: Seconds by model.
    load_s: dict[str, float]
    peak_bytes: int
    #: Those that are on the device.
    residents: list[str] = []
    #: What bringing each model would take, in seconds.
    expected_s: dict[str, float] = {}
    #: Models that draw in steps whose rows have the same bits in steps of any number of rows.
    invariant: list[str] = []
    #: What each model that was loaded takes of its device, as far as is known.
    memory_bytes: dict[str, int] = {}
    #: Models that were left out → why.
    left_out: dict[str, str] = {}


class Refused(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The models cannot be imported or loaded; the process ends."""

    code: str
    detail: str


class Pixels(msgspec.Struct, frozen=True, array_like=True, tag="pixels"):
    """A picture to encode. Shapes: (height, width, bands of `mode`) uint8, row by row."""

    mode: str
    width: int
    height: int
    data: bytes
    #: `png`, `webp`, `jpeg`, `avif`, or empty for whatever the task or the worker says.
    format: str
    #: JSON object for the file's metadata, without the seed and the input.
    metadata: bytes
    seed: int


class Blob(msgspec.Struct, frozen=True, array_like=True, tag="blob"):
    """A file to deliver as it is."""

    data: bytes
    content_type: str
    name: str


class Done(msgspec.Struct, frozen=True, array_like=True):
    """A result. Files stand in `output` as `{"$artifact": i}`."""

    handle: int
    #: JSON.
    output: bytes
    seed: int
    run_s: float
    files: list[Pixels | Blob] = []
    #: How long it waited for its model to be brought to the device.
    load_s: float = 0.0
    #: Its share of the device's time.
    device_s: float = 0.0
    #: How many files went before, each in a `Part`; `files` are those after them.
    sent: int = 0
    warnings: tuple[TaskWarning, ...] = ()


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """A file of a result that is not whole yet. They come in the order of their numbers."""

    handle: int
    #: Which of the task's files it is, from 0.
    index: int
    #: Of the sample that it is of, and of the task's first.
    seed: int
    first_seed: int
    file: Pixels | Blob


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """An error of one task."""

    handle: int
    code: str
    title: str
    detail: str
    retryable: bool
    run_s: float
    load_s: float = 0.0
    #: For the log; empty where it would tell nothing new.
    traceback: str = ""
    device_s: float = 0.0


class Results(msgspec.Struct, frozen=True, array_like=True, tag="results"):
    """What became of some tasks of a batch; with none it says that the model has ended a call."""

    batch: int
    done: list[Done]
    faults: list[Fault]
    #: Stopped because they were cancelled.
    stopped: list[int]
    #: Nothing more comes of this batch.
    is_last: bool
    #: Largest resident size of the process so far.
    peak_bytes: int
    #: What each of the stopped had of the device, in seconds.
    stopped_s: list[float] = []


class Step(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """`done` of `total` steps are over."""

    handle: int
    done: int
    total: int


class Paid(msgspec.Struct, frozen=True, array_like=True, tag="paid"):
    """So many millionths of a dollar more were paid to others for a task."""

    handle: int
    micros: int


class StopAcknowledged(msgspec.Struct, frozen=True, array_like=True, tag="heeded"):
    """The model of a batch has looked, and knows that these tasks are to stop."""

    handles: list[int]


class Preview(msgspec.Struct, frozen=True, array_like=True, tag="preview"):
    """A small picture, encoded as JPEG."""

    handle: int
    index: int
    jpeg: bytes


class HandedOver(msgspec.Struct, frozen=True, array_like=True, tag="handed-over"):
    """Of all that was drawn in steps there are checkpoints, and nothing more will be drawn."""

    #: Handle → what the task had of the device, in seconds.
    device_s: dict[int, float] = {}


class Turn(msgspec.Struct, frozen=True, array_like=True, tag="turn"):
    """The process turns to this batch; told where it has both kinds of models."""

    batch: int


class Moving(msgspec.Struct, frozen=True, array_like=True, tag="moving"):
    """The process is about to bring this model to the device, which may take long."""

    model: str


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="moved"):
    """It has done so, or it could not."""

    model: str
    #: From where it came: `disk` or `host`; empty if it is not there.
    kind: str
    load_s: float
    #: Models that are on the device now, the one used last first.
    residents: list[str]
    #: What bringing each model would take, in seconds.
    expected_s: dict[str, float]


class Swapped(msgspec.Struct, frozen=True, array_like=True, tag="swapped"):
    """The LoRAs of a model were changed, for so many times and seconds so far."""

    model: str
    count: int
    seconds: float


Frame = (
    Described
    | Phased
    | Ready
    | Refused
    | Results
    | Step
    | Paid
    | Preview
    | Part
    | HandedOver
    | StopAcknowledged
    | Turn
    | Moving
    | Moved
    | Swapped
)

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Work | Frame) -> bytearray:
    """Return the bytes of a frame, its length before it. Lone surrogates are replaced."""
    buffer = bytearray(HEAD_BYTES)
    try:
        _encoder.encode_into(message, buffer, HEAD_BYTES)
    except UnicodeEncodeError:
        _encoder.encode_into(mend(message), buffer, HEAD_BYTES)
    buffer[:HEAD_BYTES] = (len(buffer) - HEAD_BYTES).to_bytes(HEAD_BYTES, "big")
    return buffer


def cut_frames(buffer: bytearray) -> list[bytes]:
    """Remove all complete frames from a buffer, and return them without their lengths."""
    bodies, at = [], 0
    while len(buffer) - at >= HEAD_BYTES:
        end = at + HEAD_BYTES + int.from_bytes(buffer[at : at + HEAD_BYTES], "big")
        if len(buffer) < end:
            break
        bodies.append(bytes(memoryview(buffer)[at + HEAD_BYTES : end]))
        at = end
    del buffer[:at]
    return bodies


#: Decode the body of a message of the worker, and of one of the model process.
decode_work = msgspec.msgpack.Decoder(Work).decode
decode_frame = msgspec.msgpack.Decoder(Frame).decode
