"""Messages between the worker and its model process.

A frame is four bytes of length, big-endian, and a MessagePack array that starts with its
kind. Inputs and outputs stay JSON bytes, so that the worker never parses them.
"""

from typing import Final

import msgspec

from swell.core.records import ModelCard
from swell.core.results import TaskWarning
from swell.core.startup_phases import Span
from swell.runtime.unicode_repair import mend

#: Size of the length field, in bytes.
HEAD_BYTES: Final = 4

#: Batch number of all tasks of step models.
DRAWN: Final = 0

#: Largest frame that the length field can describe.
MAX_FRAME_BYTES: Final = (1 << 8 * HEAD_BYTES) - 1

#: Limit on the input files of all tasks in one frame. The rest of the frame is for inputs and
#: checkpoints.
MAX_INPUT_FILES_BYTES: Final = MAX_FRAME_BYTES - 512 * 1024 * 1024

#: Largest output of a task, as JSON without its files. It travels with the report, is kept in the
#: store and is part of every response that shows the task; larger output belongs in a file. Well
#: below the largest report that a backend accepts (`server.max_upload_bytes`).
MAX_OUTPUT_BYTES: Final = 16 * 1024 * 1024

#: Exit code of a model process with a broken device: no task is at fault.
DEVICE_BROKEN: Final = 75


class WeightLocations(msgspec.Struct, frozen=True, array_like=True):
    """Where weights are; the worker may still be downloading them."""

    cache_dir: str
    #: The cache below it that came with the machine's image.
    baked_dir: str | None = None
    #: SHA-256 of contents that must exist before a model is loaded: the files of the models are
    #: links to them.
    contents: list[str] = []
    #: Where compiled programs are kept; None for the folder that the model chooses.
    compiled_dir: str | None = None
    compiled_bytes: int | None = None


class Load(msgspec.Struct, frozen=True, array_like=True, tag="load"):
    """Import these models; sent once, at the start."""

    refs: list[str]
    device: str
    #: Memory limits: of all models on the device, and of offloaded models on the host. None for
    #: no limit.
    device_memory_bytes: int | None = None
    host_memory_bytes: int | None = None
    #: Those of `refs` that are skipped if they cannot be loaded.
    optional: list[str] = []
    weights: WeightLocations | None = None


class StepEngineConfig(msgspec.Struct, frozen=True, array_like=True, tag="studio"):
    """Settings for step models; sent before the first task."""

    #: Whether a picture depends on its input alone, or steps have as many rows as pay off.
    exact: bool = True


class Order(msgspec.Struct, frozen=True, array_like=True):
    """One task to run. `handle` names it within this process."""

    handle: int
    #: JSON.
    input: bytes
    seed: int | None = None
    count: int = 1
    #: URL in the input → (bytes, media type).
    files: dict[str, tuple[bytes, str]] = {}
    #: Seconds until the deadline; None for no deadline.
    within_s: float | None = None
    #: Sample index → checkpoint, for samples that began in an earlier process.
    checkpoints: dict[int, bytes] = {}
    #: Name of a LoRA in the input → (path, SHA-256).
    loras: dict[str, tuple[str, str]] = {}


class Run(msgspec.Struct, frozen=True, array_like=True, tag="run"):
    """Run a batch of one model; the answer is `Results` frames, the last of them marked.

    Batch `DRAWN` is what a model draws in steps: it never ends, and tasks join it at any time.
    """

    batch: int
    model: str
    orders: list[Order]
    #: Models with batches queued behind this one.
    wanted: list[str] = []


class Stop(msgspec.Struct, frozen=True, array_like=True, tag="stop"):
    """These tasks are cancelled."""

    handles: list[int]


class Watch(msgspec.Struct, frozen=True, array_like=True, tag="watch"):
    """Clients follow these tasks: send previews, and progress more often."""

    handles: list[int]


class HandOver(msgspec.Struct, frozen=True, array_like=True, tag="hand-over"):
    """Stop drawing and write checkpoints of all samples; the answer is `HandedOver`."""


Work = Load | StepEngineConfig | Run | Stop | Watch | HandOver


class Described(msgspec.Struct, frozen=True, array_like=True, tag="described"):
    """The models are imported, not yet loaded."""

    cards: list[ModelCard]


