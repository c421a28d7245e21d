"""Request and response bodies of tasks. OpenAPI's schemas are made from these types."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from swell.core.clock import Moment
from swell.core.results import TaskWarning
from swell.core.task import TaskError, TaskState, Timings
from swell.server.common_schemas import (
    MAX_DEADLINE_S,
    PLAIN,
    Cursor,
    HookEvents,
    HookFormat,
    HookUrl,
    _ends,
    doc,
)
from swell.server.estimates.eta import EtaSeconds

#: A time that a client sends, with its zone.
Zoned = Annotated[datetime, Meta(tz=True, extra_json_schema={"format": "date-time"})]

_ModelName = Annotated[str, doc("`owner/name`", max_length=200)]
_Seed = Annotated[int, doc("the same seed gives the same picture", ge=0, le=2**53 - 1)]
_Deadline = Annotated[float, Meta(gt=0, le=MAX_DEADLINE_S)]
_EndUser = Annotated[
    str,
    doc("the end user of the request; users of a key take turns", max_length=200, pattern=PLAIN),
]
_FINISH_BY = (
    "deadline for the end, in seconds from now; the task is refused or expires if it cannot finish "
    "in time"
)
_PRIORITY = (
    "0 goes before the key's other tasks; 2 or more goes after everyone's usual tasks, with at "
    "least one of twenty turns"
)
_Viewer = Annotated[str, doc("user of this key; the key itself by default", max_length=200)]
_Cost = Annotated[
    int | None,
    doc(
        "cost of the last attempt's share of the device, in millionths of a dollar; null before "
        "its end, or if the pool has no price"
    ),
]
_Limit = Annotated[int, doc("tasks on a page", ge=1, le=200)]
_Object = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
_Any = Annotated[
    msgspec.Raw,
    Meta(extra_json_schema={"type": ["object", "array", "string", "number", "boolean", "null"]}),
]

#: msgspec reads `Raw | None` as None only, so null means that the field is missing.
_null: Final = partial(msgspec.Raw, b"null")


class DegradeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changes that the client accepts to meet a deadline."""

    steps: Annotated[int, doc("lowest number of steps", ge=1, le=1000)] | None = None
    size_px: Annotated[int, doc("smallest side of a picture, px", ge=1, le=65_536)] | None = None
    models: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        doc("other models, best first; the input must fit them", max_length=10),
    ] = []


