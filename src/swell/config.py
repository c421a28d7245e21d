"""Settings: flags > environment > `swell.toml` > defaults.

Every setting has one dotted key. `server.port` is `--port` where a command offers it,
`SWELL_SERVER__PORT` in the environment, and `port` under `[server]` in the file. An unknown
key is an error with a suggestion; an unknown variable is a warning. A secret may be given as a
file, by adding `_FILE` to its variable. Only this module reads the environment.
"""

import difflib
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_origin

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from swell.addresses.origins import (
    host_as_compared,
    media_type_as_compared,
    origin_as_compared,
    service_url,
)
from swell.errors import InvalidRequest, UnknownSetting

_PREFIX: Final = "SWELL_"

#: How origins of values begin that come from variables.
_ENVIRONMENT: Final = "environment "

#: What Hugging Face's libraries are told by.
_QUIET: Final = {
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}

#: Whatever opens something: API keys, tokens, signatures of URLs, and passwords in them.
_SECRETS: Final = re.compile(
    r"(?<![A-Za-z0-9])swell_[\w-]{40,}"
    r"|(?<![A-Za-z0-9])hf_[A-Za-z0-9]{20,}"
    r"|(?<=whsec_)[A-Za-z0-9+/=]{8,}"
    r"|(?i:(?<=bearer )[\w.~+/=-]{8,})"
    r"|(?i:(?<=basic ))(?=[A-Za-z+/]*[A-Z0-9=])[A-Za-z0-9+/=-]{8,}"
    r"|(?i:(?<=signature=)[\w%+/=-]+|(?<=[?&]sig=)[\w%+/=-]+|(?<=-security-token=)[\w%+/=-]+)"
    r"|(?i:(?<=[?&]password=)[^\s&'\"]+|(?<=[?&]sslpassword=)[^\s&'\"]+)"
    r"|(?i:(?<=[?&_]token=)|(?<=[?&]key=)|(?<=[?&]api_key=)|(?<=[?&]apikey=))"
    r"[^\s&'\"]+"
    r"|(?i:(?<=accountkey=)|(?<=sharedaccesskey=))[\w%+/=-]+"
    # A password may hold what should have been escaped: slashes behind a colon, or quotes.
    r"|(?<=://):?[^\s/'\":@]*:[^\s'\"]*(?=@)|(?<=://)[^\s/\"]+(?=@)"
)
_HIDDEN: Final = "********"

#: Variables that name a screen on Linux.
_DISPLAYS: Final = ("DISPLAY", "WAYLAND_DISPLAY")

#: A URL that is all of a value, up to the `@` behind its user.
_USER: Final = re.compile(r"([\w+.-]+://)(?:[^/?#]*|[^/?#]*:[^?#]*)(?=@)")

#: Short names of variables that people type by hand, and those that a hub's own client reads.
_ALIASES: Final = {
    "SWELL_URL": "client.url",
    "SWELL_KEY": "client.key",
    "HF_ENDPOINT": "worker.hub_url",
    "HF_TOKEN": "worker.hub_token",
    "SWELL_INSTANCE_ID": "worker.instance",
}

#: Variables of ours that are no settings.
_RESERVED: Final = frozenset({"SWELL_CONFIG"})


def _split(value: object) -> object:
    """Let a list be given as `a,b`."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _each(form: Callable[[str], str]) -> AfterValidator:
    """Bring each word of a list into the form in which it is compared."""
    return AfterValidator(lambda words: tuple(map(form, words)))


def _json(value: object) -> object:
    """Let a table be given as JSON, as in the environment."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON: {error}") from error


def _rate(per_s: float) -> float:
    if 0 < per_s < 1e-5:
        raise ValueError("give at least 0.00001 requests per second, or 0 for no limit")
    return per_s


#: How references to models end that tell no names.
_FILES: Final = (".py", ".toml")

#: How prices are named: provider, kind of machine, where it stands, and whether it is spot.
_PRICE_NAME: Final = re.compile(r"[a-z0-9-]+/[\w.-]+(@[\w.-]+)?(/spot)?")

_POOL_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")

_Words = Annotated[tuple[str, ...], BeforeValidator(_split)]
_Waits = Annotated[tuple[Annotated[float, Field(ge=0)], ...], BeforeValidator(_split)]
_Hosts = Annotated[_Words, _each(host_as_compared)]
_Origins = Annotated[_Words, _each(origin_as_compared)]
_MediaTypes = Annotated[_Words, _each(media_type_as_compared)]


