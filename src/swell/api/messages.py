"""Every message of the public HTTP surface. OpenAPI's schemas are made from these types."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from swell.adoption.life import RollbackRules
from swell.api.eta import EtaSeconds
from swell.outbox import DeliveryState
from swell.registry import Scope, Speed
from swell.results import TaskWarning
from swell.stages import Pipeline
from swell.task import TaskError, TaskState, Timings

#: Thirty days, in seconds: the longest deadline.
MAX_DEADLINE_S = 2_592_000

#: Ten years, in seconds: the longest life of a key that ends.
MAX_KEY_S = 315_360_000

#: A limit of fewer requests per second would be none that anybody could live with.
LEAST_RATE = 1e-5

#: Texts without control characters: these forge lines, steer terminals, or end texts early.
PLAIN = r"^(?![\s\S]*[\x00-\x1f\x7f-\x9f])"

#: A model, or all of an owner.
MODEL_OR_OWNER = r"^[A-Za-z0-9][A-Za-z0-9_.-]*/(\*|[A-Za-z0-9][A-Za-z0-9_.-]*)$"

#: Longest URL of a webhook, in characters.
MAX_HOOK_URL = 2048

#: Largest metadata of a task.
MAX_METADATA_BYTES = 16 * 1024

Moment = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]
#: One that is given, with its zone.
Zoned = Annotated[datetime, Meta(tz=True, extra_json_schema={"format": "date-time"})]

#: The place in a listing.
Cursor = Annotated[str, Meta(max_length=200, description="`cursor` of the previous page")] | None


def _null() -> msgspec.Raw:
    # msgspec reads `Raw | None` as None only, so null means that the field is missing.
    return _NULL


_NULL = msgspec.Raw(b"null")


class DegradeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes that the client accepts to meet a deadline."""

    steps: Annotated[int, Meta(ge=1, le=1000, description="lowest number of steps")] | None = None
    size_px: (
        Annotated[int, Meta(ge=1, le=65_536, description="smallest side of the picture, in px")]
        | None
    ) = None
    models: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        Meta(max_length=10, description="other models, best first; the input must fit them"),
    ] = []


HookUrl = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_HOOK_URL,
        description="http or https, on a public host, without user name and password",
    ),
]

#: Events of a task; as `swell.webhook.EVENTS`.
HookEvent = Literal[
    "started",
    "progress",
    "preview",
    "artifact",
    "succeeded",
    "failed",
    "canceled",
    "expired",
]

HookEvents = Annotated[
    list[HookEvent],
    Meta(min_length=1, max_length=8, description="events to send; the four ends by default"),
]

HookFormat = Annotated[
    str,
    Meta(
        max_length=40, description="format of the body: `native`, or the name of a compatible API"
    ),
]

SecretName = Annotated[
    str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="such as `default`")
]


