"""Opens the exporter of traces."""

import os
import socket

from swell.bootstrap.extras import installed
from swell.core.telemetry import Tracer
from swell.settings.load import Settings


def open_tracer(settings: Settings, service: str, instance: str = "") -> Tracer | None:
    """Return the exporter of spans; None if the settings name no collector.

    Args:
        settings: The URL of the collector.
        service: Name of this kind of process, such as `swell-backend`.
        instance: Name of this process; empty for host name and process id.

    Raises:
        Unusable: The extra is not installed.
        InvalidRequest: The endpoint is not an HTTP URL.
    """
    chosen = settings.telemetry
    if not chosen.endpoint:
        return None
    with installed("telemetry", "telemetry.endpoint"):
        from swell.net.otlp_exporter import OtlpTracer

    instance = instance or f"{socket.gethostname()}-{os.getpid()}"
    return OtlpTracer(chosen.endpoint, sample=chosen.sample, service=service, instance=instance)


async def collector_problem(settings: Settings) -> str:
    """Return why the collector refuses spans; empty if it accepts them, or if there is none.

    Raises:
        Unusable: The extra is not installed.
        InvalidRequest: The endpoint is not an HTTP URL.
    """
    if not settings.telemetry.endpoint:
        return ""
    with installed("telemetry", "telemetry.endpoint"):
        from swell.net.otlp_exporter import why_refused
    return await why_refused(settings.telemetry.endpoint)