class _Group(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class ServerSettings(_Group):
    """The HTTP service."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 for any free port."
    )
    processes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="Backend processes of `swell serve` that share the port. More than one "
        "needs PostgreSQL as the store.",
    )
    public_url: Annotated[str, AfterValidator(service_url)] | None = Field(
        default=None,
        description="URL where clients reach the service, such as `https://swell.example`. "
        "If empty, links use the host of the request.",
    )
    tls: Literal["off", "self-signed"] = Field(
        default="off",
        description="`self-signed` serves HTTPS with a generated certificate, kept in `tls`"
        " of the data folder, for trials; local commands trust it. With "
        "`server.tls_cert` the service always uses HTTPS.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="Certificate file with its chain, PEM. The service reads it again when "
        "it changes.",
    )
    tls_key: Path | None = Field(
        default=None, description="Private key file of the certificate, PEM, without a password."
    )
    hosts: _Hosts = Field(
        default=(),
        description="Host names that requests may use, complete and without a port, in "
        "addition to `server.public_url`, IP addresses and `localhost`. If "
        "neither is set, any host name is accepted.",
    )
    pipelines: _Words = Field(
        default=("swell/picture",),
        description="Pipelines to serve: TOML files (`chains.toml`), Python files "
        "(`chains.py`), or built-in ones (`swell/picture`). A pipeline is "
        "available when workers serve all of its models. Empty for none.",
    )
    styles: _Words = Field(
        default=("swell/picture",),
        description="Style files for the web app, in TOML with their pictures in the same "
        "folder, or built-in ones (`swell/picture`). Empty for none.",
    )
    cors_origins: _Origins = Field(
        default=(),
        description="Origins whose pages may call the service from a browser, such as "
        "`https://shop.example`; `*` for all. They need an API key like every "
        "client.",
    )
    facades: tuple[Literal["replicate", "openai", "fal", "libretranslate"], ...] = Field(
        default=("replicate", "openai", "fal", "libretranslate"),
        description="Compatible APIs to serve, each under a path of the same name, for "
        "existing clients. Empty for none.",
    )
    model_aliases: Annotated[Mapping[str, str], BeforeValidator(_json)] = Field(
        default={},
        description="Model names of clients of compatible APIs, mapped to served models: "
        'lines such as `"gpt-image-1" = "swell/icons"` under '
        "`[server.model_aliases]` in the file, JSON in the environment. `*` "
        "matches every unknown name.",
    )
    upload_types: _MediaTypes = Field(
        default=(
            "image/*",
            "audio/*",
            "video/*",
            "text/plain",
            "application/json",
            "application/pdf",
            "application/octet-stream",
        ),
        description="Media types that clients may upload, detected from the first bytes, "
        "not from the declared type; `*/*` for any. `application/octet-stream` "
        "matches unknown bytes.",
    )
    max_body_bytes: int = Field(
        default=10 * 1024**2, ge=1, description="Largest JSON body, in bytes."
    )
    max_upload_bytes: int = Field(
        default=100 * 1024**2, ge=1, description="Largest file that a client may upload, in bytes."
    )
    max_artifact_bytes: int = Field(
        default=2 * 1024**3, ge=1, description="Largest file that a worker may deliver, in bytes."
    )
    max_wait_s: float = Field(default=60.0, ge=0, description="Longest `Prefer: wait`, in seconds.")
    keepalive_s: float = Field(
        default=15.0,
        gt=0,
        description="Interval of keep-alive comments on an idle event stream, in seconds.",
    )
    signed_url_s: float = Field(
        default=3600.0, gt=0, description="How long a signed URL lasts, in seconds."
    )
    head_timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="Longest time from the first byte of a request to the end of its "
        "headers, in seconds.",
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest pause within a request's body, in seconds."
    )
    drain_s: float = Field(
        default=10.0,
        ge=0,
        description="Time for open requests to finish after SIGTERM, in seconds.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "ServerSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "server.tls_cert and server.tls_key go together: set both, or neither and "
                "server.tls = self-signed"
            )
        return self


class LimitsSettings(_Group):
    """How much each key may ask that was made without limits of its own; operators may all."""

    rate_per_s: Annotated[float, AfterValidator(_rate)] = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="Requests per second on average; 0 for no limit, else at least 0.00001.",
    )
    burst: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Largest burst of requests; unset for two seconds' worth.",
    )
    tasks_in_flight: int = Field(
        default=0, ge=0, description="Unfinished tasks at a time; 0 for no limit."
    )
    tasks_per_day: int = Field(
        default=0,
        ge=0,
        description="Tasks per day, refilled continuously; 0 for no limit.",
    )
    streams: int = Field(
        default=0,
        ge=0,
        description="Open event streams at a time on each backend process; 0 for no limit.",
    )
    guest_tasks: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Tasks that a visitor of a shared page may run without a key; 0 for none.",
    )


class StoreSettings(_Group):
    """Where tasks are kept."""

    url: str = Field(
        default="",
        description="`sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, "
        "shared by any number of backends. Empty for `swell.db` in the data folder.",
    )
    connections: int = Field(
        default=4,
        ge=1,
        description="With PostgreSQL: read connections of each backend. Three more write "
        "and listen, plus one for a bus on PostgreSQL.",
    )


class BrokerSettings(_Group):
    """Where workers inside the trusted network receive the IDs of ready tasks."""

    url: str = Field(
        default="",
        description="`nats://HOST:PORT/STREAM` (NATS JetStream; default stream `swell`; "
        "credentials as `nats://USER:PASSWORD@…`, `nats://TOKEN@…` or "
        "`?creds=FILE`; `tls://…` requires TLS, with `?ca=FILE` and for a "
        "client certificate `&cert=FILE&key=FILE`; a cluster lists its servers "
        "separated by commas, and `?replicas=3` sets the replicas of a new "
        "stream) or `sqs://REGION/PREFIX` (Amazon SQS; queues named `PREFIX-…`;"
        " `?endpoint=URL` for another server). Set it only if workers poll that "
        "service (`swell worker --broker`). Empty: all workers lease from the backend.",
    )
    repair_s: float = Field(
        default=10.0,
        gt=0,
        description="How often one backend compares the external queues with the store, in "
        "seconds. Ready tasks without a message are sent again after two comparisons.",
    )


class BusSettings(_Group):
    """What several backends tell each other."""

    url: str = Field(
        default="",
        description="`nats://HOST:PORT` (a path names the installation if several share the"
        " server) or `postgresql://USER@HOST/DATABASE`. Empty for the database "
        "of `store.url` if that is PostgreSQL, otherwise for no bus: a single "
        "backend needs none.",
    )


class ObjectsSettings(_Group):
    """Where files are kept."""

    url: str = Field(
        default="",
        description="`file:PATH`, `memory:` (lost at exit), `s3://BUCKET/PREFIX`, "
        "`gs://BUCKET/PREFIX` or `az://ACCOUNT/CONTAINER/PREFIX`; empty for "
        "`objects` in the data folder.",
    )
    serve: Literal["through", "redirect"] = Field(
        default="through",
        description="How clients download files from a bucket. `through`: the backend "
        "streams them under its own URL. `redirect`: the backend redirects to a"
        " signed URL of the bucket, which refuses clients that forward their "
        "API key.",
    )
    endpoint: str = Field(
        default="",
        description="URL of the bucket's service, such as `https://minio.example:9000`; "
        "empty for the cloud's default.",
    )
    region: str = Field(
        default="", description="Region of the Amazon S3 bucket; empty for `AWS_REGION`."
    )
    key_id: str = Field(
        default="",
        description="Access key id for Amazon S3; empty for the cloud's usual variables, "
        "files or instance role.",
    )
    secret: SecretStr = Field(
        default=SecretStr(""),
        description="Credential of the bucket: the secret access key of Amazon S3, the "
        "account key of Azure, or the JSON of a Google service account key; "
        "empty as for `objects.key_id`.",
    )


class WeightsSettings(_Group):
    """Where pushed weights are kept, apart from images and machines."""

    url: str = Field(
        default="",
        description="`file:PATH`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or "
        "`az://ACCOUNT/CONTAINER/PREFIX`. Backend: empty for `weights` among "
        "its files; a folder must be visible to every backend, which serves it."
        " Worker: empty to download from the backend with the worker's token.",
    )
    endpoint: str = Field(default="", description="As `objects.endpoint`.")
    region: str = Field(default="", description="As `objects.region`.")
    key_id: str = Field(default="", description="As `objects.key_id`.")
    secret: SecretStr = Field(default=SecretStr(""), description="As `objects.secret`.")


class RetentionClass(_Group):
    """How long tasks of some models are kept; what is unset is kept for ever."""

    models: _Words = Field(min_length=1, description="Whose tasks; of no other class.")
    inputs_s: float | None = Field(default=None, ge=0, description="As `retention.inputs_s`.")
    outputs_s: float | None = Field(default=None, ge=0, description="As `retention.outputs_s`.")
    tasks_s: float | None = Field(default=None, ge=86_400, description="As `retention.tasks_s`.")


def _class_names(classes: Mapping[str, int]) -> Mapping[str, int]:
    for name, priority in classes.items():
        if not name or len(name) > 60 or not name.isprintable() or not 0 <= priority <= 9:
            raise ValueError(
                f"{name!r} = {priority} is no class: write a name of at most 60 letters and a "
                "priority from 0 to 9, such as free = 5"
            )
    return classes


class AdmissionSettings(_Group):
    """What is accepted, for whom, and in which order."""

    classes: Annotated[Mapping[str, int], BeforeValidator(_json), AfterValidator(_class_names)] = (
        Field(
            default={"paid": 1, "free": 5},
            description="Priority classes: name and priority. 1 is normal, higher numbers are "
            "less urgent. `[admission.classes]` in the file, JSON in the "
            "environment.",
        )
    )
    sample_micros: int = Field(
        default=0,
        ge=0,
        description="Price of one sample (picture) for quotas and credits where the "
        "worker's pool has no price, in millionths of a dollar.",
    )


class RetentionSettings(_Group):
    """For how long data is kept once a task has ended."""

    inputs_s: float | None = Field(
        default=None,
        ge=0,
        description="Time after a task's end until its input and uploads that no other task"
        " uses are deleted, in seconds. Such a task cannot be retried. Unset to"
        " keep them.",
    )
    outputs_s: float | None = Field(
        default=None,
        ge=0,
        description="Time after a task's end until its outputs are deleted, in seconds; "
        "unset to keep them.",
    )
    tasks_s: float | None = Field(
        default=None,
        ge=86_400,
        description="Time after a task's end until its whole record is deleted, in seconds,"
        " at least a day; unset to keep it.",
    )
    uploads_s: float | None = Field(
        default=86_400.0,
        ge=0,
        description="Age at which an unused upload is deleted, in seconds, but not before "
        "its URL expires (`server.signed_url_s`); unset to keep it.",
    )
    classes: Annotated[Mapping[str, RetentionClass], BeforeValidator(_json)] = Field(
        default={},
        description="Separate retention times for some models, by a name of your choice: "
        "`[retention.classes.NAME]` with `models`, `inputs_s`, `outputs_s` and "
        "`tasks_s` in the file, JSON in the environment. A class keeps forever "
        "what it does not set.",
    )

    @model_validator(mode="after")
    def _each_model_once(self) -> "RetentionSettings":
        seen: set[str] = set()
        for name, each in self.classes.items():
            if twice := seen.intersection(each.models):
                raise ValueError(
                    f"retention.classes.{name} names {min(twice)}, and so does another class: "
                    "name each model once"
                )
            seen.update(each.models)
        return self


class DeliverySettings(_Group):
    """Leases, retries and deadlines."""

    lease_s: float = Field(
        default=30.0,
        gt=0,
        description="Lease time: a worker that sends no heartbeat for this time loses its "
        "tasks, in seconds.",
    )
    heartbeat_s: float = Field(
        default=10.0,
        gt=0,
        description="Heartbeat interval of a worker that holds a task, in seconds.",
    )
    worker_wait_s: float = Field(
        default=20.0, ge=0, description="Longest long-poll of a worker for tasks, in seconds."
    )
    backoff_base_s: float = Field(
        default=1.0,
        ge=0,
        description="Longest backoff after a task's first failure, in seconds; doubles with"
        " each failure.",
    )
    backoff_cap_s: float = Field(
        default=60.0, ge=0, description="Longest backoff after any failure of a task, in seconds."
    )
    sweep_every_s: float = Field(
        default=0.25,
        gt=0,
        description="Interval of the check for expired leases and deadlines, in seconds.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "DeliverySettings":
        if 2 * self.heartbeat_s > self.lease_s:
            raise ValueError(
                f"delivery.heartbeat_s ({self.heartbeat_s:g}) must be at most half of "
                f"delivery.lease_s ({self.lease_s:g}), so that one lost heartbeat costs no task: "
                f"set it to {self.lease_s / 3:.3g} or so, or lease_s to {3 * self.heartbeat_s:g}"
            )
        if self.sweep_every_s > self.lease_s:
            raise ValueError(
                f"delivery.sweep_every_s ({self.sweep_every_s:g}) must be at most delivery.lease_s "
                f"({self.lease_s:g}), or lost tasks wait longer than their lease: make it smaller"
            )
        if self.backoff_base_s > self.backoff_cap_s:
            raise ValueError(
                f"delivery.backoff_base_s ({self.backoff_base_s:g}) must be at most "
                f"delivery.backoff_cap_s ({self.backoff_cap_s:g}): lower it, or raise the cap"
            )
        return self


class WebhooksSettings(_Group):
    """What is sent to URLs that callers name."""

    allow_private_urls: _Words = Field(
        default=(),
        description="Private networks and hosts that webhooks may reach; values as for "
        "`worker.allow_private_urls`. Callers choose these URLs, so they can "
        "reach what the backend can reach there.",
    )
    url_ports: _Words = Field(
        default=("80", "443"),
        description="Ports that webhook URLs may use, or `any`; addresses and hosts in "
        "`webhooks.allow_private_urls` may use others.",
    )
    schedule_s: _Waits = Field(
        default=(5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0),
        description="Wait after each failed attempt, in seconds, plus or minus a tenth. "
        "After one attempt more than there are waits, the delivery has failed.",
    )
    timeout_s: float = Field(
        default=20.0,
        gt=0,
        description="Time for a receiver to answer one attempt, in seconds.",
    )
    at_once: int = Field(
        default=1536,
        ge=2,
        description="Concurrent attempts, one connection each. A quarter is reserved for "
        "hosts of a key that already has an attempt in progress.",
    )
    per_receiver: int = Field(
        default=8,
        ge=1,
        description="Concurrent attempts to one host of one key, or to one standing "
        "endpoint; one while it does not answer.",
    )
    log_s: float | None = Field(
        default=30 * 86400.0,
        ge=0,
        description="Time to keep the record of a finished delivery, in seconds; unset to keep it.",
    )
    endpoints: int = Field(default=50, ge=0, description="Standing endpoints per key.")


class WorkerSettings(_Group):
    """One worker."""

    url: str = Field(default="http://127.0.0.1:8000", description="URL of the backend.")
    token: SecretStr = Field(default=SecretStr(""), description="API key with the scope `worker`.")
    broker: str = Field(
        default="",
        description="External queue that the worker polls itself, as `broker.url` of the "
        "backend; empty to ask the backend for tasks. Leases and outcomes "
        "always go through the backend.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="CA certificates (PEM) to trust for the backend in addition to the "
        'system\'s, such as one of `server.tls = "self-signed"`.',
    )
    models: _Words = Field(
        default=(
            "swell/icons",
            "swell/translate",
            "swell/prompt-check",
            "swell/paint",
            "swell/upscale",
            "swell/safety",
            "swell/portraits",
        ),
        description="Models to serve: names of built-in models, modules (`package.module` "
        "or `package.module:name`) or paths of Python files. Default: the "
        "stages of the pipeline `swell/picture`, and portraits.",
    )
    slots: int | None = Field(
        default=None,
        ge=1,
        description="Tasks that the worker holds at a time; unset for two batches of the model.",
    )
    name: str = Field(
        default="", description="Name shown to operators; empty for host name and process id."
    )
    pool: str = Field(
        default="default", min_length=1, description="Pool that the worker belongs to."
    )
    stage: Literal["", "trial"] = Field(
        default="",
        description="`trial` registers new model versions for trials only, as `swell models"
        " try` does; empty for the stage that the models declare.",
    )
    instance: str = Field(
        default="",
        max_length=200,
        description="Provider's name of the machine, container or process; set by the "
        "launcher through `SWELL_INSTANCE_ID`. Empty for a worker started by "
        "hand.",
    )
    device: str = Field(default="cpu", description="Device for models, such as `cpu` or `cuda:0`.")
    batching: Literal["exact", "fast"] = Field(
        default="exact",
        description="How step-batched models share a step. `exact`: always with the model's"
        " fixed number of rows, so that a seed gives the same picture bit for "
        "bit in any batch. `fast`: with the number of rows that measured "
        "fastest; the last bits may differ.",
    )
    device_memory_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Device memory for all models together. Models that do not fit are "
        "loaded on demand and evict others: first models without waiting tasks,"
        " then the least recently used. In bytes; unset to load all models at "
        "the start and keep them.",
    )
    host_memory_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Host memory for models evicted from the device, from which they reload"
        " quickly; beyond it the least recently used is dropped. In bytes; "
        "unset for no limit.",
    )
    picture_format: Literal["png", "webp", "jpeg", "avif"] = Field(
        default="png",
        description="Format of pictures if neither the model nor the input sets one.",
    )
    encode_processes: int | None = Field(
        default=None,
        ge=1,
        description="Processes that encode pictures, started with the first picture; unset "
        "for one less than the number of cores, at most 4.",
    )
    cache_dir: Path | None = Field(
        default=None,
        description="Cache folder of downloaded weights; unset for `weights` in the data folder.",
    )
    cache_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Size of the weights cache; the least recently used weights are evicted"
        " first. In bytes; unset for the whole disk.",
    )
    baked_dir: Path | None = Field(
        default=None,
        description="Read-only folder of weights that came with the machine image, laid out"
        " like the cache.",
    )
    compiled_dir: Path | None = Field(
        default=None,
        description="Cache folder of compiled programs, readable and writable only by the "
        "worker's user; unset for `compiled` in the data folder.",
    )
    compiled_bytes: int | None = Field(
        default=None,
        gt=0,
        description="Size of the cache of compiled programs; the least recently used are "
        "evicted first. In bytes; unset for the whole disk.",
    )
    compiled_keys: _Words = Field(
        default=(),
        description="Public keys from `swell models push --keygen`. The worker downloads and runs "
        "programs compiled elsewhere for pushed weights if one of these keys "
        "signed them; without keys, each machine compiles for itself.",
    )
    compiled_wait_s: float = Field(
        default=5.0,
        gt=0,
        description="Time without progress after which the worker stops waiting for a "
        "compiled program and compiles itself, in seconds.",
    )
    weights: _Words = Field(
        default=(),
        description="Pushed weights to download at the start, as `owner/name@version` or "
        "the path of a `weights.toml`, in addition to those listed in a "
        "`weights.toml` in the model's folder.",
    )
    added: bool = Field(
        default=True,
        description="Whether to serve the models that `swell models add` added to the data folder.",
    )
    optional: _Words = Field(
        default=(),
        description="Those of `worker.models` (or of the added models) that are skipped "
        "with a logged error if they cannot be loaded; any other failure to "
        "load stops the worker.",
    )
    hub_url: str = Field(
        default="https://huggingface.co",
        description="Server behind `hf:`: any hub with the API of the Hugging Face Hub.",
    )
    hub_token: SecretStr = Field(
        default=SecretStr(""), description="Token of the hub, for gated and private repositories."
    )
    weights_file: Path | None = Field(
        default=None,
        description="File that lists the weights behind the links in an image of `swell "
        "build`, downloaded before the models load; unset for none.",
    )
    health_file: Path | None = Field(
        default=None,
        description="File that a healthy worker writes every few seconds, for `swell "
        "health`; unset for none.",
    )
    environments_dir: Path | None = Field(
        default=None,
        description="Folder of the environments of models with their own requirements; "
        "unset for `environments` in the data folder.",
    )
    wheels_dir: Path | None = Field(
        default=None,
        description="Folder of wheels for the environments of models with their own "
        "requirements, for machines without a network; unset for the package "
        "index.",
    )
    max_file_bytes: int = Field(
        default=100 * 1024**2,
        ge=1,
        description="Largest input file to read, in bytes; `swell up` sets it to the "
        "backend's `server.max_upload_bytes`. From other servers than the "
        "backend the worker reads at most 64 MiB.",
    )
    max_lora_bytes: int = Field(
        default=1024**3,
        ge=1,
        description="Largest LoRA that an input may name, in bytes; cached with the "
        "weights. An uploaded LoRA must also fit `server.max_upload_bytes`.",
    )
    allow_private_urls: _Words = Field(
        default=(),
        description="Private addresses that input URLs may use: networks (`10.0.0.0/8`), "
        "hosts (`minio.internal`), hosts and addresses with a port "
        "(`minio.internal:9000`, `[fd00::1]:9000`), or `any`. A network allows "
        "URLs with an address in it at any port, and names such as "
        "`files.corp.example` that resolve into it at `worker.url_ports`; a "
        "name without a dot or ending in `.internal`, `.local` or similar needs"
        " its own entry. Users choose these URLs, so they can read what the "
        "worker can read there. The backend's own files need no entry.",
    )
    url_ports: _Words = Field(
        default=("80", "443"),
        description="Ports that input URLs may use, or `any`; addresses and hosts in "
        "`worker.allow_private_urls` may use others.",
    )
    cancel_grace_s: float = Field(
        default=5.0,
        ge=0,
        description="Time for a model to stop a task that is canceled, expired or has lost "
        "its lease, in seconds. After it the worker kills the model process and"
        " loads the model again.",
    )
    run_limit_s: float | None = Field(
        default=None,
        gt=0,
        description="Longest `run` of a model, in seconds. After it the worker kills the "
        "model process and loads the model again. Unset for no limit.",
    )
    drain_s: float | None = Field(
        default=None,
        ge=0,
        description="Time for a worker to finish its tasks after SIGTERM before it hands "
        "them over, in seconds; unset for no limit.",
    )
    killed_after_s: float | None = Field(
        default=None,
        ge=0,
        description="Time from SIGTERM until the platform kills the worker, in seconds; the"
        " worker hands over before that. Providers of pools set it. Unset for "
        "no limit.",
    )
    handover_s: float = Field(
        default=5.0,
        ge=0,
        description="Time for a worker that hands over to save checkpoints and deliver "
        "finished tasks, in seconds; 0 returns the leases at once, without "
        "checkpoints.",
    )
    give_up_s: float | None = Field(
        default=3600.0,
        ge=0,
        description="Time without any answer from the backend after which the worker exits "
        "with code 5, so that an unreachable machine costs nothing, in seconds;"
        " 0 or unset to wait forever.",
    )
    preload: _Words = Field(
        default=("auto",),
        description="Modules to import once in a process that forks model processes, for "
        "quick starts: `auto` for those that the models imported last time, "
        "`none` for no such process, or names of modules.",
    )
    asked_at: AwareDatetime | None = Field(
        default=None,
        description="Time when the launcher requested the machine, such as "
        "`2026-11-26T09:30:00Z`, to measure the boot; the launcher sets "
        "`SWELL_WORKER__ASKED_AT`. Negative times and times over two hours are "
        "ignored.",
    )
    began_boot_s: float | None = Field(
        default=None,
        ge=0,
        description="Start of the container in seconds since the machine's boot "
        "(`CLOCK_BOOTTIME`), set by its entry point; unset for the start of the"
        " process.",
    )
    pull_s: float | None = Field(
        default=None,
        ge=0,
        description="Time to pull the worker's image before the start, in seconds, if the "
        "launcher knows it.",
    )
    warm_s: float = Field(
        default=0.0,
        ge=0,
        description="Time that the preloading process waits for the next worker after the "
        "last one exits, in seconds; 0 to exit with it.",
    )


class PoolSettings(_Group):
    """The workers that `swell up` starts."""

    workers: int = Field(default=1, ge=0, description="Number of worker processes.")
    drain_s: float = Field(
        default=30.0,
        ge=0,
        description="Time for tasks in progress to finish after SIGTERM, in seconds.",
    )
    boot_delay_s: float = Field(
        default=0.0,
        ge=0,
        description="Artificial delay of a worker's start, in seconds, for tests of the "
        "autoscaler.",
    )
    hour_micros: int | None = Field(
        default=None,
        ge=0,
        description="Price of one worker of the pool `worker.pool` per hour, in millionths "
        "of a dollar, for the ledger; unset if unknown.",
    )


class PoolTable(_Group):
    """Workers that are alike, which are launched when they are needed."""

    provider: str = Field(
        default="process", min_length=1, description="Who launches them; `process`: this machine."
    )
    models: _Words = Field(
        min_length=1, description="What they serve: names, as `worker.models` takes them."
    )
    least: int = Field(default=0, ge=0, description="Never fewer; 0 lets the pool sleep.")
    most: int = Field(default=1, ge=1, le=100_000, description="Never more.")
    hour_micros: int | None = Field(
        default=None,
        ge=0,
        description="What an hour of one costs, in millionths of a dollar. Unset for what "
        "`prices.hour_micros` or Swell's list says of its kinds of machines, if anything.",
    )
    launch_micros: int = Field(
        default=0, ge=0, description="What each launch costs besides, in millionths of a dollar."
    )
    least_billed_s: float = Field(
        default=0.0, ge=0, description="One is paid for at least so long, in seconds."
    )
    spot: bool = Field(
        default=False,
        description="Whether the provider may take them back; `options.spot` says the same, and "
        "counts where both are there.",
    )
    losses_per_hour: float = Field(
        default=0.0, ge=0, description="What share of them it takes back in an hour, about."
    )
    location: str = Field(
        default="",
        max_length=200,
        description="Where they stand. Of spot workers that say it, no location has more than "
        "`autoscale.policy.location_share`.",
    )
    start_s: float | None = Field(
        default=None,
        gt=0,
        description="How long one takes from being asked for until it takes tasks, in seconds, as "
        "long as none was seen.",
    )
    rates: Annotated[Mapping[str, float], BeforeValidator(_json)] = Field(
        default={},
        description="Model to samples per second of one worker, as long as none was measured.",
    )
    drain_s: float | None = Field(
        default=None,
        ge=0,
        description="One that is let go may go on so long with what it holds, in seconds; then it "
        "hands that over. Unset for as long as it takes.",
    )
    device: str | None = Field(default=None, description="As `worker.device`.")
    slots: int | None = Field(default=None, ge=1, description="As `worker.slots`.")
    options: Annotated[Mapping[str, Any], BeforeValidator(_json)] = Field(
        default={}, description="What the provider is told besides."
    )

    @property
    def is_spot(self) -> bool:
        """Whether the provider may take machines back: what it is told counts, or else `spot`."""
        told = self.options.get("spot", self.spot)
        return told.lower() in ("true", "1", "yes", "on") if isinstance(told, str) else bool(told)

    @model_validator(mode="after")
    def _fit_together(self) -> "PoolTable":
        if self.least > self.most:
            raise ValueError(
                f"least ({self.least}) must be at most most ({self.most}): lower it, or raise most"
            )
        are_names = all("/" in ref and not ref.endswith(_FILES) for ref in self.models)
        if are_names and (strange := set(self.rates) - set(self.models)):
            raise ValueError(
                f"rates names {min(strange)}, which is not among models: add it there, or leave it "
                "out"
            )
        if wrong := [model for model, rate in self.rates.items() if not rate > 0]:
            raise ValueError(f"the rate of {wrong[0]} must be above 0: samples per second")
        return self


def _pool_names(pools: Mapping[str, PoolTable]) -> Mapping[str, PoolTable]:
    for name in pools:
        if not _POOL_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:60]!r} cannot be a pool's name: use 1 to 40 letters, digits, '-' and '_', "
                "the first a letter"
            )
    return pools


class AutoscaleSettings(_Group):
    """How many workers the pools of `[pools.NAME]` have."""

    wait_s: float = Field(
        default=20.0, gt=0, description="Target time for a task to start, in seconds."
    )
    every_s: float = Field(
        default=3.0, gt=0, le=60, description="Interval of scaling decisions, in seconds."
    )
    stale_s: float = Field(
        default=60.0,
        gt=0,
        description="Age of the state after which the autoscaler removes no workers, in seconds.",
    )
    hour_budget_micros: int | None = Field(
        default=None,
        ge=0,
        description="Budget of all pools per hour, in millionths of a dollar; unset for no limit.",
    )
    day_budget_micros: int | None = Field(
        default=None,
        ge=0,
        description="Budget of all pools per day (UTC), in millionths of a dollar. The "
        "autoscaler runs fewer workers as it runs out, and none at its end. "
        "Unset for no limit. `costs.budget_day_micros` raises alarms before "
        "that.",
    )
    boot_limit_s: float = Field(
        default=1800.0,
        gt=0,
        description="Time for a new machine's worker to register, in seconds, shorter where"
        " start times are well known; after it the autoscaler ends the machine."
        " No limit for pools whose provider is `external`.",
    )
    silent_s: float = Field(
        default=300.0,
        gt=0,
        description="Time without a heartbeat after which the autoscaler ends a worker's "
        "machine, in seconds.",
    )
    url: str = Field(
        default="",
        description="URL of the backend for launched workers; empty for "
        "`server.public_url`, or the address that it listens on.",
    )
    token: SecretStr = Field(
        default=SecretStr(""),
        description="API key with the scope `worker` for launched workers; empty for a "
        "generated key that is valid while the backend runs, enough for workers"
        " that end with it.",
    )
    deployment: str = Field(
        default="swell",
        pattern="^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="Name that separates this deployment's machines from others in the same"
        " account: up to 40 lower-case letters, digits and hyphens.",
    )
    policy: Annotated[Mapping[str, Any], BeforeValidator(_json)] = Field(
        default={},
        description="Advanced settings of the policy, by name: `[autoscale.policy]` in the "
        "file, JSON in the environment.",
    )


def _price_names(prices: Mapping[str, int]) -> Mapping[str, int]:
    for name, micros in prices.items():
        if not _PRICE_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:80]!r} names no price: write PROVIDER/KIND, PROVIDER/KIND@REGION, or "
                "either with /spot at its end, such as aws/g6.xlarge@us-east-1/spot"
            )
        if micros < 1:
            raise ValueError(f"the price {name} must be at least 1 millionth of a dollar an hour")
    return prices


class PricesSettings(_Group):
    """What machines cost, in place of what Swell's own list says."""

    hour_micros: Annotated[
        Mapping[str, int], BeforeValidator(_json), AfterValidator(_price_names)
    ] = Field(
        default={},
        description="Your own prices in millionths of a dollar per hour of one GPU, by "
        "provider and machine type, or of the whole machine for types that "
        'Swell\'s list does not have: lines such as `"aws/g6.xlarge/spot" = '
        "410000` under `[prices.hour_micros]` in the file, JSON in the "
        "environment.",
    )
    ask_every_s: float = Field(
        default=600.0,
        ge=0,
        description="Interval at which the autoscaler asks clouds for prices of pools that "
        "set none: AWS for spot machines, Azure for all. In seconds; 0 for "
        "never.",
    )


class CostsSettings(_Group):
    """What may be spent, and what pictures cost elsewhere."""

    api_image_micros: int | None = Field(
        default=None,
        ge=0,
        description="Price of one picture at an external API, in millionths of a dollar, "
        "for comparison; 40000 is $0.04. Unset for no comparison.",
    )
    budget_day_micros: int | None = Field(
        default=None,
        ge=1,
        description="Budget of all pools per day (UTC), in millionths of a dollar, for "
        "alarms at 50, 80 and 100 %. It stops nothing; "
        "`autoscale.day_budget_micros` does. Unset for no alarms.",
    )
    budget_month_micros: int | None = Field(
        default=None, ge=1, description="The same budget per month (UTC)."
    )


class ClientSettings(_Group):
    """Commands that talk to a server."""

    url: str = Field(
        default="", description="URL of the server; empty for the one in the data folder."
    )
    key: SecretStr = Field(
        default=SecretStr(""),
        description="API key; empty for the local key that `swell up` keeps in the data folder.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="CA certificates (PEM) to trust for the server in addition to the "
        "system's; unset for the certificate that `swell up` keeps in the data "
        "folder.",
    )
    timeout_s: float = Field(
        default=60.0, gt=0, description="Longest wait for a response, in seconds."
    )
    browser: bool = Field(
        default=True,
        description="`swell up`, `swell demo` and `swell open` open a browser where they run in a "
        "terminal of a desktop.",
    )


class LogSettings(_Group):
    """What the services tell on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level to log."
    )
    json_lines: bool = Field(default=False, description="Log one JSON object per line.")
    requests: Literal["off", "debug", "info"] = Field(
        default="debug",
        description="Level of the line for each finished HTTP request; `off` for none. The "
        "line has no query, headers or body.",
    )


class TelemetrySettings(_Group):
    """Traces, by OpenTelemetry; needs `swell[telemetry]`."""

    endpoint: str = Field(
        default="",
        description="Collector for traces, OTLP over HTTP, such as `http://127.0.0.1:4318`;"
        " empty for no traces.",
    )
    sample: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of requests to trace if the client's `traceparent` does not decide.",
    )
    in_tasks: bool = Field(
        default=False, description="Whether the JSON of a traced task contains its `trace_id`."
    )


class Settings(_Group):
    """Every setting."""

    data_dir: Path = Field(
        default=Path(".swell"), description="Data folder of the embedded store, files and caches."
    )
    pools: Annotated[
        Mapping[str, PoolTable], BeforeValidator(_json), AfterValidator(_pool_names)
    ] = Field(
        default={},
        description="Pools of workers that the autoscaler launches on demand, by name: "
        "`[pools.NAME]` in the file, JSON in the environment.",
    )
    server: ServerSettings = ServerSettings()
    limits: LimitsSettings = LimitsSettings()
    admission: AdmissionSettings = AdmissionSettings()
    store: StoreSettings = StoreSettings()
    broker: BrokerSettings = BrokerSettings()
    bus: BusSettings = BusSettings()
    objects: ObjectsSettings = ObjectsSettings()
    weights: WeightsSettings = WeightsSettings()
    retention: RetentionSettings = RetentionSettings()
    delivery: DeliverySettings = DeliverySettings()
    webhooks: WebhooksSettings = WebhooksSettings()
    worker: WorkerSettings = WorkerSettings()
    pool: PoolSettings = PoolSettings()
    autoscale: AutoscaleSettings = AutoscaleSettings()
    prices: PricesSettings = PricesSettings()
    costs: CostsSettings = CostsSettings()
    client: ClientSettings = ClientSettings()
    log: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting."""

    key: str
    default: Any
    description: str
    is_secret: bool
    #: What it may hold, for people, such as `integer`.
    kind: str

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return _variable(self.key)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each came from."""

    settings: Settings
    #: Dotted key → `flag`, `environment (NAME)`, the file's path, or `default`.
    origins: Mapping[str, str]
    #: Unknown variables that were ignored, with suggestions.
    warnings: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """Return every setting by its key, JSON-ready; a secret that is set as `********`.

        So are users and passwords in URLs.
        """
        plain = self.settings.model_dump(mode="json")
        found = {each.key: _dig(plain, each.key) for each in describe()}
        return {key: _without_secrets(value) for key, value in found.items()}


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    origin: str


def describe() -> list[Setting]:
    """Return every setting, in the order of the reference."""
    return list(_walk(Settings, ""))


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path = Path(),
) -> Loaded:
    """Return the settings of this call.

    Args:
        flags: Dotted key → value; None stands for a flag that was not given.
        config: The file to read instead of `swell.toml` in `folder`; it must exist.
        environment: Variables; None for the process's own.
        folder: Where `swell.toml` is looked for.

    Raises:
        UnknownSetting: A flag or a key of the file does not exist; the text suggests one that does.
        InvalidRequest: A value is not allowed, or a file cannot be read.
    """
    variables = os.environ if environment is None else environment
    given: dict[str, _Given] = {}
    given |= _from_file(_config_path(config, variables, folder))
    given |= _from_environment(variables)
    given |= {
        key: _Given(value, "flag") for key, value in (flags or {}).items() if value is not None
    }
    known = {each.key for each in describe()}
    warnings = []
    for key, each in list(given.items()):
        if key in known:
            continue
        if each.origin.startswith(_ENVIRONMENT):
            # Other programs may use the prefix.
            warnings.append(
                f"{_variable(key)} is ignored: no such setting{_hint(key, known, _variable)}"
            )
            del given[key]
        else:
            raise UnknownSetting(f"there is no setting {key!r} ({each.origin}){_hint(key, known)}")
    tree: dict[str, Any] = {}
    for key, each in given.items():
        group, _, name = key.rpartition(".")
        (tree.setdefault(group, {}) if group else tree)[name] = each.value
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise _invalid(error, given) from error
    origins = {key: given[key].origin if key in given else "default" for key in sorted(known)}
    return Loaded(settings=settings, origins=origins, warnings=tuple(warnings))


def texts_of(settings: Settings) -> dict[str, str]:
    """Return the settings that have a value as texts that `load` takes, but no secrets."""
    plain = settings.model_dump(mode="json")
    known = ((each.key, _dig(plain, each.key)) for each in describe() if not each.is_secret)
    return {key: _text(value) for key, value in known if value is not None}


def environment_of(flags: Mapping[str, str]) -> dict[str, str]:
    """Return settings as environment variables for a process that we start."""
    variables = {each.key: each.variable for each in describe()}
    return {variables[key]: value for key, value in flags.items()}


def hide_secrets(text: str) -> str:
    """Return a text without keys, tokens, signatures of URLs, and users and passwords in them."""
    return _SECRETS.sub(_HIDDEN, text)


def process_environment(*, without_settings: bool = False) -> dict[str, str]:
    """Return the environment of this process, perhaps without Swell's own variables."""
    return {
        name: value
        for name, value in os.environ.items()
        if not (without_settings and name.startswith(_PREFIX))
    }


def argos_folders() -> tuple[Path, ...]:
    """Return where packages of Argos Translate lie, the folder for new ones first.

    Source: argostranslate 1.11, `settings.py`; its own tools find and bring the same packages.
    """
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    named = os.environ.get("ARGOS_PACKAGES_DIR")
    return ((Path(named),) if named else ()) + (Path(data) / "argos-translate" / "packages",)


def state_folder() -> Path:
    """Return where this user's Swells keep what they share, whatever folder they run in.

    Raises:
        RuntimeError: The user has no home.

    Source:
        XDG Base Directory Specification 0.8: `XDG_STATE_HOME`, unless it is relative.
    """
    told = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (told if told.is_absolute() else Path.home() / ".local" / "state") / "swell"


def has_desktop() -> bool:
    """Whether a browser can be shown to the user of this process."""
    has_display = sys.platform == "darwin" or any(map(os.environ.get, _DISPLAYS))
    return has_display and not any(map(os.environ.get, ("CI", "SSH_CONNECTION")))


def notify_socket() -> str | None:
    """Return where whoever manages services wants to be told that this one is ready, if he does.

    Source: sd_notify(3); a leading `@` stands for a name that is no file.
    """
    return os.environ.get("NOTIFY_SOCKET") or None


def quieten_libraries() -> None:
    """Have what models import keep bars and advice to itself; whoever set it otherwise has it so.

    It tells authors of the libraries' callers what to change, and people who serve models nothing.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def replace_environment(environment: Mapping[str, str]) -> None:
    """Give this process another environment, as a fork has it that works for somebody else."""
    os.environ.clear()
    os.environ.update(environment)


def _config_path(config: Path | None, environment: Mapping[str, str], folder: Path) -> Path | None:
    if config is None and environment.get("SWELL_CONFIG"):
        config = Path(environment["SWELL_CONFIG"])
    if config is not None:
        if not config.is_file():
            raise InvalidRequest(f"there is no file {config}: check --config and SWELL_CONFIG")
        return config
    path = folder / "swell.toml"
    return path if path.is_file() else None


def _from_file(path: Path | None) -> dict[str, _Given]:
    if path is None:
        return {}
    try:
        tree = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from error
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    given: dict[str, _Given] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and name != "pools":
            given |= {f"{name}.{inner}": _Given(v, str(path)) for inner, v in value.items()}
        else:
            given[name] = _Given(value, str(path))
    return given


def _from_environment(environment: Mapping[str, str]) -> dict[str, _Given]:
    secrets = {each.key for each in describe() if each.is_secret}
    given: dict[str, _Given] = {}
    for name in sorted(environment, key=lambda name: (name not in _ALIASES, name)):
        is_ours = name.startswith(_PREFIX) and name not in _RESERVED
        if not is_ours and name not in _ALIASES:
            continue
        origin = f"{_ENVIRONMENT}({name})"
        key = _key_of(name)
        secret_key = _key_of(name.removesuffix("_FILE"))
        if name.endswith("_FILE") and secret_key in secrets:
            given[secret_key] = _Given(_read_secret(Path(environment[name]), name), origin)
        else:
            given[key] = _Given(environment[name], origin)
    return given


def _key_of(variable: str) -> str:
    return _ALIASES.get(variable) or variable.removeprefix(_PREFIX).lower().replace("__", ".")


def _read_secret(path: Path, variable: str) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{variable} names {path}, which cannot be read: {error}") from error


def _variable(key: str) -> str:
    return _PREFIX + key.upper().replace(".", "__")


def _hint(key: str, known: set[str], shown: Callable[[str], str] = str) -> str:
    # `prot` alone is close to `server.port`'s last part, but not to the whole.
    last_parts = {each.rpartition(".")[2]: each for each in known}
    close = difflib.get_close_matches(key, known, n=1) or [
        last_parts[part]
        for part in difflib.get_close_matches(key.rpartition(".")[2], last_parts, n=1)
    ]
    if close:
        return f": did you mean {shown(close[0])!r}?"
    return ": `swell config` lists them all"


def _invalid(error: ValidationError, given: Mapping[str, _Given]) -> InvalidRequest:
    lines = []
    for each in error.errors():
        key = ".".join(str(part) for part in each["loc"])
        if each["type"] == "value_error" and key in Settings.model_fields and key != "pools":
            # Two settings that do not go together: the text names both.
            lines.append(str(each["ctx"]["error"]))
            continue
        source = given.get(key) or given.get(key.partition(".")[0])
        origin = f" ({source.origin})" if source is not None else ""
        if each["type"] == "extra_forbidden" and key.startswith("pools."):
            hint = _hint(key.rpartition(".")[2], set(PoolTable.model_fields))
            lines.append(f"{key}{origin}: a pool has no such setting{hint}")
            continue
        # A text of our own says all.
        lines.append(f"{key}{origin}: {each['msg'].removeprefix('Value error, ')}")
    return InvalidRequest("; ".join(lines))


def _walk(group: type[BaseModel], prefix: str) -> Iterator[Setting]:
    for name, field in group.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _walk(inner, f"{name}.")
            continue
        is_secret = inner is SecretStr
        yield Setting(
            key=prefix + name,
            default="" if is_secret else _plain(field.default),
            description=field.description or "",
            is_secret=is_secret,
            kind=_kind(field),
        )


def _kind(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, getattr(annotation, "__args__", ())))
    if get_origin(annotation) is tuple:
        return "list of words"
    names: dict[Any, str] = {
        int: "integer",
        float: "number",
        bool: "true or false",
        str: "text",
        Path: "path",
        int | None: "integer",
        float | None: "number",
        Mapping[str, RetentionClass]: "tables by name",
        Mapping[str, PoolTable]: "tables by name",
        Mapping[str, Any]: "table",
        Mapping[str, int]: "table",
        Mapping[str, str]: "table",
        SecretStr: "secret",
    }
    return names.get(annotation, "text")


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(each) for each in value]
    if not isinstance(value, str):
        return value
    user = _USER.match(value)
    return hide_secrets(f"{user[1]}{_HIDDEN}{value[user.end() :]}" if user else value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _dig(tree: Mapping[str, Any], key: str) -> Any:
    group, _, name = key.rpartition(".")
    return tree[group][name] if group else tree[name]
