"""Records of models, workers, API keys and the audit log (`swell.db.registry`)."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec

from swell.money.ledger import LedgerEntry
from swell.phases import Startup
from swell.stages import Pipeline

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
    """How much a key may ask; None leaves it to the settings, 0 means no limit."""

    #: Requests per second on average, and how many may come at once.
    rate_per_s: float | None = None
    burst: int | None = None
    #: Tasks that have not ended.
    tasks_in_flight: int | None = None
    tasks_per_day: int | None = None
    #: Event streams open at one backend process.
    streams: int | None = None


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: the secret itself is shown once and never stored."""

    id: str
    name: str
    #: SHA-256 of the secret.
    digest: bytes
    scopes: frozenset[Scope]
    created_at: datetime
    revoked_at: datetime | None = None
    #: It no longer works from then on.
    expires_at: datetime | None = None
    #: SHA-256 of the secret before the last rotation, which works until then.
    old_digest: bytes | None = None
    old_until: datetime | None = None
    #: Of a key for workers: the only pools, and the only models (`owner/name` or `owner/*`), that
    #: they may register; any where it is empty.
    pools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    limits: KeyLimits = KeyLimits()
    #: All priority classes that it may use, the usual one first; any where it is empty.
    classes: tuple[str, ...] = ()
    #: Kept by `Registry.touch_keys` alone; None if it was never used.
    used_at: datetime | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that an operator did, or tried to do."""

    #: Grows with time.
    id: str
    at: datetime
    #: Who: the key by id and name, and the address it was used from.
    key_id: str = ""
    key_name: str = ""
    address: str = ""
    #: What, such as `keys.create`, and to what.
    action: str
    target: str = ""
    #: HTTP status of the answer.
    status: int
    #: More in words, without secrets.
    detail: str = ""
    request_id: str = ""


class LedgerPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` asks for the next page and is None at the end."""

    entries: list[LedgerEntry]
    cursor: int | None


class Spend(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken from an allowance since it was last told."""

    name: str
    #: How long the allowance takes to give as much, in seconds; >= 0.
    cost_s: float


class Speed(msgspec.Struct, frozen=True):
    """How long a model took, as its author measured it.

    Args:
        device: Such as `one core of an Apple M2` or `NVIDIA L4`.
        what: Such as `512 x 512, 12 steps`.
        took_s: Seconds.
        measured_on: Day, such as `2026-11-25`; empty where it is not known.
    """

    device: str
    what: str
    took_s: float
    measured_on: str = ""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A picture, a sound or a text on a card."""

    #: What it shows, or what was asked for.
    caption: str
    content_type: str
    #: SHA-256 of its content, in hex.
    digest: str
    #: Of a picture, in px; 0 of anything else.
    width: int = 0
    height: int = 0
    #: A text itself; empty of anything else.
    text: str = ""
    #: Its content on the way to the backend, which keeps it apart from the card.
    data: bytes = b""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """What the world may know of one version of a model."""

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
    #: Names of input fields whose equal values let inputs share a batch.
    batch_by: tuple[str, ...] = ()
    max_batch: int = 1
    #: Rows that each step has, and may have, where the model draws in steps; 0 where it does not.
    step_bucket: int = 0
    step_rows: int = 0
    #: Of the code and of the weights: an SPDX expression, or words. Empty where it was not said.
    licence: str = ""
    #: Markdown: who made what it stands on, and what to name.
    credits: str = ""
    #: What it takes of its device, as declared, or as measured where it was loaded first; 0 where
    #: nothing is known.
    memory_bytes: int = 0
    #: What a sample costs beside the device's time, in millionths of a dollar, such as with an API.
    price_micros: int = 0
    speed: list[Speed] = []
    samples: list[Sample] = []
    #: What it is made of, where it is a pipeline: no worker has it, but the models of its stages.
    pipeline: Pipeline | None = None
    registered_at: datetime | None = None


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the backend knows it."""

    id: str
    name: str
    pool: str
    #: Model name → version.
    models: dict[str, str]
    #: How many tasks it may hold at once.
    slots: int = 1
    device: str = "cpu"
    host: str = ""
    pid: int = 0
    #: Its `swell.provider.Instance` by id; empty for a worker that somebody has started.
    instance: str = ""
    registered_at: datetime
    seen_at: datetime
    #: Version of Swell; empty where it did not say.
    release: str = ""
    #: How far its clock was ahead of the backend's when it registered, in seconds, less the time on
    #: the way.
    clock_ahead_s: float = 0.0
    #: Told to finish and go.
    draining: bool = False
    gone_at: datetime | None = None
    #: Of the key that registered it; empty where that is not known.
    key_id: str = ""
    #: To what its time is charged: the id of its cold start, or its instance; empty for its own id.
    account: str = ""
    #: When its machine or process was asked for, and when that ended; None where nobody told.
    launched_at: datetime | None = None
    ended_at: datetime | None = None
    #: Whether it took its leave.
    said_goodbye: bool = False
    #: Its price when it registered first, in millionths of a dollar an hour and for the launch, and
    #: for how long it is paid at least, in seconds.
    hour_micros: int | None = None
    launch_micros: int = 0
    least_billed_s: float = 0.0
    #: What a sample of one of its models costs with others at most, by the cards that it registered
    #: with, in millionths of a dollar.
    dearest_micros: int = 0


class KeptStartup(msgspec.Struct, frozen=True):
    """The result of `Registry.put_startup`.

    Args:
        before: The stored startup; None if there was none, or it was deleted.
        charged: The new entry of the ledger.
    """

    before: Startup | None
    charged: LedgerEntry | None = None