def _ends() -> list[HookEvent]:
    return ["succeeded", "failed", "canceled", "expired"]


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook of a task."""

    url: HookUrl
    events: HookEvents = msgspec.field(default_factory=_ends)
    secret: Annotated[SecretName, Meta(description="the key's signing secret to use")] = "default"
    format: HookFormat = "native"


class WebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """The webhook of a task."""

    url: str
    events: list[str]
    format: str


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a task."""

    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="`owner/name`, or `owner/name:version` for one version",
        ),
    ]
    input: Annotated[
        msgspec.Raw,
        Meta(
            description="The model's input; GET /v1/models/{owner}/{name} shows its schema",
            extra_json_schema={"type": "object"},
        ),
    ]
    count: Annotated[int, Meta(ge=1, le=100, description="number of samples (pictures)")] = 1
    priority: Annotated[
        int,
        Meta(
            ge=0,
            le=9,
            description="0 goes before the key's other tasks; 2 or more goes after everyone's "
            "usual tasks, with at least one of twenty turns",
        ),
    ] = 1
    class_name: (
        Annotated[
            str,
            Meta(min_length=1, max_length=60, description="a priority class, such as `free`"),
        ]
        | None
    ) = msgspec.field(name="class", default=None)
    seed: (
        Annotated[int, Meta(ge=0, le=2**53 - 1, description="the same seed gives the same picture")]
        | None
    ) = None
    user: (
        Annotated[
            str,
            Meta(
                max_length=200,
                pattern=PLAIN,
                description="the end user of the request; users of a key take turns",
            ),
        ]
        | None
    ) = None
    start_by_s: (
        Annotated[
            float,
            Meta(
                gt=0, le=MAX_DEADLINE_S, description="deadline for the start, in seconds from now"
            ),
        ]
        | None
    ) = None
    finish_by_s: (
        Annotated[
            float,
            Meta(
                gt=0,
                le=MAX_DEADLINE_S,
                description="deadline for the end, in seconds from "
                "now; the task is refused or expires if "
                "it cannot finish in time",
            ),
        ]
        | None
    ) = None
    degrade: Annotated[
        DegradeRequest | None,
        Meta(
            description="changes that you accept if the task would miss a deadline or no worker "
            "can run it"
        ),
    ] = None
    max_attempts: Annotated[
        int, Meta(ge=1, le=20, description="number of attempts, including those of lost workers")
    ] = 3
    metadata: Annotated[
        msgspec.Raw,
        Meta(
            description="any JSON up to 16 KiB, returned unchanged",
            extra_json_schema={"type": ["object", "array", "string", "number", "boolean", "null"]},
        ),
    ] = msgspec.field(default_factory=_null)
    webhook: (
        Annotated[
            str | WebhookRequest,
            Meta(description="a URL, or a URL with events and secret"),
        ]
        | None
    ) = None


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many tasks; all are accepted or none."""

    tasks: Annotated[
        list[TaskRequest],
        Meta(min_length=1, max_length=1000, description="each as in `POST /v1/tasks`"),
    ]


class ArtifactView(msgspec.Struct, frozen=True, kw_only=True):
    """An output file; the URL is signed and expires."""

    url: str
    content_type: str
    bytes: int
    width: int | None = None
    height: int | None = None
    thumbnail_url: Annotated[
        str | None,
        Meta(description="WebP, at most 256 px wide; `w` may also be 128, 512 or 2048"),
    ] = None


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a request that was changed so that the task could be accepted."""

    field: Annotated[str, Meta(description="JSON pointer into the request")]
    before: Annotated[Any, Meta(description="the requested value")] = msgspec.field(name="from")
    after: Annotated[Any, Meta(description="the value used")] = msgspec.field(name="to")


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task would not be accepted."""

    code: str
    status: int
    title: str
    detail: str
    retry_after_s: int | None


class EstimateView(msgspec.Struct, frozen=True, kw_only=True):
    """The estimate for a task sent now. No task is created."""

    is_accepted: Annotated[bool, Meta(description="whether the task would be accepted")]
    refusal: Annotated[
        RefusalView | None, Meta(description="the error it would get; null if accepted")
    ]
    model: Annotated[str, Meta(description="the model that would run it, after `degrade`")]
    version: str
    input: Annotated[
        msgspec.Raw,
        Meta(description="the input after `degrade`", extra_json_schema={"type": "object"}),
    ]
    priority: int
    degraded: Annotated[list[ChangeView], Meta(description="the changes that `degrade` would make")]
    position: Annotated[int, Meta(description="1 is next")]
    start_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until the start; null before any measurement")
    ]
    finish_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until the end; null before any measurement")
    ]
    cost_micros: Annotated[
        int | None,
        Meta(
            description="cost that nine in ten such tasks do not exceed, in millionths of a "
            "dollar; null if unknown"
        ),
    ]
    workers: Annotated[int, Meta(description="live workers that have the model")]


class TaskUrls(msgspec.Struct, frozen=True, kw_only=True):
    """Related URLs of a task."""

    get: str
    cancel: str
    events: str


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """A stage of a pipeline."""

    name: str
    model: str
    version: str
    state: Annotated[
        str,
        Meta(
            description="`succeeded`, `skipped` (its condition was false), `waiting` for an "
            "earlier stage, `not_reached` if the task ended before, or else the "
            "task's state"
        ),
    ]
    #: Files in it stand as signed URLs.
    output: msgspec.Raw | None
    artifacts: list[ArtifactView]
    attempts: Annotated[int, Meta(description="attempts of this stage so far")]
    worker: str | None
    started_at: Moment | None
    finished_at: Moment | None
    timings: Timings | None
    cost_micros: Annotated[
        int | None,
        Meta(
            description="cost of the attempt's share of the device, in millionths of a dollar; "
            "null before its end, or if the pool has no price"
        ),
    ]
    seed: int | None


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task."""

    id: str
    model: str
    version: str
    state: TaskState
    input: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
    #: Files in it stand as signed URLs.
    output: msgspec.Raw | None
    artifacts: list[ArtifactView]
    warnings: Annotated[
        list[TaskWarning],
        Meta(description="what the model says about the result; of a pipeline, all its stages"),
    ]
    error: TaskError | None
    attempt: int
    max_attempts: int
    position: Annotated[
        int | None, Meta(description="place in the queue, 1 is next; null unless queued")
    ]
    eta_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until it ends; null before any measurement")
    ]
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    timings: Timings | None
    cost_micros: Annotated[
        int | None,
        Meta(
            description="cost of the last attempt's share of the device, in millionths of a "
            "dollar; null before its end, or if the pool has no price"
        ),
    ]
    seed: int | None
    user: str | None
    metadata: msgspec.Raw | None
    data_removed: Annotated[
        list[str],
        Meta(description="removed since the end: `inputs` (with metadata), `outputs`"),
    ]
    urls: TaskUrls
    degraded: Annotated[
        list[ChangeView] | msgspec.UnsetType,
        Meta(description="changes made to accept the task; absent if none"),
    ] = msgspec.UNSET
    trace_id: Annotated[
        str | msgspec.UnsetType,
        Meta(description="id of its trace; present with telemetry.in_tasks"),
    ] = msgspec.UNSET
    stages: Annotated[
        list[StageView] | msgspec.UnsetType,
        Meta(description="stages of a pipeline, in order, with their results"),
    ] = msgspec.UNSET
    webhook: Annotated[
        WebhookView | msgspec.UnsetType, Meta(description="the task's webhook, if it has one")
    ] = msgspec.UNSET
    favourites: Annotated[
        list[int] | msgspec.UnsetType,
        Meta(description="in lists: indexes of the viewer's favourite artifacts, if any"),
    ] = msgspec.UNSET


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, newest first; `cursor` gets the next page and is null at the end."""

    tasks: list[TaskView]
    cursor: str | None


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks of a batch, in the order of the request."""

    tasks: list[TaskView]


class EndpointRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a standing webhook."""

    url: HookUrl
    events: HookEvents = msgspec.field(default_factory=_ends)
    models: Annotated[
        list[Annotated[str, Meta(min_length=3, max_length=200, pattern=MODEL_OR_OWNER)]],
        Meta(max_length=50, description="`owner/name` or `owner/*`; empty for all models"),
    ] = []
    description: Annotated[
        str, Meta(max_length=200, pattern=PLAIN, description="description for people")
    ] = ""
    all_keys: Annotated[bool, Meta(description="send events of all keys; needs an admin key")] = (
        False
    )
    format: HookFormat = "native"


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """A standing webhook."""

    id: str
    key_id: str
    url: str
    events: list[str]
    models: list[str]
    description: str
    all_keys: bool
    format: str
    state: Annotated[str, Meta(description="active, paused or disabled")]
    reason: Annotated[str, Meta(description="reason, if not active")]
    changed_at: Moment
    created_at: Moment
    secret: Annotated[
        str | msgspec.UnsetType,
        Meta(description="signing secret; present on creation, rotation and request"),
    ] = msgspec.UNSET


class EndpointList(msgspec.Struct, frozen=True, kw_only=True):
    """Standing webhooks, oldest first."""

    webhooks: list[EndpointView]


class HookSecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that signs webhooks."""

    key: Annotated[str, Meta(description="`whsec_` and base64")]
    created_at: Moment
    old_until: Annotated[
        Moment | None, Meta(description="end of the overlap with the previous secret")
    ]


class HookRotateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The overlap with the previous secret."""

    overlap_s: Annotated[
        float, Meta(ge=0, le=MAX_DEADLINE_S, description="seconds during which both secrets sign")
    ] = 86400.0


class HookReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The deliveries to replay."""

    since: Annotated[Moment, Meta(description="replay deliveries of events since this time")]


class HookReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """The number of replayed deliveries."""

    replayed: int


class DeliveryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deliveries to list."""

    task: Annotated[str, Meta(max_length=64, description="of this task")] | None = None
    endpoint: Annotated[str, Meta(max_length=64, description="to this webhook")] | None = None
    state: Annotated[
        DeliveryState | None, Meta(description="waiting, delivered, failed or skipped")
    ] = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    cursor: Annotated[str, Meta(max_length=64)] | None = None


class TryView(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to deliver."""

    at: Moment
    took_s: float
    status: int | None
    error: Annotated[
        str,
        Meta(
            description="`timeout`, `connection`, `refused_url`, `redirect`, `gone`, `status`, "
            "`unsendable` or `internal`; empty on success"
        ),
    ]
    detail: str
    answer: Annotated[str, Meta(description="first bytes of the answer")]


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one receiver."""

    id: Annotated[str, Meta(description="the `webhook-id`")]
    task: str
    endpoint: Annotated[str | None, Meta(description="null for the task's own URL")]
    event: str
    at: Annotated[Moment, Meta(description="time of the event")]
    state: Annotated[str, Meta(description="waiting, delivered, failed or skipped")]
    reason: str
    tries: Annotated[int, Meta(description="attempts since it was first due or last replayed")]
    due_at: Annotated[Moment | None, Meta(description="time of the next attempt")]
    ended_at: Moment | None
    attempts: list[TryView]


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries, newest first; `cursor` gets the next page and is null at the end."""

    deliveries: list[DeliveryView]
    cursor: str | None


class NoQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A path without query parameters."""


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks to list."""

    state: Annotated[
        TaskState | None,
        Meta(description="queued, running, succeeded, failed, canceled or expired"),
    ] = None
    model: Annotated[str, Meta(max_length=200, description="`owner/name`")] | None = None
    user: Annotated[str, Meta(max_length=200, description="the end user of the request")] | None = (
        None
    )
    q: Annotated[
        str,
        Meta(
            max_length=200,
            description="up to eight words of the input, or their beginnings",
        ),
    ] = ""
    since: Annotated[Zoned | None, Meta(description="created at this time or later")] = None
    until: Annotated[Zoned | None, Meta(description="created before this time")] = None
    viewer: (
        Annotated[
            str,
            Meta(
                max_length=200,
                description="user of this key for `favourites`; the key itself by default",
            ),
        ]
        | None
    ) = None
    favourite: Annotated[bool, Meta(description="only tasks with a favourite of the viewer")] = (
        False
    )
    cursor: Cursor = None
    limit: Annotated[int, Meta(ge=1, le=200, description="tasks on a page")] = 50


class FavouriteQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A favourite."""

    artifact: Annotated[int, Meta(ge=0, description="index of the file, from 0")] = 0
    viewer: (
        Annotated[
            str,
            Meta(max_length=200, description="user of this key; the key itself by default"),
        ]
        | None
    ) = None


class FavouritesView(msgspec.Struct, frozen=True, kw_only=True):
    """The viewer's favourites among a task's files."""

    task_id: str
    favourites: Annotated[list[int], Meta(description="their indexes in `artifacts`")]


class DeadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to list."""

    model: Annotated[str, Meta(max_length=200, description="`owner/name`")] | None = None
    cursor: Cursor = None
    limit: Annotated[int, Meta(ge=1, le=200, description="tasks on a page")] = 50


class DeadReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to replay: those named, or up to 1,000 of a model, or of all."""

    ids: (
        Annotated[list[str], Meta(min_length=1, max_length=1000, description="task ids")] | None
    ) = None
    model: Annotated[str, Meta(max_length=200, description="`owner/name`")] | None = None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter and the task that repeats it; `error` says why there is none."""

    id: str
    new_id: str | None = None
    error: str | None = None


class DeadReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """The result for each dead letter."""

    replayed: list[Replayed]


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to continue."""

    after: (
        Annotated[int, Meta(ge=-1, le=2**53 - 1, description="id of the last event seen")] | None
    ) = None


class MeasuredView(msgspec.Struct, frozen=True, kw_only=True):
    """Recent run times of a model on one kind of device."""

    device: Annotated[str, Meta(description="the workers' name for it, such as `cpu` or `cuda:0`")]
    tasks: int
    median_s: Annotated[float, Meta(description="for each task, including delivery")]


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, sound or text on a model's card; its URL needs no key and never changes."""

    url: str
    caption: str
    content_type: str
    width: Annotated[int, Meta(description="in px, for a picture; else 0")]
    height: Annotated[int, Meta(description="in px, for a picture; else 0")]
    text: Annotated[str, Meta(description="the text, for a text; else empty")]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model."""

    name: str
    version: str
    description: str
    stage: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: list[dict[str, Any]]
    registered_at: Moment | None
    workers: Annotated[int, Meta(description="live workers that have it")]
    service_s: Annotated[EtaSeconds | None, Meta(description="recent task times, in seconds")]
    measured: Annotated[list[MeasuredView], Meta(description="the same by device")]
    licence: Annotated[
        str, Meta(description="of code and weights, as SPDX or text; empty if not stated")
    ]
    credits: Annotated[str, Meta(description="Markdown")]
    memory_bytes: Annotated[int | None, Meta(description="device memory; null if unknown")]
    price_micros: Annotated[
        int | None,
        Meta(
            description="price of a sample at a remote service, in millionths of a dollar; null "
            "if it has none"
        ),
    ]
    speed: Annotated[list[Speed], Meta(description="the author's measurements, in seconds")]
    samples: list[SampleView]
    eta_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until a typical task sent now would end")
    ] = None
    start_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until a typical task sent now would start")
    ] = None
    pipeline: Annotated[Pipeline | None, Meta(description="its stages; null for a model")] = None
    urls: dict[str, str]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models, by name."""

    models: list[ModelView]


class StyleView(msgspec.Struct, frozen=True, kw_only=True):
    """A style of the web app."""

    name: str
    label: str
    labels: Annotated[dict[str, str], Meta(description="language → label")]
    prompt: Annotated[
        str, Meta(description="template with `{prompt}` for the prompt; empty for no change")
    ]
    input: Annotated[dict[str, Any], Meta(description="further input for the model")]
    models: Annotated[list[str], Meta(description="models it is for; empty for any")]
    picture: Annotated[str | None, Meta(description="URL without a key, with constant content")]


class StyleList(msgspec.Struct, frozen=True, kw_only=True):
    """Styles, in display order."""

    styles: list[StyleView]


class UploadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of an upload."""

    filename: (
        Annotated[str, Meta(max_length=100, description="Swell keeps its extension")] | None
    ) = None


class UploadView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored input file; the URL is signed and expires."""

    key: str
    url: str
    content_type: str
    bytes: int
    expires_at: Moment


class StoredView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored output file."""

    key: str
    bytes: int
    content_type: str
    etag: str


class ClassView(msgspec.Struct, frozen=True, kw_only=True):
    """Waiting tasks of a model in one class."""

    name: str
    priority: int
    ready: int
    ready_samples: int


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """A queue."""

    queue: str
    ready: int
    delayed: int
    running: int
    ready_samples: int
    oldest_ready_at: Moment | None
    eta_s: Annotated[EtaSeconds | None, Meta(description="seconds until a task sent now would end")]
    start_s: Annotated[
        EtaSeconds | None, Meta(description="seconds until a task sent now would start")
    ]
    classes: Annotated[
        list[ClassView],
        Meta(description="waiting tasks of the model by class, over all its queues"),
    ]


class QueueList(msgspec.Struct, frozen=True, kw_only=True):
    """Queues that are not empty, by name."""

    queues: list[QueueView]


class WorkersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workers to list."""

    gone: Annotated[bool, Meta(description="include workers that have exited")] = False


class SwitchesView(msgspec.Struct, frozen=True, kw_only=True):
    """How often a worker has loaded or changed a model since it started."""

    disk: Annotated[int, Meta(description="loads from disk")]
    host: Annotated[int, Meta(description="loads from host memory")]
    loras: Annotated[int, Meta(description="changes of LoRAs")]


class SpanView(msgspec.Struct, frozen=True, kw_only=True):
    """A phase as an interval, in seconds since its startup began; phases may overlap."""

    phase: Annotated[str, Meta(description="boot, pull, import, fetch, load, warm or first_task")]
    model: Annotated[str | None, Meta(description="null for work shared by all models")]
    start_s: float
    end_s: Annotated[
        float | None,
        Meta(description="null while running, or if the startup died in it"),
    ]
    source: Annotated[
        str,
        Meta(
            description="the cache that served it: fork, compiled, host, disk, bucket; empty for "
            "none"
        ),
    ] = msgspec.field(name="from", default="")


