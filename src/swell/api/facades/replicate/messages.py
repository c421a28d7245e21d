"""What Replicate's clients send and get."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

#: Where the façade lies.
HOME = "/replicate/v1"

#: All that clients know; any other word is an error to them.
Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]

_EMPTY = msgspec.Raw(b"{}")


class ReplicatePredictionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a model. Fields that are not known are passed over."""

    input: Annotated[
        msgspec.Raw,
        Meta(
            description="the model's input; every model accepts `seed` and `num_outputs`",
            extra_json_schema={"type": "object"},
        ),
    ] = msgspec.field(default_factory=lambda: _EMPTY)
    version: Annotated[
        str | None, Meta(description="a version's id, `owner/name:version` or `owner/name`")
    ] = None
    webhook: Annotated[
        str | None, Meta(description="a URL that receives the prediction's events")
    ] = None
    webhook_events_filter: Annotated[
        list[Literal["start", "output", "logs", "completed"]] | None,
        Meta(description="the events to send; `output` and `completed` by default"),
    ] = None
    webhook_completed: Annotated[
        str | None, Meta(description="older name: a URL that receives only the end")
    ] = None
    stream: Annotated[
        bool | None, Meta(description="accepted and ignored: every prediction can be streamed")
    ] = None


class ReplicateUrls(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go on from a prediction."""

    get: str
    cancel: str
    stream: str
    web: str


class ReplicatePrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A task as a prediction."""

    id: str
    model: str
    version: str
    status: Status
    input: Any
    output: Any
    logs: str
    error: str | None
    metrics: dict[str, float]
    data_removed: bool
    source: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    deadline: str | None
    deployment: str | None
    urls: ReplicateUrls


class ReplicatePage(msgspec.Struct, frozen=True, kw_only=True):
    """What every page of a list has beside its results: absolute URLs of its neighbours."""

    previous: str | None = None
    next: str | None = None


class ReplicatePredictionList(ReplicatePage, frozen=True, kw_only=True):
    """A page of predictions, newest first."""

    results: list[ReplicatePrediction]


class ReplicateQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which page of a list."""

    cursor: Annotated[str | None, Meta(description="from `next` of the previous page")] = None
    limit: Annotated[int, Meta(ge=1, le=100, description="largest number")] = 100


class ReplicateFile(msgspec.Struct, frozen=True, kw_only=True):
    """An upload."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: dict[str, str]
    metadata: Any
    created_at: str
    expires_at: str | None
    urls: dict[str, str]


class ReplicateFileList(ReplicatePage, frozen=True, kw_only=True):
    """A page of files, newest first."""

    results: list[ReplicateFile]


class ReplicateVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model."""

    id: str
    created_at: str
    cog_version: str
    openapi_schema: dict[str, Any]


class ReplicateVersionList(ReplicatePage, frozen=True, kw_only=True):
    """A model's versions, newest first."""

    results: list[ReplicateVersion]


class ReplicateModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model."""

    url: str
    owner: str
    name: str
    description: str | None
    visibility: Literal["public", "private"] = "public"
    is_official: bool = False
    github_url: str | None = None
    paper_url: str | None = None
    license_url: str | None = None
    run_count: int = 0
    cover_image_url: str | None = None
    default_example: ReplicatePrediction | None = None
    latest_version: ReplicateVersion | None = None


class ReplicateModelList(ReplicatePage, frozen=True, kw_only=True):
    """A page of models."""

    results: list[ReplicateModel]


class ReplicateSearch(msgspec.Struct, frozen=True, kw_only=True):
    """What was found for some words."""

    query: str
    models: list[dict[str, Any]]
    collections: list[dict[str, Any]]
    pages: list[dict[str, str]]


class ReplicateAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks: the key, by its name."""

    type: Literal["user", "organization"] = "user"
    username: str
    name: str
    github_url: str | None = None
    avatar_url: str | None = None


class ReplicateHardware(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of workers."""

    name: str
    sku: str


class ReplicateCollection(msgspec.Struct, frozen=True, kw_only=True):
    """The models of one owner."""

    name: str
    slug: str
    description: str
    models: list[ReplicateModel] = []


class ReplicateCollectionList(ReplicatePage, frozen=True, kw_only=True):
    """All collections."""

    results: list[ReplicateCollection]


class ReplicateSecret(msgspec.Struct, frozen=True, kw_only=True):
    """What signs the webhooks of this key's predictions."""

    key: str


class ReplicateDeploymentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A name for a model or a version of it."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
    model: Annotated[str, Meta(description="`owner/name`")]
    version: Annotated[str | None, Meta(description="a version's id")] = None
    hardware: Annotated[str | None, Meta(description="a pool, as `GET /hardware` lists them")] = (
        None
    )
    min_instances: Annotated[int, Meta(ge=0)] | None = None
    max_instances: Annotated[int, Meta(ge=0)] | None = None


class ReplicateDeploymentUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be otherwise."""

    version: str | None = None
    hardware: str | None = None
    min_instances: Annotated[int, Meta(ge=0)] | None = None
    max_instances: Annotated[int, Meta(ge=0)] | None = None


class ReplicateConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Where a deployment runs."""

    hardware: str
    min_instances: int
    max_instances: int


class ReplicateRelease(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment stands for now."""

    number: int
    model: str
    version: str
    created_at: str
    created_by: ReplicateAccount
    configuration: ReplicateConfiguration


class ReplicateDeployment(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment."""

    owner: str
    name: str
    current_release: ReplicateRelease


class ReplicateDeploymentList(ReplicatePage, frozen=True, kw_only=True):
    """All deployments."""

    results: list[ReplicateDeployment]
