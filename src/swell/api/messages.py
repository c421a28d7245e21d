"""Every message of the public HTTP surface. OpenAPI's schemas are made from these types."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from swell.api.eta import EtaSeconds
from swell.outbox import DeliveryState
from swell.registry import Scope, Speed
from swell.stages import Pipeline
from swell.task import TaskError, TaskState, Timings

__all__ = [
    "AccountView",
    "AdoptionView",
    "AllowanceView",
    "ArtifactView",
    "AuditList",
    "AuditQuery",
    "AuditView",
    "BatchRequest",
    "BatchView",
    "CanaryRequest",
    "CanaryView",
    "ChangeView",
    "ClassView",
    "CostKinds",
    "CostMicros",
    "CostView",
    "CostsList",
    "CostsQuery",
    "CreditEntryView",
    "CreditRequest",
    "CreditsList",
    "CreditsQuery",
    "DeadQuery",
    "DeadReplayRequest",
    "DeadReplayView",
    "DecisionView",
    "DegradeRequest",
    "DeliveryList",
    "DeliveryQuery",
    "DeliveryView",
    "EndpointList",
    "EndpointRequest",
    "EndpointView",
    "EstimateView",
    "EventsQuery",
    "FavouriteQuery",
    "FavouritesView",
    "GrantView",
    "HealthView",
    "HookReplayRequest",
    "HookReplayView",
    "HookRotateRequest",
    "HookSecretView",
    "KeyLimitsView",
    "KeyList",
    "KeyRequest",
    "KeyView",
    "LedgerEntryView",
    "LedgerList",
    "LedgerQuery",
    "LifeChangeView",
    "MeasuredView",
    "ModelList",
    "ModelScalingView",
    "ModelView",
    "NewKeyView",
    "NoQuery",
    "OwnQuery",
    "PhaseTimesView",
    "PoolList",
    "PoolScalingView",
    "PoolView",
    "PromoteRequest",
    "QueueList",
    "QueueView",
    "QuotaList",
    "QuotaQuery",
    "QuotaRequest",
    "QuotaView",
    "RefusalView",
    "Replayed",
    "RetireRequest",
    "RollbackRequest",
    "RollbackRules",
    "RotateRequest",
    "RotateSigningRequest",
    "SampleView",
    "ScalingQuery",
    "ScalingView",
    "SeenView",
    "SigningView",
    "SpanView",
    "StageView",
    "StandingView",
    "StartupView",
    "StoredView",
    "StyleList",
    "StyleView",
    "SwitchesView",
    "TaskList",
    "TaskQuery",
    "TaskRequest",
    "TaskUrls",
    "TaskView",
    "TryView",
    "UploadQuery",
    "UploadView",
    "VerdictView",
    "VersionStageView",
    "WebhookRequest",
    "WebhookView",
    "WorkerList",
    "WorkerView",
    "WorkersQuery",
    "Zoned",
]

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


def _null() -> msgspec.Raw:
    # msgspec reads `Raw | None` as None only, so that null itself stands for nothing given.
    return _NULL


_NULL = msgspec.Raw(b"null")


class DegradeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be changed so that a task is in time, rather than refuse it."""

    steps: (
        Annotated[int, Meta(ge=1, le=1000, description="fewer steps, but not fewer than these")]
        | None
    ) = None
    size_px: (
        Annotated[
            int, Meta(ge=1, le=65_536, description="a smaller picture, but no side below this")
        ]
        | None
    ) = None
    models: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        Meta(max_length=10, description="other models, the best first; the input must fit them"),
    ] = []


HookUrl = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_HOOK_URL,
        description="http or https, on a public host, without a name or password",
    ),
]

#: What can be told of a task; as `swell.webhook.EVENTS`.
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
    Meta(min_length=1, max_length=8, description="which events are told; the ends of tasks else"),
]

HookFormat = Annotated[
    str, Meta(max_length=40, description="how bodies are written: `native`, or a façade's name")
]

SecretName = Annotated[
    str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="such as `default`")
]


def _ends() -> list[HookEvent]:
    return ["succeeded", "failed", "canceled", "expired"]


class WebhookRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to tell of a task, and of what."""

    url: HookUrl
    events: HookEvents = msgspec.field(default_factory=_ends)
    secret: Annotated[SecretName, Meta(description="which of the key's signing secrets signs")] = (
        "default"
    )
    format: HookFormat = "native"


class WebhookView(msgspec.Struct, frozen=True, kw_only=True):
    """Where is told of a task, and of what."""

    url: str
    events: list[str]
    format: str


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of a model."""

    model: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=200,
            description="`owner/name`, or `owner/name:version` to insist on one version",
        ),
    ]
    input: Annotated[
        msgspec.Raw,
        Meta(
            description="The model's input; GET /v1/models/{owner}/{name} shows its schema",
            extra_json_schema={"type": "object"},
        ),
    ]
    count: Annotated[int, Meta(ge=1, le=100, description="how many samples (pictures)")] = 1
    priority: Annotated[
        int,
        Meta(
            ge=0,
            le=9,
            description="0 comes first among a key's own tasks; 2 or more lets usual tasks go "
            "first, of twenty all but one",
        ),
    ] = 1
    class_name: (
        Annotated[
            str,
            Meta(min_length=1, max_length=60, description="the class whose priority it gets"),
        ]
        | None
    ) = msgspec.field(name="class", default=None)
    seed: (
        Annotated[int, Meta(ge=0, le=2**53 - 1, description="the same seed draws the same picture")]
        | None
    ) = None
    user: (
        Annotated[
            str,
            Meta(max_length=200, pattern=PLAIN, description="on behalf of whom; users take turns"),
        ]
        | None
    ) = None
    start_by_s: (
        Annotated[float, Meta(gt=0, le=MAX_DEADLINE_S, description="not to start later than this")]
        | None
    ) = None
    finish_by_s: (
        Annotated[float, Meta(gt=0, le=MAX_DEADLINE_S, description="worthless after this")] | None
    ) = None
    degrade: Annotated[
        DegradeRequest | None,
        Meta(
            description="what may be changed where it would miss a deadline, or nobody can run it"
        ),
    ] = None
    max_attempts: Annotated[
        int, Meta(ge=1, le=20, description="attempts in all, lost workers included")
    ] = 3
    metadata: Annotated[
        msgspec.Raw,
        Meta(
            description="any JSON up to 16 KiB; given back as it came",
            extra_json_schema={"type": ["object", "array", "string", "number", "boolean", "null"]},
        ),
    ] = msgspec.field(default_factory=_null)
    webhook: (
        Annotated[
            str | WebhookRequest,
            Meta(description="where to tell of it: a URL, or one with the events that it wants"),
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
        Meta(
            description="a picture in WebP, at most 256 px wide; `w` may also be 128, 512 or 2048"
        ),
    ] = None


class ChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """A field of a request that was changed so that the task could be accepted."""

    field: Annotated[str, Meta(description="JSON pointer into the request")]
    before: Annotated[Any, Meta(description="what was asked for")] = msgspec.field(name="from")
    after: Annotated[Any, Meta(description="what is done instead")] = msgspec.field(name="to")


class RefusalView(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task would not be accepted."""

    code: str
    status: int
    title: str
    detail: str
    retry_after_s: int | None


class EstimateView(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of a task that was sent now. None is made."""

    is_accepted: Annotated[bool, Meta(description="whether it would be accepted")]
    refusal: Annotated[RefusalView | None, Meta(description="why not; null if it would be")]
    model: Annotated[str, Meta(description="which would run it, after `degrade`")]
    version: str
    input: Annotated[
        msgspec.Raw,
        Meta(description="as it would run", extra_json_schema={"type": "object"}),
    ]
    priority: int
    degraded: Annotated[list[ChangeView], Meta(description="what would be changed")]
    position: Annotated[int, Meta(description="1 is next")]
    start_s: Annotated[
        EtaSeconds | None, Meta(description="until it starts; null before any measurement")
    ]
    finish_s: Annotated[
        EtaSeconds | None, Meta(description="until it ends; null before any measurement")
    ]
    cost_micros: Annotated[
        int | None,
        Meta(description="most probably, in millionths of a dollar; null where that is not known"),
    ]
    workers: Annotated[int, Meta(description="live ones that have the model")]


class TaskUrls(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go on from a task."""

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
            description="`succeeded`, `skipped` (its condition did not hold), `waiting` for an "
            "earlier stage, `not_reached` where the task ended before; else that of the task"
        ),
    ]
    #: Files in it stand as signed URLs.
    output: msgspec.Raw | None
    artifacts: list[ArtifactView]
    attempts: Annotated[int, Meta(description="how many it took so far, of the task's own")]
    worker: str | None
    started_at: Moment | None
    finished_at: Moment | None
    timings: Timings | None
    cost_micros: Annotated[
        int | None,
        Meta(
            description="what the attempt's share of the device cost, in millionths of a dollar; "
            "null before its end, and where the pool has no price"
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
    error: TaskError | None
    attempt: int
    max_attempts: int
    position: Annotated[int | None, Meta(description="1 is next; null unless it waits")]
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
            description="what the last attempt's share of the device cost, in millionths of a "
            "dollar; null before its end, and where the pool has no price"
        ),
    ]
    seed: int | None
    user: str | None
    metadata: msgspec.Raw | None
    data_removed: Annotated[
        list[str],
        Meta(description="what was removed since the end: `inputs` (metadata too), `outputs`"),
    ]
    urls: TaskUrls
    degraded: Annotated[
        list[ChangeView] | msgspec.UnsetType,
        Meta(description="what was changed so that it could be accepted; left out if nothing was"),
    ] = msgspec.UNSET
    trace_id: Annotated[
        str | msgspec.UnsetType,
        Meta(description="where its trace is found; told with telemetry.in_tasks"),
    ] = msgspec.UNSET
    stages: Annotated[
        list[StageView] | msgspec.UnsetType,
        Meta(description="of a pipeline: its stages in order, with what each gave"),
    ] = msgspec.UNSET
    webhook: Annotated[
        WebhookView | msgspec.UnsetType, Meta(description="where is told of it, if it names that")
    ] = msgspec.UNSET
    favourites: Annotated[
        list[int] | msgspec.UnsetType,
        Meta(description="in lists: places of the artifacts that the viewer likes, if any"),
    ] = msgspec.UNSET


class TaskList(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks, newest first; `cursor` asks for the next page and is null at the end."""

    tasks: list[TaskView]
    cursor: str | None


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks of a batch, in the order of the request."""

    tasks: list[TaskView]


class EndpointRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A standing endpoint to be."""

    url: HookUrl
    events: HookEvents = msgspec.field(default_factory=_ends)
    models: Annotated[
        list[Annotated[str, Meta(min_length=3, max_length=200, pattern=MODEL_OR_OWNER)]],
        Meta(max_length=50, description="`owner/name` or `owner/*`; empty for all models"),
    ] = []
    description: Annotated[str, Meta(max_length=200, pattern=PLAIN, description="for people")] = ""
    all_keys: Annotated[
        bool, Meta(description="tell of the tasks of all keys; for an admin key only")
    ] = False
    format: HookFormat = "native"


class EndpointView(msgspec.Struct, frozen=True, kw_only=True):
    """A standing endpoint."""

    id: str
    key_id: str
    url: str
    events: list[str]
    models: list[str]
    description: str
    all_keys: bool
    format: str
    state: Annotated[str, Meta(description="active, paused or disabled")]
    reason: Annotated[str, Meta(description="why it is not active")]
    changed_at: Moment
    created_at: Moment
    secret: Annotated[
        str | msgspec.UnsetType,
        Meta(description="what signs; told when it is made, rotated, or asked for"),
    ] = msgspec.UNSET


class EndpointList(msgspec.Struct, frozen=True, kw_only=True):
    """Standing endpoints, oldest first."""

    webhooks: list[EndpointView]


class HookSecretView(msgspec.Struct, frozen=True, kw_only=True):
    """What signs webhooks, for whoever checks their signatures."""

    key: Annotated[str, Meta(description="`whsec_` and base64")]
    created_at: Moment
    old_until: Annotated[
        Moment | None, Meta(description="until when the secret before this one signs too")
    ]


class HookRotateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long the secret before signs too."""

    overlap_s: Annotated[
        float, Meta(ge=0, le=MAX_DEADLINE_S, description="for so long both sign, in seconds")
    ] = 86400.0


class HookReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to send again."""

    since: Annotated[Moment, Meta(description="of events that happened then or later")]


class HookReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """How many are sent again."""

    replayed: int


class DeliveryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which deliveries to list."""

    task: Annotated[str, Meta(max_length=64, description="of this task")] | None = None
    endpoint: Annotated[str, Meta(max_length=64, description="to this endpoint")] | None = None
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
            "`unsendable` or `internal`; empty where it succeeded"
        ),
    ]
    detail: str
    answer: Annotated[str, Meta(description="the beginning of what was answered")]


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """One event for one receiver, and what became of it."""

    id: Annotated[str, Meta(description="the `webhook-id`")]
    task: str
    endpoint: Annotated[str | None, Meta(description="null for the URL that the task names")]
    event: str
    at: Annotated[Moment, Meta(description="when it happened")]
    state: Annotated[str, Meta(description="waiting, delivered, failed or skipped")]
    reason: str
    tries: Annotated[int, Meta(description="attempts since it was first due, or replayed")]
    due_at: Annotated[Moment | None, Meta(description="when the next attempt is made")]
    ended_at: Moment | None
    attempts: list[TryView]


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries, newest first; `cursor` asks for the next page and is null at the end."""

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
    user: (
        Annotated[str, Meta(max_length=200, description="on behalf of whom it was asked")] | None
    ) = None
    q: Annotated[
        str,
        Meta(
            max_length=200,
            description="words of their inputs, or how these begin; up to eight",
        ),
    ] = ""
    since: Annotated[Zoned | None, Meta(description="created at this moment or later")] = None
    until: Annotated[Zoned | None, Meta(description="created before this moment")] = None
    viewer: (
        Annotated[
            str,
            Meta(
                max_length=200,
                description="the user of this key whose `favourites` are told; the key's own if "
                "left out",
            ),
        ]
        | None
    ) = None
    favourite: Annotated[
        bool, Meta(description="only those of which the viewer likes something")
    ] = False
    cursor: Annotated[str, Meta(max_length=200, description="of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200, description="tasks in a page")] = 50


class FavouriteQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is liked, and by whom."""

    artifact: Annotated[int, Meta(ge=0, description="which of its files, from 0 on")] = 0
    viewer: (
        Annotated[
            str,
            Meta(
                max_length=200, description="the user of this key who likes it; the key if left out"
            ),
        ]
        | None
    ) = None


class FavouritesView(msgspec.Struct, frozen=True, kw_only=True):
    """Which files of a task the viewer likes."""

    task_id: str
    favourites: Annotated[list[int], Meta(description="their places among its artifacts")]


class DeadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters to list."""

    model: Annotated[str, Meta(max_length=200, description="`owner/name`")] | None = None
    cursor: Annotated[str, Meta(max_length=200, description="of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200, description="tasks in a page")] = 50


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
    """What became of the dead letters."""

    replayed: list[Replayed]


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where to go on reading."""

    after: (
        Annotated[int, Meta(ge=-1, le=2**53 - 1, description="id of the last event seen")] | None
    ) = None


class MeasuredView(msgspec.Struct, frozen=True, kw_only=True):
    """What tasks of a model took lately on workers with one kind of device."""

    device: Annotated[str, Meta(description="as the workers call it, such as `cpu` or `cuda:0`")]
    tasks: int
    median_s: Annotated[float, Meta(description="for each task, delivery included")]


class SampleView(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, sound or text on a model's card; its URL needs no key and never changes."""

    url: str
    caption: str
    content_type: str
    width: Annotated[int, Meta(description="of a picture, in px; else 0")]
    height: Annotated[int, Meta(description="of a picture, in px; else 0")]
    text: Annotated[str, Meta(description="a text itself; else empty")]


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """What the world may know of one version of a model."""

    name: str
    version: str
    description: str
    stage: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    examples: list[dict[str, Any]]
    registered_at: Moment | None
    workers: Annotated[int, Meta(description="live workers that have it")]
    service_s: Annotated[
        EtaSeconds | None, Meta(description="what its tasks took lately, in seconds")
    ]
    measured: Annotated[
        list[MeasuredView], Meta(description="the same by the devices of the workers that ran them")
    ]
    licence: Annotated[
        str, Meta(description="of code and weights, SPDX or words; empty if it was not said")
    ]
    credits: Annotated[str, Meta(description="Markdown")]
    memory_bytes: Annotated[
        int | None, Meta(description="what it takes of its device; null if that is not known")
    ]
    price_micros: Annotated[
        int | None,
        Meta(
            description="what a sample costs with somebody else, such as an API, in millionths of "
            "a dollar; null where it costs nothing there"
        ),
    ]
    speed: Annotated[list[Speed], Meta(description="what it took its author, in seconds")]
    samples: list[SampleView]
    eta_s: Annotated[
        EtaSeconds | None, Meta(description="when a usual task sent now would end")
    ] = None
    start_s: Annotated[
        EtaSeconds | None, Meta(description="when a usual task sent now would start")
    ] = None
    pipeline: Annotated[
        Pipeline | None, Meta(description="its stages; null for what workers run themselves")
    ] = None
    urls: dict[str, str]


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """Models, by name."""

    models: list[ModelView]


class StyleView(msgspec.Struct, frozen=True, kw_only=True):
    """A style that people choose by a picture."""

    name: str
    label: str
    labels: Annotated[dict[str, str], Meta(description="language → label")]
    prompt: Annotated[
        str, Meta(description="what becomes of a prompt, which stands at `{prompt}`; empty for it")
    ]
    input: Annotated[dict[str, Any], Meta(description="what it sets of a model's input")]
    models: Annotated[list[str], Meta(description="which it is for; empty for any")]
    picture: Annotated[
        str | None, Meta(description="the URL needs no key, and always shows the same")
    ]


class StyleList(msgspec.Struct, frozen=True, kw_only=True):
    """Styles, in the order in which they are shown."""

    styles: list[StyleView]


class UploadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to keep a raw body."""

    filename: (
        Annotated[str, Meta(max_length=100, description="its ending is kept, for people")] | None
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
    """What waits of a model in one class."""

    name: str
    priority: int
    ready: int
    ready_samples: int


class QueueView(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in one queue."""

    queue: str
    ready: int
    delayed: int
    running: int
    ready_samples: int
    oldest_ready_at: Moment | None
    eta_s: Annotated[EtaSeconds | None, Meta(description="when a task sent now would end")]
    start_s: Annotated[EtaSeconds | None, Meta(description="when a task sent now would start")]
    classes: Annotated[
        list[ClassView], Meta(description="what waits of the model in each class, all its queues")
    ]


class QueueList(msgspec.Struct, frozen=True, kw_only=True):
    """Queues that are not empty, by name."""

    queues: list[QueueView]


class WorkersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workers to list."""

    gone: Annotated[bool, Meta(description="also those that have gone")] = False


class SwitchesView(msgspec.Struct, frozen=True, kw_only=True):
    """How often a worker has brought or changed a model, since it started."""

    disk: Annotated[int, Meta(description="loaded anew")]
    host: Annotated[int, Meta(description="brought back from the host's memory")]
    loras: Annotated[int, Meta(description="other LoRAs put on its weights")]


class SpanView(msgspec.Struct, frozen=True, kw_only=True):
    """A phase as an interval, in seconds since its startup began; phases may overlap."""

    phase: Annotated[str, Meta(description="boot, pull, import, fetch, load, warm or first_task")]
    model: Annotated[str | None, Meta(description="null for what is done for all models together")]
    start_s: float
    end_s: Annotated[
        float | None,
        Meta(description="null while it is under way, or where the startup died in it"),
    ]
    source: Annotated[
        str,
        Meta(
            description="what made it short: fork, compiled, host, disk, bucket; empty for nothing"
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
    ready_s: Annotated[float | None, Meta(description="from its beginning until tasks are taken")]
    whole_s: Annotated[
        float | None, Meta(description="that and the first task, without the wait for it")
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
    held: Annotated[int, Meta(description="tasks under lease, as this backend knows")]
    residents: Annotated[
        list[str] | None,
        Meta(description="models on its device; null where all always are, or it has not told"),
    ]
    switches: Annotated[
        dict[str, SwitchesView],
        Meta(description="model → how often it was brought or changed, as this backend knows"),
    ]
    device: str
    host: str
    pid: int
    instance: Annotated[
        str | None, Meta(description="its machine at whoever launched it; null if nobody did")
    ]
    release: Annotated[str, Meta(description="version of Swell")]
    clock_ahead_s: Annotated[
        float, Meta(description="how far its clock was ahead of this one when it registered")
    ]
    registered_at: Moment
    seen_at: Moment
    gone_at: Moment | None
    startup: Annotated[
        StartupView | None,
        Meta(description="its cold start, phase by phase; null where it has not told"),
    ] = None


class WorkerList(msgspec.Struct, frozen=True, kw_only=True):
    """Workers, oldest first."""

    workers: list[WorkerView]
    starting: Annotated[
        list[StartupView], Meta(description="cold starts of workers that are not ready yet")
    ] = []


class PhaseTimesView(msgspec.Struct, frozen=True, kw_only=True):
    """How long a phase takes: quantiles that count what is not over yet (Kaplan-Meier)."""

    kind: Annotated[str, Meta(description="cold, restart or switch")]
    model: str
    phase: Annotated[
        str,
        Meta(
            description="boot, pull, import, fetch, load, warm, first_task; ready: from the "
            "beginning until tasks are taken; whole: that and the first task"
        ),
    ]
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    at_least: Annotated[
        list[str], Meta(description="which of these are only known to be at least so long")
    ]
    observed: Annotated[int, Meta(description="how many have ended")]
    not_over: Annotated[
        int, Meta(description="how many are under way, or died before this was over")
    ]


class DecisionView(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, or befell a pool."""

    at: Moment
    about: Annotated[str, Meta(description="a pool, or a model where it is relief")]
    what: Annotated[
        str,
        Meta(
            description="launch, cancel (of boots), drain, end (of a machine), hurry (it is taken "
            "back at once), refused or failed (launches or boots), lost (it ended by itself) or "
            "relief (demand is not met in time)"
        ),
    ]
    n: Annotated[int, Meta(description="of how many workers")]
    why: Annotated[list[str], Meta(description="one sentence each")]


class PoolScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """How a pool stands whose workers are launched when they are needed."""

    provider: str
    models: list[str]
    desired: Annotated[int, Meta(description="workers that are wanted")]
    ready: Annotated[int, Meta(description="workers that take tasks")]
    busy: Annotated[int, Meta(description="of these, those that hold some")]
    booting: Annotated[int, Meta(description="asked for, and not ready yet")]
    draining: Annotated[int, Meta(description="they finish what they hold, and go")]
    least: int
    most: int
    hour_micros: Annotated[
        int | None, Meta(description="an hour of one, in millionths of a dollar")
    ]
    price_source: Annotated[
        str | None,
        Meta(description="who says so: a setting, its cloud, or a row of Swell's list of prices"),
    ]
    price_read_on: Annotated[
        date | None, Meta(description="the day on which that was read; null for a setting")
    ]
    price_told_at: Annotated[
        datetime | None, Meta(description="when its cloud told it; null for any other price")
    ]
    price_note: Annotated[
        str | None, Meta(description="why it is not what its cloud tells now, where it should be")
    ]
    spot: Annotated[bool, Meta(description="whether the provider may take them back")]
    location: str | None
    closed_s: Annotated[float, Meta(description="nothing is asked of the provider for so long")]
    why_closed: str | None
    start_p50_s: Annotated[float, Meta(description="from asking for one until it takes tasks")]
    start_p95_s: float
    counts: Annotated[
        dict[str, int], Meta(description="what was done → of how many, as in decisions")
    ]
    ends: Annotated[dict[str, int], Meta(description="how machines have ended → how many")]
    reasons: Annotated[list[str], Meta(description="why so many are wanted now")]
    decision: Annotated[DecisionView | None, Meta(description="the last about this pool")]


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of workers."""

    pool: str
    workers: Annotated[dict[str, int], Meta(description="state → how many")]
    starting: Annotated[int, Meta(description="workers that are not ready yet")]
    slots: Annotated[int, Meta(description="tasks that its live workers may hold")]
    held: Annotated[int, Meta(description="tasks that they hold, as this backend knows")]
    times: Annotated[
        list[PhaseTimesView],
        Meta(description="of the last 200 startups of each kind and set of models"),
    ]
    scaling: Annotated[
        PoolScalingView | None, Meta(description="null where its workers come from elsewhere")
    ] = None


class PoolList(msgspec.Struct, frozen=True, kw_only=True):
    """Pools by name."""

    pools: list[PoolView]


class ScalingQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many decisions to list."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ModelScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """What new tasks of a model can expect."""

    model: str
    ready_in_s: Annotated[
        float | None,
        Meta(
            description="until a worker takes the first: 0 where one is there, null where none is "
            "launched"
        ),
    ]
    admitted: Annotated[float, Meta(description="share of new tasks that can start in time")]
    wait_s: Annotated[float, Meta(description="how long a new one waits where not all can")]
    speedup: Annotated[
        float, Meta(description="by how much each would have to become cheaper so that all can")
    ]


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """How the autoscaler stands, and what it has decided."""

    at: Annotated[Moment | None, Meta(description="null where no autoscaler runs")]
    leader: Annotated[str | None, Meta(description="the process that decides")]
    age_s: Annotated[float | None, Meta(description="how old what it knows is")]
    spent_micros: Annotated[
        int | None, Meta(description="by all pools today (UTC), in millionths of a dollar")
    ]
    models: list[ModelScalingView]
    decisions: Annotated[list[DecisionView], Meta(description="newest first")]


class CostsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which costs to tell."""

    since: Annotated[
        date | None, Meta(description="the first day (UTC); 30 days in all without it")
    ] = msgspec.field(name="from", default=None)
    until: Annotated[
        date | None, Meta(description="the last day, which counts too; today without it")
    ] = msgspec.field(name="to", default=None)
    by: Annotated[
        Literal["model", "user", "key", "pool", "day"], Meta(description="what is told apart")
    ] = "model"
    limit: Annotated[
        int, Meta(ge=1, le=1000, description="so many, the dearest; `others` are the rest")
    ] = 100


class CostKinds(msgspec.Struct, frozen=True, kw_only=True):
    """What the seconds of workers went into."""

    attempts: Annotated[float, Meta(description="attempts that gave something")]
    failed: Annotated[float, Meta(description="attempts that came to nothing")]
    idle: Annotated[float, Meta(description="nothing to do")]
    cold: Annotated[float, Meta(description="cold starts")]
    wasted: Annotated[
        float, Meta(description="restarts, switches of models, silence, minimum billing")
    ]
    total: float


class CostMicros(msgspec.Struct, frozen=True, kw_only=True):
    """The same in millionths of a dollar, of workers whose pool has a price."""

    attempts: int
    failed: int
    idle: int
    cold: int
    wasted: int
    total: int


class CostView(msgspec.Struct, frozen=True, kw_only=True):
    """What something costs, with its share of what belongs to nobody."""

    name: Annotated[
        str | None,
        Meta(description="model, user, id of the key, pool or day; null for what is nobody's"),
    ]
    attempts: int
    images: Annotated[int, Meta(description="pictures, or other samples, that succeeded")]
    seconds: CostKinds
    micros: Annotated[CostMicros | None, Meta(description="null where no pool has a price")]
    image_micros: Annotated[
        float | None, Meta(description="what an image costs by the attempts that gave one alone")
    ]
    loaded_image_micros: Annotated[
        float | None, Meta(description="the same with all else that was paid for")
    ]
    api_micros: Annotated[
        int | None, Meta(description="what as many images cost at `costs.api_image_micros`")
    ]


class CostsList(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of some days."""

    since: date = msgspec.field(name="from")
    until: date = msgspec.field(name="to")
    by: str
    api_image_micros: Annotated[
        int | None, Meta(description="what one image costs elsewhere, as the operator has set it")
    ]
    costs: list[CostView]
    others: Annotated[
        CostView | None, Meta(description="those beyond `limit` together; null if there are none")
    ]
    total: CostView


class LedgerQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries of the ledger to list."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[int, Meta(ge=1, le=2**53 - 1, description="of the page before")] | None = None


class LedgerEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker's time went into."""

    id: str
    at: Moment
    kind: Annotated[str, Meta(description="cold_start, attempt, failed, idle or wasted")]
    pool: str
    models: list[str]
    worker_id: str | None
    ref: Annotated[str, Meta(description="the startup or attempt that it belongs to")]
    outcome: Annotated[
        str, Meta(description="how that ended; `paid` of what an attempt has paid to others")
    ]
    seconds: float
    cost_micros: Annotated[
        int | None, Meta(description="millionths of a dollar; null where the pool has no price")
    ]
    key_id: Annotated[str | None, Meta(description="whose attempts")]
    user: str | None
    attempts: int
    images: int


class LedgerList(msgspec.Struct, frozen=True, kw_only=True):
    """Entries of the ledger, those added last first."""

    entries: list[LedgerEntryView]
    cursor: int | None


_Rate = Annotated[
    float,
    Meta(ge=0, le=1e6, description="requests per second; 0 for no limit, else at least 0.00001"),
]
_Burst = Annotated[int, Meta(ge=1, le=1_000_000, description="requests that may come at once")]
_InFlight = Annotated[
    int, Meta(ge=0, le=10**9, description="tasks that have not ended; 0 for no limit")
]
_PerDay = Annotated[int, Meta(ge=0, le=10**9, description="tasks per day; 0 for no limit")]
_Streams = Annotated[
    int,
    Meta(ge=0, le=10**9, description="event streams open at each process; 0 for no limit"),
]
_Names = Annotated[list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=100)]


class KeyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to make. Limits that are not given are those of the settings."""

    name: Annotated[
        str, Meta(min_length=1, max_length=100, pattern=PLAIN, description="for people")
    ]
    scopes: Annotated[
        list[Scope], Meta(min_length=1, max_length=3, description="client, worker or admin")
    ] = msgspec.field(default_factory=lambda: [Scope.CLIENT])
    expires_in_s: (
        Annotated[float, Meta(gt=0, le=MAX_KEY_S, description="it works for so long")] | None
    ) = None
    pools: Annotated[
        _Names, Meta(description="the only pools of workers with this key; empty for any")
    ] = []
    models: Annotated[
        _Names,
        Meta(description="`owner/name` or `owner/*`: all that its workers may have; empty for any"),
    ] = []
    rate_per_s: _Rate | None = None
    burst: _Burst | None = None
    tasks_in_flight: _InFlight | None = None
    tasks_per_day: _PerDay | None = None
    streams: _Streams | None = None
    classes: Annotated[
        _Names,
        Meta(description="all classes that it may use, the usual one first; empty for any"),
    ] = []

    def __post_init__(self) -> None:
        if self.rate_per_s and self.rate_per_s < LEAST_RATE:
            raise ValueError(
                f"`rate_per_s` of {self.rate_per_s:g} is less than {LEAST_RATE:.5f}, about one "
                "request a day: give more, or 0 for no limit"
            )


class RotateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to change a secret."""

    overlap_s: Annotated[
        float, Meta(ge=0, le=MAX_DEADLINE_S, description="the secret before works for so long")
    ] = 86_400


class RotateSigningRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to change the secret that signs URLs."""

    revoke: Annotated[bool, Meta(description="make all URLs void that were signed before")] = False


class SigningView(msgspec.Struct, frozen=True, kw_only=True):
    """Which secrets there are to sign URLs, without themselves."""

    signs_from: Annotated[Moment, Meta(description="when the newest begins to sign")]
    others_until: Annotated[
        Moment | None, Meta(description="when the last URL signed before ends; null for at once")
    ]


class KeyLimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may ask, as it was made: null stands for what the settings say."""

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
    used_at: Annotated[Moment | None, Meta(description="to the minute; null if never")]
    old_until: Annotated[
        Moment | None, Meta(description="until when the secret before its last rotation works")
    ]
    pools: list[str]
    models: list[str]
    limits: KeyLimitsView
    classes: Annotated[list[str], Meta(description="all that it may use; empty for any")]


class NewKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A new key, or one with a new secret, which is never shown again."""

    id: str
    name: str
    scopes: list[Scope]
    created_at: Moment
    expires_at: Moment | None
    old_until: Annotated[
        Moment | None, Meta(description="until when the secret before the rotation works")
    ]
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
        Meta(description="null for the key itself; `*` for each user without a quota of his own"),
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
    is_prepaid: Annotated[
        bool, Meta(description="nothing is accepted that its credits do not cover")
    ] = False


class QuotaQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which quota."""

    key_id: _KeyId
    user: Annotated[str, Meta(max_length=200, description="of the quota")] | None = None


class OwnQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose."""

    user: (
        Annotated[str, Meta(max_length=200, description="also what this user has left")] | None
    ) = None


class StandingView(msgspec.Struct, frozen=True, kw_only=True):
    """What is left of one limit."""

    name: Annotated[str, Meta(description="as in the headers, such as `samples-day`")]
    user: Annotated[str | None, Meta(description="null for the key itself")]
    unit: Annotated[str, Meta(description="tasks, samples, micros or credits")]
    period: Annotated[str | None, Meta(description="the day or month (UTC); null for credits")]
    limit: int
    left: int


class AllowanceView(msgspec.Struct, frozen=True, kw_only=True):
    """What is left for whoever asks; empty where nothing is limited."""

    limits: list[StandingView]


class QuotaView(msgspec.Struct, frozen=True, kw_only=True):
    """A quota, and what is left of it."""

    key_id: str
    user: str | None
    tasks_per_day: int | None
    tasks_per_month: int | None
    samples_per_day: int | None
    samples_per_month: int | None
    micros_per_day: int | None
    micros_per_month: int | None
    is_prepaid: bool
    left: Annotated[list[StandingView], Meta(description="empty where `user` is `*`")]


class QuotaList(msgspec.Struct, frozen=True, kw_only=True):
    """Quotas, by key and user."""

    quotas: list[QuotaView]


class CreditRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Money that was paid before."""

    key_id: _KeyId
    user: Annotated[_User | None, Meta(description="null for the key itself")] = None
    micros: Annotated[
        int,
        Meta(
            ge=-(2**53 - 1),
            le=2**53 - 1,
            description="millionths of a dollar; less than 0 to take back",
        ),
    ]
    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                pattern=PLAIN,
                description="such as of the payment: the same is granted once",
            ),
        ]
        | None
    ) = None
    note: Annotated[str, Meta(max_length=500, pattern=PLAIN, description="for people")] = ""


class CreditsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose credits to list."""

    key_id: Annotated[str, Meta(max_length=200, description="of this key only")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="grants, the newest")] = 50


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """Credits of a key or a user, in millionths of a dollar."""

    key_id: str
    user: str | None
    granted_micros: int
    spent_micros: int
    held_micros: Annotated[int, Meta(description="for tasks that have not ended")]
    left_micros: Annotated[
        int, Meta(description="below 0 where tasks have cost more than was held for them")
    ]


class CreditEntryView(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was granted."""

    id: str
    key_id: str
    user: str | None
    micros: int
    at: Moment
    note: str


class CreditsList(msgspec.Struct, frozen=True, kw_only=True):
    """Accounts by key and user, and what was granted, newest first."""

    accounts: list[AccountView]
    entries: list[CreditEntryView]


class GrantView(msgspec.Struct, frozen=True, kw_only=True):
    """What was granted, and what is there now."""

    id: str
    is_new: Annotated[bool, Meta(description="false where this id was granted before")]
    account: AccountView


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries to list."""

    cursor: Annotated[str, Meta(max_length=200, description="of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200, description="entries in a page")] = 50


class AuditView(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator did, or tried to do."""

    id: str
    at: Moment
    key_id: str
    key_name: str
    address: Annotated[str, Meta(description="where it came from, or the proxy before us")]
    action: Annotated[str, Meta(description="such as `keys.create`")]
    target: Annotated[str, Meta(description="id of what it was done to; empty for none")]
    status: Annotated[int, Meta(description="HTTP status of the answer")]
    detail: str
    request_id: str


class AuditList(msgspec.Struct, frozen=True, kw_only=True):
    """What operators did, newest first; `cursor` asks for the next page, null at the end."""

    entries: list[AuditView]
    cursor: str | None


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the service works."""

    status: str
    checks: dict[str, str] = {}


class RollbackRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a canary is rolled back without being asked."""

    automatic: bool = True
    false_alarm: Annotated[
        float,
        Meta(
            ge=1e-9,
            le=0.1,
            description="how likely a canary that is no worse is ever rolled back, at most",
        ),
    ] = 0.001
    failures_by: Annotated[
        float,
        Meta(ge=0.0, le=1.0, description="by which part of all attempts it has to fail more often"),
    ] = 0.01
    p95_by: Annotated[
        float,
        Meta(
            ge=1.0,
            le=100.0,
            description="how many times the live version's its 95th percentile has to be",
        ),
    ] = 1.1


Edition = Annotated[
    Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)] | None,
    Meta(
        description=(
            "of the stages, as the caller has seen them (`edition` of GET …/adoption): 409 where "
            "they have changed since; null does not ask"
        )
    ),
]


class CanaryRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version gets a part of the traffic, and how much."""

    version: Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]
    share: Annotated[float, Meta(gt=0.0, lt=1.0, description="of the tasks that name no version")]
    sticky: Annotated[
        Literal["user", "key"],
        Meta(
            description="whose tasks all get the same version: those of a `user` of a key, where "
            "what names none is drawn by itself, or all of a `key`"
        ),
    ] = "user"
    rollback: RollbackRules = RollbackRules()
    edition: Edition = None


class PromoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is to be live: by its name, or the canary of an edition of the stages."""

    version: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)] | None,
        Meta(
            description=(
                "null for the canary; then `edition` is to be said. One that was rolled back by "
                "itself needs the edition too: else the answer is 409"
            )
        ),
    ] = None
    edition: Edition = None


class RollbackRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version is to be left, and why."""

    version: Annotated[
        Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)] | None,
        Meta(
            description=(
                "the canary, or the live version where there is none: 409 where it is another one "
                "by now; null leaves whichever it is"
            )
        ),
    ] = None
    reason: Annotated[str, Meta(max_length=200, description="for whoever reads it later")] = ""
    edition: Edition = None


class RetireRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which version gets nothing any more."""

    version: Annotated[str, Meta(min_length=1, max_length=100, pattern=PLAIN)]
    edition: Edition = None


class VersionStageView(msgspec.Struct, frozen=True, kw_only=True):
    """How far one version is adopted."""

    version: str
    stage: Annotated[str, Meta(description="`trial`, `canary`, `live` or `retired`")]
    share: Annotated[
        float, Meta(description="of the tasks that name no version, as far as it is served")
    ]
    workers: Annotated[int, Meta(description="that have it and were heard of lately (30 s)")]
    registered_at: datetime | None


class SeenView(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a version since its model has this canary."""

    attempts: Annotated[int, Meta(description="first tries, without those at fault themselves")]
    failures: int
    p95_s: Annotated[float | None, Meta(description="of the newest 200 runs, for one sample")]


class VerdictView(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out about a canary."""

    verdict: Annotated[str, Meta(description="`early` (nobody can tell yet), `fine`, or `worse`")]
    reason: str
    failures_evidence: Annotated[
        float,
        Meta(description="how many times more likely a canary that fails more makes what was seen"),
    ]
    slowness_evidence: Annotated[float, Meta(description="the same for one that takes longer")]
    needed_evidence: Annotated[float, Meta(description="from here on it counts as worse")]
    canary: SeenView
    live: SeenView


class CanaryView(msgspec.Struct, frozen=True, kw_only=True):
    """A version that gets a part of the traffic."""

    version: str
    share: float
    since: datetime
    sticky: str
    rollback: RollbackRules
    is_served: Annotated[
        bool, Meta(description="whether a live worker has it; else the live version gets its part")
    ]
    evidence: VerdictView


class LifeChangeView(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a model's life."""

    at: datetime
    who: Annotated[str, Meta(description="name of the key; empty where nobody asked for it")]
    action: Annotated[str, Meta(description="`canary`, `promote`, `rollback` or `retire`")]
    version: str
    share: float | None
    reason: str


class AdoptionView(msgspec.Struct, frozen=True, kw_only=True):
    """How the versions of a model are adopted."""

    model: str
    is_staged: Annotated[
        bool,
        Meta(description="if not, the version registered last gets what names none"),
    ]
    edition: Annotated[
        str, Meta(description="of the stages: another one after each change, for those who change")
    ]
    live: str
    canary: CanaryView | None
    former: Annotated[list[str], Meta(description="versions that were live, the last one first")]
    versions: Annotated[list[VersionStageView], Meta(description="newest first")]
    history: Annotated[list[LifeChangeView], Meta(description="newest first")]
    notice: Annotated[str, Meta(description="what is to be done; empty for nothing")]