class StartupView(msgspec.Struct, frozen=True, kw_only=True):
    """A cold start of a worker, a restart of its model process, or a switch of models."""

    id: str
    kind: Annotated[str, Meta(description="cold, restart or switch")]
    state: Annotated[str, Meta(description="starting, died, ready or done (the first outcome)")]
    pool: str
    models: list[str]
    host: str
    pid: int
    begun_at: Moment | None
    seen_at: Moment | None
    ready_s: Annotated[float | None, Meta(description="seconds until it takes tasks")]
    whole_s: Annotated[
        float | None, Meta(description="the same plus the first task, without the wait for it")
    ]
    spans: list[SpanView]


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """A worker."""

    id: str
    name: str
    pool: str
    state: Annotated[str, Meta(description="idle, busy, draining, lost or gone")]
    models: dict[str, str]
    slots: int
    held: Annotated[int, Meta(description="tasks under lease, as known to this backend")]
    residents: Annotated[
        list[str] | None,
        Meta(description="models on its device; null if all always are, or if unknown"),
    ]
    switches: Annotated[
        dict[str, SwitchesView],
        Meta(description="model → number of loads and changes, as known to this backend"),
    ]
    device: str
    host: str
    pid: int
    instance: Annotated[
        str | None,
        Meta(description="the provider's id of its machine; null if no provider launched it"),
    ]
    release: Annotated[str, Meta(description="version of Swell")]
    clock_ahead_s: Annotated[
        float, Meta(description="clock difference at registration, in seconds")
    ]
    registered_at: Moment
    seen_at: Moment
    gone_at: Moment | None
    startup: Annotated[
        StartupView | None,
        Meta(description="its cold start by phase; null if unknown"),
    ] = None


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """Workers, oldest first."""

    workers: list[WorkerView]
    starting: Annotated[
        list[StartupView], Meta(description="cold starts of workers that are not ready yet")
    ] = []


class PhaseTimesView(msgspec.Struct, frozen=True, kw_only=True):
    """Durations of a phase: quantiles that include unfinished ones (Kaplan-Meier)."""

    kind: Annotated[str, Meta(description="cold, restart or switch")]
    model: str
    phase: Annotated[
        str,
        Meta(
            description="boot, pull, import, fetch, load, warm, first_task; ready: until it "
            "takes tasks; whole: ready and the first task"
        ),
    ]
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    at_least: Annotated[list[str], Meta(description="quantiles that are lower bounds")]
    observed: Annotated[int, Meta(description="number of finished ones")]
    not_over: Annotated[
        int, Meta(description="number of running ones, and of those that died in it")
    ]


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """A scaling decision, or an event of a pool."""

    at: Moment
    about: Annotated[str, Meta(description="a pool, or a model for relief")]
    what: Annotated[
        str,
        Meta(
            description="launch, cancel (a boot), drain, end (a machine), hurry (the provider "
            "reclaims it), refused or failed (launches or boots), lost (it ended by "
            "itself) or relief (demand exceeds supply)"
        ),
    ]
    n: Annotated[int, Meta(description="number of workers")]
    why: Annotated[list[str], Meta(description="reasons, one sentence each")]


class PoolScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """State of a pool that launches workers on demand."""

    provider: str
    models: list[str]
    desired: Annotated[int, Meta(description="workers wanted")]
    ready: Annotated[int, Meta(description="workers that take tasks")]
    busy: Annotated[int, Meta(description="ready workers that hold tasks")]
    booting: Annotated[int, Meta(description="launched, and not ready yet")]
    draining: Annotated[int, Meta(description="workers that finish their tasks and exit")]
    least: int
    most: int
    hour_micros: Annotated[
        int | None, Meta(description="price of a worker-hour, in millionths of a dollar")
    ]
    price_source: Annotated[
        str | None,
        Meta(description="source: a setting, the cloud, or a row of Swell's price list"),
    ]
    price_read_on: Annotated[
        date | None, Meta(description="day on which the price was read; null for a setting")
    ]
    price_told_at: Annotated[
        datetime | None, Meta(description="when the cloud reported it; null for other sources")
    ]
    price_note: Annotated[
        str | None, Meta(description="why it is not the cloud's current price, if it should be")
    ]
    spot: Annotated[bool, Meta(description="whether the provider may reclaim the machines")]
    location: str | None
    closed_s: Annotated[float, Meta(description="seconds until the provider is asked again")]
    why_closed: str | None
    start_p50_s: Annotated[float, Meta(description="seconds from launch until it takes tasks")]
    start_p95_s: float
    counts: Annotated[
        dict[str, int], Meta(description="action → number of workers, as in decisions")
    ]
    ends: Annotated[dict[str, int], Meta(description="how machines ended → number")]
    reasons: Annotated[list[str], Meta(description="reasons for the wanted number")]
    decision: Annotated[DecisionView | None, Meta(description="latest decision about this pool")]


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of workers."""

    pool: str
    workers: Annotated[dict[str, int], Meta(description="state → number")]
    starting: Annotated[int, Meta(description="workers that are not ready yet")]
    slots: Annotated[int, Meta(description="capacity of its live workers, in tasks")]
    held: Annotated[int, Meta(description="tasks that they hold, as known to this backend")]
    times: Annotated[
        list[PhaseTimesView],
        Meta(description="from the last 200 startups of each kind and set of models"),
    ]
    scaling: Annotated[
        PoolScalingView | None, Meta(description="null if nothing launches its workers")
    ] = None


class PoolList(msgspec.Struct, frozen=True, kw_only=True):
    """Pools by name."""

    pools: list[PoolView]


class ScalingQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many decisions to list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ModelScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """Outlook for new tasks of a model."""

    model: str
    ready_in_s: Annotated[
        float | None,
        Meta(
            description="seconds until a worker takes the first task: 0 if one is ready, null if "
            "none is launched"
        ),
    ]
    admitted: Annotated[float, Meta(description="share of new tasks that can start in time")]
    wait_s: Annotated[float, Meta(description="wait of a new task if not all can")]
    speedup: Annotated[
        float, Meta(description="factor by which tasks would have to shrink so that all can")
    ]


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """The autoscaler's state and decisions."""

    at: Annotated[Moment | None, Meta(description="null if no autoscaler runs")]
    leader: Annotated[str | None, Meta(description="the process that decides")]
    age_s: Annotated[float | None, Meta(description="age of its data, in seconds")]
    spent_micros: Annotated[
        int | None, Meta(description="spent by all pools today (UTC), in millionths of a dollar")
    ]
    models: list[ModelScalingView]
    decisions: Annotated[list[DecisionView], Meta(description="newest first")]


class CostsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which costs to tell."""

    since: Annotated[
        date | None, Meta(description="first day (UTC); 30 days in all by default")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[date | None, Meta(description="last day, included; today by default")] = (
        msgspec.field(name="to", default=None)
    )
    by: Annotated[Literal["model", "user", "key", "pool", "day"], Meta(description="grouping")] = (
        "model"
    )
    limit: Annotated[
        int,
        Meta(ge=1, le=1000, description="number of rows, highest cost first; `others` is the rest"),
    ] = 100


class CostKinds(msgspec.Struct, frozen=True, kw_only=True):
    """Worker seconds by use."""

    attempts: Annotated[float, Meta(description="successful attempts")]
    failed: Annotated[float, Meta(description="failed attempts")]
    idle: Annotated[float, Meta(description="idle time")]
    cold: Annotated[float, Meta(description="cold starts")]
    wasted: Annotated[
        float, Meta(description="restarts, model switches, lost contact, minimum billing")
    ]
    total: float


class CostMicros(msgspec.Struct, frozen=True, kw_only=True):
    """The same in millionths of a dollar, for pools with a price."""

    attempts: int
    failed: int
    idle: int
    cold: int
    wasted: int
    total: int


class CostView(msgspec.Struct, frozen=True, kw_only=True):
    """A cost row, with its share of unassigned costs."""

    name: Annotated[
        str | None,
        Meta(description="model, user, key id, pool or day; null for unassigned costs"),
    ]
    attempts: int
    images: Annotated[int, Meta(description="successful samples")]
    seconds: CostKinds
    micros: Annotated[CostMicros | None, Meta(description="null if no pool has a price")]
    image_micros: Annotated[
        float | None, Meta(description="cost of an image, from successful attempts only")
    ]
    loaded_image_micros: Annotated[
        float | None, Meta(description="the same with all other costs included")
    ]
    api_micros: Annotated[
        int | None, Meta(description="cost of as many images at `costs.api_image_micros`")
    ]


class CostsList(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of some days."""

    since: date = msgspec.field(name="from")
    until: date = msgspec.field(name="to")
    by: str
    api_image_micros: Annotated[
        int | None, Meta(description="price of an image elsewhere, as set by the operator")
    ]
    costs: list[CostView]
    others: Annotated[
        CostView | None, Meta(description="sum of the rows beyond `limit`; null if none")
    ]
    total: CostView


class LedgerQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries of the ledger to list."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: (
        Annotated[int, Meta(ge=1, le=2**53 - 1, description="`cursor` of the previous page")] | None
    ) = None


class LedgerEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ledger."""

    id: str
    at: Moment
    kind: Annotated[str, Meta(description="cold_start, attempt, failed, idle or wasted")]
    pool: str
    models: list[str]
    worker_id: str | None
    ref: Annotated[str, Meta(description="its startup or attempt")]
    outcome: Annotated[
        str, Meta(description="how that ended; `paid` for payments to remote services")
    ]
    seconds: float
    cost_micros: Annotated[
        int | None, Meta(description="millionths of a dollar; null if the pool has no price")
    ]
    key_id: Annotated[str | None, Meta(description="key of the attempts")]
    user: str | None
    attempts: int
    images: int


class LedgerList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the ledger, latest first."""

    entries: list[LedgerEntryView]
    cursor: int | None


