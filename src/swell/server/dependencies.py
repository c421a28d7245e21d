"""What the HTTP service uses: adapters and settings."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path

from pydantic import ConfigDict, Field

from swell.core.clock import Clock
from swell.core.telemetry import Tracer
from swell.db.registry import Registry
from swell.db.task_store import Store
from swell.db.webhook_deliveries import Outbox
from swell.objects.object_store import Objects
from swell.objects.url_signing import SigningSecrets
from swell.pubsub.local_bus import MemoryBus
from swell.queues.queue_publisher import QueuePublisher
from swell.queues.table_broker import Broker
from swell.sdk.pipeline_cards import Declared
from swell.sdk.style_presets import Style
from swell.settings.load import Settings
from swell.weights.store import WeightStore

#: A hook of start-up or shut-down.
Hook = Callable[[], Awaitable[None]]


class ApiSettings(Settings):
    """Settings of the HTTP service, and what files that they name contain.

    Attributes:
        version: Version in the description of the API.
        pipelines: Pipelines of `server.pipelines`.
        styles: Styles of `server.styles`.
        web_app: Folder of the built web app; None for none.
        hour_micros: Pool → price of one worker per hour, in millionths of a dollar.
        launch_micros: Pool → price of each launch, in addition, in millionths of a dollar.
        least_billed_s: Pool → shortest billed time of a worker, in seconds.
        alive_s: A worker without heartbeats for this time does not count for estimates, in seconds.
        position_every_s: How often waiting streams get their position, in seconds.
        position_streams: How many waiting streams get it at most each time.
        key_cache_s: How long a key is cached, in seconds: a revoked key may work for this time.
        settle_every_s: How often idle time is written, in seconds.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    version: str = Field(default_factory=partial(version_of, "swell"))
    pipelines: tuple[Declared, ...] = ()
    styles: tuple[Style, ...] = ()
    web_app: Path | None = None
    hour_micros: Mapping[str, int] = {}
    launch_micros: Mapping[str, int] = {}
    least_billed_s: Mapping[str, float] = {}
    alive_s: float = 60.0
    position_every_s: float = 3.0
    position_streams: int = 200
    key_cache_s: float = 5.0
    settle_every_s: float = 300.0

    @property
    def lost_s(self) -> float:
        """Time without heartbeats after which a worker is shown as lost, in seconds."""
        return 3 * self.delivery.heartbeat_s

    @property
    def uploads_s(self) -> float | None:
        """Age at which unused uploads are deleted, in seconds; None for never.

        A task can use an upload until its URL expires.
        """
        uploads_s = self.retention.uploads_s
        return None if uploads_s is None else max(uploads_s, self.server.signed_url_s)


@dataclass(frozen=True, slots=True)
class Backend:
    """Everything that the HTTP service uses; see `swell.bootstrap.backend`."""

    store: Store
    broker: Broker
    bus: MemoryBus
    objects: Objects
    registry: Registry
    outbox: Outbox
    clock: Clock
    settings: ApiSettings = field(default_factory=ApiSettings)
    #: Returns the names of models for which a worker can be started.
    launchable: Callable[[], Collection[str]] = tuple
    #: Secrets that sign URLs of files; None if they cannot be rotated.
    signing: SigningSecrets | None = None
    #: Store of pushed weights; None for `weights` in the object store.
    weights: WeightStore | None = None
    #: Exports spans; None without traces.
    tracer: Tracer | None = None
    #: Sends task IDs to an external queue service; None without one.
    publisher: QueuePublisher | None = None
    #: Whether other backends may use the same store.
    is_shared: bool = False
    #: Adds the numbers of other processes on the same port to those of this one, in the text
    #: format of Prometheus.
    together: Callable[[bytes], bytes] | None = None
    #: Awaited before the first request, in order.
    on_start: tuple[Hook, ...] = ()
    #: Awaited after the last request, in order; `close_backend` closes the adapters.
    on_stop: tuple[Hook, ...] = ()
