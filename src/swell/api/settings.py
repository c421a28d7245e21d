"""What the HTTP service needs: contracts to talk to, and numbers to keep to."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Literal

from swell.addresses.urls import UrlPolicy
from swell.api.facades.paths import FACADE_NAMES
from swell.broker import Broker, Publisher
from swell.bus import Bus
from swell.clock import Clock
from swell.db.deliveries import Outbox
from swell.db.registry import Registry
from swell.objects import Objects
from swell.registry import KeyLimits
from swell.sdk.pipeline_cards import Declared
from swell.sdk.style_presets import Style
from swell.signing import SigningSecrets
from swell.store import Store
from swell.telemetry import Tracer
from swell.webhooks.schedule import SCHEDULE_S
from swell.weights.store import WeightStore

#: A hook of start-up or shut-down.
Hook = Callable[[], Awaitable[None]]


def _nothing_launchable() -> Collection[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Retention:
    """For how long tasks of some models are kept after their end, in seconds; None for ever."""

    #: None for all that no other names.
    models: tuple[str, ...] | None = None
    inputs_s: float | None = None
    outputs_s: float | None = None
    tasks_s: float | None = None


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """What is sent to URLs that callers name, when, and how much at once."""

    #: Which URLs callers may name.
    urls: UrlPolicy = field(default_factory=lambda: UrlPolicy(group="webhooks"))
    #: Waits before all attempts but the first, in seconds.
    schedule_s: Sequence[float] = SCHEDULE_S
    #: An attempt that takes longer has failed, in seconds.
    timeout_s: float = 20.0
    #: Attempts under way at once (see `swell.webhooks.room`), and for one receiver.
    at_once: int = 1536
    per_receiver: int = 8
    #: For how long it is known what became of deliveries, in seconds; None for ever.
    log_s: float | None = 30 * 86400.0
    #: Standing endpoints that one key may have.
    endpoints: int = 50


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Limits and periods of the HTTP service."""

    #: Version told by the API's description.
    version: str = field(default_factory=partial(version_of, "swell"))
    #: Where clients reach the service, such as `https://swell.example`; None takes the request's.
    public_url: str | None = None
    #: Largest JSON body.
    max_body_bytes: int = 10 * 1024 * 1024
    #: Largest file that a client may upload.
    max_upload_bytes: int = 100 * 1024 * 1024
    #: Largest file that a worker may deliver.
    max_artifact_bytes: int = 2 * 1024 * 1024 * 1024
    #: How long a lease lasts unless extended.
    lease_s: float = 30.0
    #: How often a worker that holds something must report.
    heartbeat_s: float = 10.0
    #: The longest wait of a worker's lease call.
    max_wait_s: float = 20.0
    #: The longest `Prefer: wait`.
    max_prefer_s: float = 60.0
    #: A worker not heard of for longer cannot be counted on.
    alive_s: float = 60.0
    #: How long a signed URL of an output or an upload is good.
    signed_url_s: float = 3600.0
    #: How often an idle event stream gets a comment, so that proxies keep it open.
    keepalive_s: float = 15.0
    #: How often waiting streams are told their position anew.
    position_every_s: float = 3.0
    #: How many waiting streams are told at most each time.
    position_streams: int = 200
    #: Names that requests may call the service by, with that of `public_url`; none for any.
    hosts: tuple[str, ...] = ()
    #: Origins of pages that may use the service from a browser; `*` for all.
    cors_origins: tuple[str, ...] = ()
    #: APIs of others that are spoken too (see `swell.api.facades`).
    facades: tuple[str, ...] = FACADE_NAMES
    #: What their clients call models → which ones are meant; `*` for any other name.
    model_aliases: Mapping[str, str] = field(default_factory=dict)
    #: What may be uploaded, by content.
    upload_types: tuple[str, ...] = ("*/*",)
    #: Of keys that have none of their own; operators' have none.
    limits: KeyLimits = field(default_factory=KeyLimits)
    #: Tasks that a visitor of a shared page may run without a key; 0 for none.
    guest_tasks: int = 0
    #: Name of a priority class → its priority.
    classes: Mapping[str, int] = field(default_factory=lambda: {"paid": 1, "free": 5})
    #: What a sample costs its key where its worker's pool has no price, in millionths of a dollar.
    sample_micros: int = 0
    #: How long a key is remembered without asking the registry: a revoked one may work so long.
    key_cache_s: float = 5.0
    #: How important the log's line about each request is; `off` for none.
    log_requests: Literal["off", "debug", "info"] = "off"
    #: Whether a task's JSON tells its trace.
    shows_trace: bool = False
    #: Whether files that lie in a bucket come through the backend, or a redirect leads to them.
    serve_files: Literal["through", "redirect"] = "through"
    #: Of each model at most one.
    retention: tuple[Retention, ...] = ()
    #: What people may choose by a picture.
    styles: tuple[Style, ...] = ()
    #: Folder of the web app as it was built; None for none.
    web_app: Path | None = None
    #: An upload that no task uses goes after so long; None for never.
    uploads_s: float | None = None
    #: Pool → what an hour of one of its workers costs, in millionths of a dollar.
    hour_micros: Mapping[str, int] = field(default_factory=dict)
    #: Pool → what each launch costs besides, and for how long one is paid at least, in seconds.
    launch_micros: Mapping[str, int] = field(default_factory=dict)
    least_billed_s: Mapping[str, float] = field(default_factory=dict)
    #: What one picture costs elsewhere, to compare with; None where that is not known.
    api_image_micros: int | None = None
    #: What all pools may cost in a day and in a month (UTC), in millionths of a dollar.
    budget_day_micros: int | None = None
    budget_month_micros: int | None = None
    #: Models combined: what the settings declare.
    pipelines: tuple[Declared, ...] = ()
    #: Idle time is written so often, in seconds.
    settle_every_s: float = 300.0
    #: An external queue service is compared with the database this often, in seconds.
    repair_every_s: float = 10.0
    #: The longest pause between two looks of the sweeper.
    sweep_every_s: float = 0.25
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)

    @property
    def lost_s(self) -> float:
        """A worker that was silent for longer is shown as lost, in seconds."""
        return 3 * self.heartbeat_s


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything that the HTTP service stands on; wiring fills it."""

    store: Store
    broker: Broker
    bus: Bus
    objects: Objects
    registry: Registry
    clock: Clock
    settings: ApiSettings = field(default_factory=ApiSettings)
    #: Names of models for which a worker could be started.
    launchable: Callable[[], Collection[str]] = _nothing_launchable
    #: Sign URLs of files; None where they cannot be changed while it runs.
    signing: SigningSecrets | None = None
    #: Where weights lie that were pushed; None for below `weights` in the objects.
    weights: WeightStore | None = None
    #: Where spans go; None where nobody wants traces.
    tracer: Tracer | None = None
    #: Sends task IDs to an external queue service; None without one.
    publisher: Publisher | None = None
    #: What is to be told of tasks to URLs; None where nothing is, and webhooks are refused.
    outbox: Outbox | None = None
    #: Whether other backends may work on the same store.
    is_shared: bool = False
    #: Adds the numbers of other processes on the same port to those of this one, in the text
    #: format of Prometheus.
    together: Callable[[bytes], bytes] | None = None
    #: Awaited before the first request, in order.
    on_start: tuple[Hook, ...] = ()
    #: Awaited after the last request, in order; the contracts are closed by whoever made them.
    on_stop: tuple[Hook, ...] = ()