_Rate = Annotated[
    float,
    Meta(ge=0, le=1e6, description="requests per second; 0 for no limit, else at least 0.00001"),
]
_Burst = Annotated[int, Meta(ge=1, le=1_000_000, description="requests allowed at once")]
_InFlight = Annotated[int, Meta(ge=0, le=10**9, description="unfinished tasks; 0 for no limit")]
_PerDay = Annotated[int, Meta(ge=0, le=10**9, description="tasks per day; 0 for no limit")]
_Streams = Annotated[
    int,
    Meta(ge=0, le=10**9, description="open event streams at each process; 0 for no limit"),
]
_Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=100)]


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a key. Limits default to the settings."""

    name: Annotated[
        str, Meta(min_length=1, max_length=100, pattern=PLAIN, description="description for people")
    ]
    scopes: Annotated[
        list[Scope], Meta(min_length=1, max_length=3, description="client, worker or admin")
    ] = msgspec.field(default_factory=lambda: [Scope.CLIENT])
    expires_in_s: (
        Annotated[float, Meta(gt=0, le=MAX_KEY_S, description="lifetime, in seconds")] | None
    ) = None
    pools: Annotated[
        _Names, Meta(description="pools that workers with this key may join; empty for any")
    ] = []
    models: Annotated[
        _Names,
        Meta(
            description="models that its workers may have, `owner/name` or `owner/*`; empty for any"
        ),
    ] = []
    rate_per_s: _Rate | None = None
    burst: _Burst | None = None
    tasks_in_flight: _InFlight | None = None
    tasks_per_day: _PerDay | None = None
    streams: _Streams | None = None
    classes: Annotated[
        _Names,
        Meta(description="classes that the key may use, default first; empty for any"),
    ] = []

    def __post_init__(self) -> None:
        if self.rate_per_s and self.rate_per_s < LEAST_RATE:
            raise ValueError(
                f"`rate_per_s` of {self.rate_per_s:g} is less than {LEAST_RATE:.5f}, about one "
                "request a day: give more, or 0 for no limit"
            )


class RotateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to rotate a secret."""

    overlap_s: Annotated[
        float,
        Meta(ge=0, le=MAX_DEADLINE_S, description="seconds during which the previous secret works"),
    ] = 86_400


class RotateSigningRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to rotate the URL signing secret."""

    revoke: Annotated[bool, Meta(description="invalidate all URLs signed before")] = False


class SigningView(msgspec.Struct, frozen=True, kw_only=True):
    """The URL signing secrets, without their values."""

    signs_from: Annotated[Moment, Meta(description="when the newest takes effect")]
    others_until: Annotated[
        Moment | None, Meta(description="when the last older URL expires; null for at once")
    ]


class KeyLimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a key; null for the settings' value."""

    rate_per_s: float | None
    burst: int | None
    tasks_in_flight: int | None
    tasks_per_day: int | None
    streams: int | None


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Moment
    revoked_at: Moment | None
    expires_at: Moment | None
    used_at: Annotated[Moment | None, Meta(description="last use, to the minute; null if never")]
    old_until: Annotated[Moment | None, Meta(description="end of the overlap of its last rotation")]
    pools: list[str]
    models: list[str]
    limits: KeyLimitsView
    classes: Annotated[list[str], Meta(description="classes that it may use; empty for any")]


class NewKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A new key, or one with a new secret. The secret is shown only once."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Moment
    expires_at: Moment | None
    old_until: Annotated[Moment | None, Meta(description="end of the overlap of the rotation")]
    key: str


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    """Keys, revoked ones included."""

    keys: list[KeyView]


_Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_KeyId = Annotated[str, Meta(min_length=1, max_length=200, description="of the key")]
_User = Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]


class QuotaRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much a key, or a user of it, may use, in place of what was said before; null for any
    amount. Days and months are those of UTC.
    """

    key_id: _KeyId
    user: Annotated[
        _User | None,
        Meta(description="null for the key itself; `*` for every user without a quota"),
    ] = None
    tasks_per_day: _Amount | None = None
    tasks_per_month: _Amount | None = None
    samples_per_day: Annotated[_Amount | None, Meta(description="pictures")] = None
    samples_per_month: Annotated[_Amount | None, Meta(description="pictures")] = None
    micros_per_day: Annotated[
        _Amount | None, Meta(description="cost, in millionths of a dollar")
    ] = None
    micros_per_month: Annotated[
        _Amount | None, Meta(description="cost, in millionths of a dollar")
    ] = None
    is_prepaid: Annotated[bool, Meta(description="refuse tasks that the credits do not cover")] = (
        False
    )


class QuotaQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A quota to name."""

    key_id: _KeyId
    user: Annotated[str, Meta(max_length=200, description="of the quota")] | None = None


class OwnQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits to show."""

    user: (
        Annotated[str, Meta(max_length=200, description="also show this user's limits")] | None
    ) = None


class StandingView(msgspec.Struct, frozen=True, kw_only=True):
    """One limit."""

    name: Annotated[str, Meta(description="name in the headers, such as `samples-day`")]
    user: Annotated[str | None, Meta(description="null for the key itself")]
    unit: Annotated[str, Meta(description="tasks, samples, micros or credits")]
    period: Annotated[str | None, Meta(description="day or month (UTC); null for credits")]
    limit: int
    left: int


class AllowanceView(msgspec.Struct, frozen=True, kw_only=True):
    """The caller's limits; empty if there are none."""

    limits: list[StandingView]


class QuotaView(msgspec.Struct, frozen=True, kw_only=True):
    """A quota and its remainder."""

    key_id: str
    user: str | None
    tasks_per_day: int | None
    tasks_per_month: int | None
    samples_per_day: int | None
    samples_per_month: int | None
    micros_per_day: int | None
    micros_per_month: int | None
    is_prepaid: bool
    left: Annotated[list[StandingView], Meta(description="empty if `user` is `*`")]


class QuotaList(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas, by key and user."""

    quotas: list[QuotaView]


class CreditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A grant of credits."""

    key_id: _KeyId
    user: Annotated[_User | None, Meta(description="null for the key itself")] = None
    micros: Annotated[
        int,
        Meta(
            ge=-(2**53 - 1),
            le=2**53 - 1,
            description="millionths of a dollar; negative to remove",
        ),
    ]
    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                pattern=PLAIN,
                description="such as a payment id; the same id is granted once",
            ),
        ]
        | None
    ) = None
    note: Annotated[
        str, Meta(max_length=500, pattern=PLAIN, description="description for people")
    ] = ""


class CreditsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accounts to list."""

    key_id: Annotated[str, Meta(max_length=200, description="only this key")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="number of grants, newest first")] = 50


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of a key or a user, in millionths of a dollar."""

    key_id: str
    user: str | None
    granted_micros: int
    spent_micros: int
    held_micros: Annotated[int, Meta(description="held for unfinished tasks")]
    left_micros: Annotated[int, Meta(description="negative if tasks cost more than was held")]


class CreditEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """A grant."""

    id: str
    key_id: str
    user: str | None
    micros: int
    at: Moment
    note: str


class CreditsList(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts by key and user, and grants, newest first."""

    accounts: list[AccountView]
    entries: list[CreditEntryView]


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """A grant and the new balance."""

    id: str
    is_new: Annotated[bool, Meta(description="false if this id was granted before")]
    account: AccountView


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries to list."""

    cursor: Cursor = None
    limit: Annotated[int, Meta(ge=1, le=200, description="entries on a page")] = 50


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log."""

    id: str
    at: Moment
    key_id: str
    key_name: str
    address: Annotated[str, Meta(description="address of the caller, or of the proxy")]
    action: Annotated[str, Meta(description="such as `keys.create`")]
    target: Annotated[str, Meta(description="id of the affected object; empty for none")]
    status: Annotated[int, Meta(description="HTTP status of the answer")]
    detail: str
    request_id: str


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the audit log, newest first; `cursor` gets the next page, null at the end."""

    entries: list[AuditView]
    cursor: str | None


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service works."""

    status: str
    checks: dict[str, str] = {}


Edition = Annotated[
    Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)] | None,
    Meta(
        description=(
            "`edition` of GET …/adoption: answers 409 if the stages have changed since; null "
            "skips the check"
        )
    ),
]


class CanaryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a canary."""

    version: Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]
    share: Annotated[
        float, Meta(gt=0.0, lt=1.0, description="share of the tasks that name no version")
    ]
    sticky: Annotated[
        Literal["user", "key"],
        Meta(
            description="keep each `user` of a key on one version (tasks without a user are "
            "assigned one by one), or each `key`"
        ),
    ] = "user"
    rollback: RollbackRules = RollbackRules()
    edition: Edition = None


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to promote a version or the canary."""

    version: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)] | None,
        Meta(
            description=(
                "null for the canary, with `edition`. A version that was rolled back "
                "automatically needs `edition` too, or the answer is 409"
            )
        ),
    ] = None
    edition: Edition = None


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to roll back."""

    version: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)] | None,
        Meta(
            description=(
                "the canary, or the live version without a canary; 409 if it is another one by "
                "now; null for either"
            )
        ),
    ] = None
    reason: Annotated[str, Meta(max_length=200, description="reason for the history")] = ""
    edition: Edition = None


class RetireRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to retire a version."""

    version: Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]
    edition: Edition = None


class VersionStageView(msgspec.Struct, frozen=True, kw_only=True):
    """The stage of a version."""

    version: str
    stage: Annotated[str, Meta(description="`trial`, `canary`, `live` or `retired`")]
    share: Annotated[
        float, Meta(description="share of the tasks that name no version, while served")
    ]
    workers: Annotated[int, Meta(description="workers that have it, seen in the last 30 s")]
    registered_at: datetime | None


class SeenView(msgspec.Struct, frozen=True, kw_only=True):
    """Observations of a version since the canary started."""

    attempts: Annotated[
        int, Meta(description="first attempts, without tasks that were themselves at fault")
    ]
    failures: int
    p95_s: Annotated[float | None, Meta(description="of the latest 200 runs, for one sample")]


class VerdictView(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on a canary."""

    verdict: Annotated[str, Meta(description="`early` (too early to tell), `fine` or `worse`")]
    reason: str
    failures_evidence: Annotated[
        float,
        Meta(description="likelihood ratio for a canary that fails more often"),
    ]
    slowness_evidence: Annotated[float, Meta(description="the same for one that is slower")]
    needed_evidence: Annotated[float, Meta(description="threshold for `worse`")]
    canary: SeenView
    live: SeenView


class CanaryView(msgspec.Struct, frozen=True, kw_only=True):
    """A canary."""

    version: str
    share: float
    since: datetime
    sticky: str
    rollback: RollbackRules
    is_served: Annotated[
        bool,
        Meta(description="whether a live worker has it; otherwise the live version gets its share"),
    ]
    evidence: VerdictView


class LifeChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a rollout."""

    at: datetime
    who: Annotated[str, Meta(description="name of the key; empty if automatic")]
    action: Annotated[str, Meta(description="`canary`, `promote`, `rollback` or `retire`")]
    version: str
    share: float | None
    reason: str


class AdoptionView(msgspec.Struct, frozen=True, kw_only=True):
    """The rollout of a model."""

    model: str
    is_staged: Annotated[
        bool,
        Meta(description="if false, the newest version gets all tasks that name no version"),
    ]
    edition: Annotated[str, Meta(description="changes with every change of the stages")]
    live: str
    canary: CanaryView | None
    former: Annotated[list[str], Meta(description="earlier live versions, latest first")]
    versions: Annotated[list[VersionStageView], Meta(description="newest first")]
    history: Annotated[list[LifeChangeView], Meta(description="newest first")]
    notice: Annotated[str, Meta(description="a recommended action; empty for none")]
