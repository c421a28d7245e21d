"""Records of models, workers, API keys and the audit log (`swell.db.registry`)."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from swell.core.billing.ledger import LedgerEntry
from swell.core.clock import Moment
from swell.core.pipeline_stages import Pipeline
from swell.core.startup_phases import Startup

#: How long workers that have gone stay listed.
GONE_WORKERS_TTL: Final = timedelta(days=1)

#: No sample costs more with others, in millionths of a dollar.
MOST_PRICE_MICROS: Final = 1_000_000_000


class Scope(StrEnum):
    """What a key may do; `admin` may do everything."""

    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"


class KeyLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a key; null for the settings' value, 0 for no limit."""

    #: Requests per second on average, and how many may come at once.
    rate_per_s: float | None = None
    burst: int | None = None
    #: Tasks that have not ended.
    tasks_in_flight: int | None = None
    tasks_per_day: int | None = None
    #: Event streams open at one backend process.
    streams: int | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key. Its secret is shown once and never stored."""

    id: str
    name: str
    #: SHA-256 of the secret.
    digest: bytes
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
    #: The key does not work from then on.
    expires_at: datetime | None = None
    #: SHA-256 of the secret before the last rotation, which works until `old_until`.
    old_digest: bytes | None = None
    old_until: datetime | None = None
    #: Pools, and models (`owner/name` or `owner/*`), that workers with this key may register; empty
    #: for any.
    pools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    #: Priority classes that it may use, the default one first; empty for any.
    classes: tuple[str, ...] = ()
    #: Set by `Registry.touch_keys` only; None if it was never used.
    used_at: datetime | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An action of an operator, or an attempt, in the audit log."""

    #: Grows with time.
    id: str
    at: Moment
    #: The key of the operator; empty for what Swell did on its own.
    key_id: str = ""
    key_name: str = ""
    address: Annotated[str, Meta(description="address of the caller, or of the proxy")] = ""
    action: Annotated[str, Meta(description="such as `keys.create`")]
    target: Annotated[str, Meta(description="id of the affected object; empty for none")] = ""
    status: Annotated[int, Meta(description="HTTP status of the answer")]
    #: More for people, without secrets.
    detail: str = ""
    request_id: str = ""


class LedgerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` asks for the next page and is None at the end."""

    entries: list[LedgerEntry]
    cursor: int | None


class Speed(msgspec.Struct, frozen=True):
    """Run time of a model, as its author measured it.

    Args:
        device: Such as `one core of an Apple M2` or `NVIDIA L4`.
        what: Such as `512 x 512, 12 steps`.
        took_s: Seconds.
        measured_on: Day, such as `2026-11-25`; empty if unknown.
    """

    device: str
    what: str
    took_s: float
    measured_on: str = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, a sound or a text on a card."""

    #: Description, or the prompt.
    caption: str
    content_type: str
    #: SHA-256 of its content, in hex.
    digest: str
    #: Of a picture, in px; otherwise 0.
    width: int = 0
    height: int = 0
    #: Of a text: the text; otherwise empty.
    text: str = ""
    #: Content of the file, on the way to the backend, which stores it separately.
    data: bytes = b""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """Public description of one version of a model."""

    #: `owner/name`.
    name: str
    version: str
    #: Markdown; the model's docstring.
    description: str = ""
    #: JSON Schema (2020-12) of the input and of the output.
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] = {}
    #: Inputs that work, for docs, checks and warm-up.
    examples: list[dict[str, Any]] = []
    #: `trial`, `canary`, `live` or `retired`.
    stage: str = "live"
    #: Input fields that must have equal values in a batch.
    batch_by: tuple[str, ...] = ()
    max_batch: int = 1
    #: Of a model that draws in steps: rows of each step, and the most rows; otherwise 0.
    step_bucket: int = 0
    step_rows: int = 0
    #: Of code and weights: an SPDX expression, or a text. Empty if unknown.
    licence: str = ""
    #: Markdown: authors and attributions.
    credits: str = ""
    #: Memory on the device, as declared, or as measured by the first worker; 0 if unknown.
    memory_bytes: int = 0
    #: Price of a sample without device time, such as of an API, in millionths of a dollar.
    price_micros: int = 0
    speed: list[Speed] = []
    samples: list[Sample] = []
    #: Stages of a pipeline. No worker has the pipeline itself; workers have the models of stages.
    pipeline: Pipeline | None = None
    registered_at: datetime | None = None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A registered worker."""

    id: str
    name: str
    pool: str
    #: Model name → version.
    models: dict[str, str]
    #: Most tasks that it may hold at once.
    slots: int = 1
    device: str = "cpu"
    host: str = ""
    pid: int = 0
    #: ID of its `swell.core.provider.Instance`; empty for a worker that was started by hand.
    instance: str = ""
    registered_at: datetime
    seen_at: datetime
    #: Version of Swell; empty if unknown.
    release: str = ""
    #: How far its clock was ahead of the backend's when it registered, in seconds, less the time on
    #: the way.
    clock_ahead_s: float = 0.0
    #: Whether it must finish its tasks and stop.
    draining: bool = False
    gone_at: datetime | None = None
    #: The key that registered it; empty if unknown.
    key_id: str = ""
    #: Account of its time: the ID of its cold start or instance; empty for its own ID.
    account: str = ""
    #: When its machine or process was requested, and when that ended; None if unknown.
    launched_at: datetime | None = None
    ended_at: datetime | None = None
    #: Whether it announced its end.
    said_goodbye: bool = False
    #: Its price at its first registration, in millionths of a dollar per hour and for the launch,
    #: and the least time that is billed, in seconds.
    hour_micros: int | None = None
    launch_micros: int = 0
    least_billed_s: float = 0.0
    #: Highest `price_micros` of the models that it registered, in millionths of a dollar.
    dearest_micros: int = 0


class KeptStartup(msgspec.Struct, frozen=True):
    """The result of `Registry.put_startup`.

    Args:
        before: The stored startup; None if there was none, or it was deleted.
        charged: The new entry of the ledger.
    """

    before: Startup | None
    charged: LedgerEntry | None = None
