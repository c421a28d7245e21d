"""Request and response bodies of tasks. OpenAPI's schemas are made from these types."""

from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from swell.api.eta import EtaSeconds
from swell.api.schemas import (
    MAX_DEADLINE_S,
    PLAIN,
    Cursor,
    HookEvents,
    HookFormat,
    HookUrl,
    Moment,
    _ends,
)
from swell.results import TaskWarning
from swell.task import TaskError, TaskState, Timings

#: One that is given, with its zone.
Zoned = Annotated[datetime, Meta(tz=True, extra_json_schema={"format": "date-time"})]


#: msgspec reads `Raw | None` as None only, so null means that the field is missing.
_null: Final = partial(msgspec.Raw, b"null")


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


SecretName = Annotated[
    str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="such as `default`")
]


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
