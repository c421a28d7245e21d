"""Starts the workers of `swell up` on this machine."""

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from swell.autoscaler.keeper import Keeper
from swell.bootstrap.data_folder import self_signed_cert
from swell.bootstrap.environments import environments_of
from swell.core.clock import Clock
from swell.core.provider import Instance, LaunchRequest
from swell.providers.process import ProcessProvider
from swell.runtime.pep723 import parted
from swell.settings.environment import process_environment
from swell.settings.load import Settings, environment_of, secret_keys, values_of

#: Settings that workers of this machine inherit: groups, and single ones.
_INHERITED: Final = ("worker", "log", "telemetry", "data_dir")

#: Exceptions: facts of one process, its name and start, and what only `swell models pull` uses.
_NOT_INHERITED: Final = (
    "worker.name",
    "worker.instance",
    "worker.hub_url",
    "worker.hub_token",
    "worker.health_file",
    "worker.asked_at",
    "worker.pull_s",
)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of `swell up`."""

    provider: ProcessProvider
    #: One for the models that share a process, and one for each environment of other models.
    keepers: Sequence[Keeper]
    #: Models that wait for their environment; making it may take minutes.
    making: Sequence[str] = ()

    async def run(self) -> None:
        """Start workers whenever some are missing, until `drain` is called."""
        if not self.keepers:
            await asyncio.Event().wait()
        await asyncio.gather(*(keeper.run() for keeper in self.keepers))

    async def drain(self, grace_s: float) -> list[str]:
        """Start no more workers, ask all to end, and return their ids. A repetition hurries."""
        return [each for keeper in self.keepers for each in await keeper.drain(grace_s)]


def build_fleet(
    settings: Settings, clock: Clock, *, url: str, token: str, on_end: Callable[[Instance], None]
) -> Fleet:
    """Return the local workers of one machine, not yet started.

    Models with a separate environment get separate workers, as many as the others.

    Args:
        settings: The number of workers, and their models.
        clock: For the keeper's waits.
        url: URL of the backend.
        token: API key with the scope `worker`.
        on_end: Called for each worker that ended without being asked to.
    """
    provider = ProcessProvider(
        clock,
        settings.data_dir / "logs",
        process_environment(without_settings=True),
        boot_delay_s=settings.pool.boot_delay_s,
    )
    parts = parted(settings.worker.models) if settings.pool.workers else []
    environments = environments_of(settings)
    making = [ref for part in parts if not environments.is_there(part.needs) for ref in part.refs]
    keepers = []
    for number, part in enumerate(parts):
        # The backend sees one pool; here each part is counted by itself.
        name = f"{settings.worker.pool}-{number}" if number else settings.worker.pool
        request = LaunchRequest(
            pool=name,
            command=(sys.executable, "-m", "swell", "worker"),
            environment=worker_environment(settings, part.refs, url, token),
        )
        keepers.append(
            Keeper(
                provider,
                wanted=settings.pool.workers,
                request=request,
                clock=clock,
                on_end=on_end,
            )
        )
    return Fleet(provider=provider, keepers=keepers, making=making)


def worker_environment(
    settings: Settings, refs: Sequence[str], url: str, token: str
) -> Mapping[str, str]:
    """Return the environment variables of a worker on this machine.

    Args:
        settings: Settings of the backend; workers inherit many.
        refs: The models that it serves.
        url: URL of the backend.
        token: API key with the scope `worker`.
    """
    worker, server = settings.worker, settings.server
    secrets = secret_keys()
    inherited = {
        key: value
        for key, value in values_of(settings).items()
        if key.partition(".")[0] in _INHERITED and key not in _NOT_INHERITED and key not in secrets
    }
    made = self_signed_cert(settings) if server.tls == "self-signed" else None
    cert = server.tls_cert or made
    ca_file = worker.ca_file or (cert and cert.absolute())
    own: dict[str, Any] = {
        "worker.ca_file": ca_file and str(ca_file),
        "worker.url": url,
        "worker.token": token,
        "worker.models": list(refs),
        # `refs` includes the added models.
        "worker.added": False,
        "worker.optional": [ref for ref in refs if ref in worker.optional],
        # Workers can read every file that clients may upload here.
        "worker.max_file_bytes": max(worker.max_file_bytes, server.max_upload_bytes),
    }
    return environment_of(inherited | own)