SecretName = Annotated[str, doc("such as `default`", pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A webhook of a task."""

    url: HookUrl
    events: HookEvents = msgspec.field(default_factory=_ends)
    secret: Annotated[SecretName, doc("the key's signing secret to use")] = "default"
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
        doc("`owner/name`, or `owner/name:version` for one version", min_length=1, max_length=200),
    ]
    input: Annotated[_Object, doc("the model's input, as its `input_schema` describes it")]
    count: Annotated[int, doc("number of samples (pictures)", ge=1, le=100)] = 1
    priority: Annotated[int, doc(_PRIORITY, ge=0, le=9)] = 1
    class_name: (
        Annotated[str, doc("a priority class, such as `free`", min_length=1, max_length=60)] | None
    ) = msgspec.field(name="class", default=None)
    seed: _Seed | None = None
    user: _EndUser | None = None
    start_by_s: Annotated[_Deadline, doc("deadline for the start, seconds from now")] | None = None
    finish_by_s: Annotated[_Deadline, doc(_FINISH_BY)] | None = None
    degrade: Annotated[
        DegradeRequest | None,
        doc("changes that you accept if the task would miss a deadline or no worker can run it"),
    ] = None
    max_attempts: Annotated[int, doc("attempts, including those of lost workers", ge=1, le=20)] = 3
    metadata: Annotated[_Any, doc("any JSON up to 16 KiB, returned unchanged")] = msgspec.field(
        default_factory=_null
    )
    webhook: (
        Annotated[str | WebhookRequest, doc("a URL, or a URL with events and secret")] | None
    ) = None


class BatchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many tasks; all are accepted or none."""

    tasks: Annotated[
        list[TaskRequest], doc("each as in `POST /v1/tasks`", min_length=1, max_length=1000)
    ]


class ArtifactView(msgspec.Struct, frozen=True, kw_only=True):
    """An output file; the URL is signed and expires."""

    url: str
    content_type: str
    bytes: int
    width: int | None = None
    height: int | None = None
    thumbnail_url: Annotated[
        str | None, doc("WebP, at most 256 px wide; `w` may also be 128, 512 or 2048")
    ] = None


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a request that was changed so that the task could be accepted."""

    field: Annotated[str, doc("JSON pointer into the request")]
    before: Annotated[Any, doc("the requested value")] = msgspec.field(name="from")
    after: Annotated[Any, doc("the value used")] = msgspec.field(name="to")


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task would not be accepted."""

    code: str
    status: int
    title: str
    detail: str
    retry_after_s: int | None


class EstimateView(msgspec.Struct, frozen=True, kw_only=True):
    """The estimate for a task sent now. No task is created."""

    is_accepted: Annotated[bool, doc("whether the task would be accepted")]
    refusal: Annotated[RefusalView | None, doc("the error it would get; null if accepted")]
    model: Annotated[str, doc("the model that would run it, after `degrade`")]
    version: str
    input: Annotated[_Object, doc("the input after `degrade`")]
    priority: int
    degraded: Annotated[list[ChangeView], doc("the changes that `degrade` would make")]
    position: Annotated[int, doc("1 is next")]
    start_s: Annotated[EtaSeconds | None, doc("seconds until the start; null if unknown")]
    finish_s: Annotated[EtaSeconds | None, doc("seconds until the end; null if unknown")]
    cost_micros: Annotated[
        int | None, doc("cost in millionths of a dollar that 9 of 10 such tasks do not exceed")
    ]
    workers: Annotated[int, doc("live workers that have the model")]


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
        doc(
            "`succeeded`, `skipped` (its condition was false), `waiting` for an earlier stage, "
            "`not_reached` if the task ended before, or else the task's state"
        ),
    ]
    #: Files in it stand as signed URLs.
    output: msgspec.Raw | None
    artifacts: list[ArtifactView]
    attempts: Annotated[int, doc("attempts of this stage so far")]
    worker: str | None
    started_at: Moment | None
    finished_at: Moment | None
    timings: Timings | None
    cost_micros: _Cost
    seed: int | None


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task."""

    id: str
    model: str
    version: str
    state: TaskState
    input: _Object
    #: Files in it stand as signed URLs.
    output: msgspec.Raw | None
    artifacts: list[ArtifactView]
    warnings: Annotated[list[TaskWarning], doc("of the model, or all stages of a pipeline")]
    error: TaskError | None
    attempt: int
    max_attempts: int
    position: Annotated[int | None, doc("place in the queue, 1 is next; null unless queued")]
    eta_s: Annotated[EtaSeconds | None, doc("seconds until it ends; null before any measurement")]
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    timings: Timings | None
    cost_micros: _Cost
    seed: int | None
    user: str | None
    metadata: msgspec.Raw | None
    data_removed: Annotated[list[str], doc("removed data: `inputs` (and metadata), `outputs`")]
    urls: TaskUrls
    degraded: Annotated[list[ChangeView] | UnsetType, doc("changes by `degrade`, if any")] = UNSET
    trace_id: Annotated[str | UnsetType, doc("id of its trace, with telemetry.in_tasks")] = UNSET
    stages: Annotated[list[StageView] | UnsetType, doc("stages of a pipeline, in order")] = UNSET
    webhook: Annotated[WebhookView | UnsetType, doc("the task's webhook, if it has one")] = UNSET
    favourites: Annotated[
        list[int] | UnsetType, doc("in lists: indexes of the viewer's favourite artifacts, if any")
    ] = UNSET


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, newest first; `cursor` gets the next page and is null at the end."""

    tasks: list[TaskView]
    cursor: str | None


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks of a batch, in the order of the request."""

    tasks: list[TaskView]


class TaskQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which tasks to list."""

    state: Annotated[
        TaskState | None, doc("queued, running, succeeded, failed, canceled or expired")
    ] = None
    model: _ModelName | None = None
    user: Annotated[str, doc("the end user of the request", max_length=200)] | None = None
    q: Annotated[str, doc("up to eight words of the input, or their starts", max_length=200)] = ""
    since: Annotated[Zoned | None, doc("created at this time or later")] = None
    until: Annotated[Zoned | None, doc("created before this time")] = None
    viewer: _Viewer | None = None
    favourite: Annotated[bool, doc("only tasks with a favourite of the viewer")] = False
    cursor: Cursor = None
    limit: _Limit = 50


class FavouriteQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A favourite."""

    artifact: Annotated[int, doc("index of the file, from 0", ge=0)] = 0
    viewer: _Viewer | None = None


class FavouritesView(msgspec.Struct, frozen=True, kw_only=True):
    """The viewer's favourites among a task's files."""

    task_id: str
    favourites: Annotated[list[int], doc("their indexes in `artifacts`")]


class DeadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to list."""

    model: _ModelName | None = None
    cursor: Cursor = None
    limit: _Limit = 50


class DeadReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to replay: those named, or up to 1,000 of a model, or of all."""

    ids: Annotated[list[str], doc("task ids", min_length=1, max_length=1000)] | None = None
    model: _ModelName | None = None


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

    after: Annotated[int, doc("id of the last event seen", ge=-1, le=2**53 - 1)] | None = None