class Phased(msgspec.Struct, frozen=True, array_like=True, tag="phased"):
    """A phase began or ended. Lists all phases of the startup or of the current model switch."""

    #: In monotonic seconds, which the processes of a machine share.
    spans: list[Span]


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The models are loaded and warm, or as many as the device has room for."""

    #: Seconds by model.
    load_s: dict[str, float]
    #: Models on the device.
    residents: list[str] = []
    #: Expected seconds to load each model.
    expected_s: dict[str, float] = {}
    #: Step models that compute the same bits for a row in a batch of any size.
    invariant: list[str] = []
    #: Known memory use of each loaded model on the device.
    memory_bytes: dict[str, int] = {}
    #: Skipped models → reason.
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
    #: `png`, `webp`, `jpeg`, `avif`, or empty for the format that the task or worker sets.
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
    """A result. `output` refers to files as `{"$artifact": i}`."""

    handle: int
    #: JSON.
    output: bytes
    seed: int
    run_s: float
    files: list[Pixels | Blob] = []
    #: Seconds that the task waited for its model to load.
    load_s: float = 0.0
    #: Its share of the device's time.
    device_s: float = 0.0
    #: Number of files already sent as `Part`; `files` has the rest.
    sent: int = 0
    warnings: tuple[TaskWarning, ...] = ()


class Part(msgspec.Struct, frozen=True, array_like=True, tag="part"):
    """A file of an incomplete result. Parts arrive in the order of `index`."""

    handle: int
    #: Index of the file in its task, from 0.
    index: int
    #: Seed of the file's sample, and of the task's first sample.
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
    #: For the log; empty if it was already sent.
    traceback: str = ""
    device_s: float = 0.0


class Results(msgspec.Struct, frozen=True, array_like=True, tag="results"):
    """Results of some tasks of a batch; without tasks, a sign that a model call ended."""

    batch: int
    done: list[Done]
    faults: list[Fault]
    #: Cancelled tasks that stopped.
    stopped: list[int]
    #: Whether this is the last frame of the batch.
    is_last: bool
    #: Device seconds of each task in `stopped`.
    stopped_s: list[float] = []


class Step(msgspec.Struct, frozen=True, array_like=True, tag="step"):
    """`done` of `total` steps are complete."""

    handle: int
    done: int
    total: int


class Paid(msgspec.Struct, frozen=True, array_like=True, tag="paid"):
    """A task paid third parties `micros` more, in millionths of a dollar."""

    handle: int
    micros: int


class StopAcknowledged(msgspec.Struct, frozen=True, array_like=True, tag="heeded"):
    """The model of a batch has seen that these tasks are cancelled."""

    handles: list[int]


class Preview(msgspec.Struct, frozen=True, array_like=True, tag="preview"):
    """A small picture, encoded as JPEG."""

    handle: int
    index: int
    jpeg: bytes


class HandedOver(msgspec.Struct, frozen=True, array_like=True, tag="handed-over"):
    """All samples of step models have checkpoints, and drawing has stopped."""

    #: Handle → device seconds of the task.
    device_s: dict[int, float] = {}


class Turn(msgspec.Struct, frozen=True, array_like=True, tag="turn"):
    """The process begins this batch. Sent if it also has step models."""

    batch: int


class Moving(msgspec.Struct, frozen=True, array_like=True, tag="moving"):
    """The process is about to load this model on the device, which may take long."""

    model: str


class Moved(msgspec.Struct, frozen=True, array_like=True, tag="moved"):
    """Loading the model succeeded or failed."""

    model: str
    #: Where it was loaded from, `disk` or `host`; empty if loading failed.
    kind: str
    load_s: float
    #: Models on the device, most recently used first.
    residents: list[str]
    #: Expected seconds to load each model.
    expected_s: dict[str, float]


class Swapped(msgspec.Struct, frozen=True, array_like=True, tag="swapped"):
    """The LoRAs of a model changed: total changes and seconds so far."""

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
    """Encode a frame, with its length in front. Lone surrogates are replaced."""
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


#: Decoders for messages from the worker, and for frames from the model process.
decode_work = msgspec.msgpack.Decoder(Work).decode
decode_frame = msgspec.msgpack.Decoder(Frame).decode
