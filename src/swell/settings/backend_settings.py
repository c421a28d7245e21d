"""Settings of the HTTP service."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from swell.net.origins import (
    host_as_compared,
    media_type_as_compared,
    origin_as_compared,
    service_url,
)
from swell.settings.group import Group, Json, Waits, Words, each_word

Hosts = Annotated[Words, each_word(host_as_compared)]
Origins = Annotated[Words, each_word(origin_as_compared)]
Facade = Literal["replicate", "openai", "fal", "libretranslate"]
MediaTypes = Annotated[Words, each_word(media_type_as_compared)]


class ServerSettings(Group):
    """The HTTP service.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 for any free port.
        processes: Backend processes of `swell serve` that share the port. More than one needs
            PostgreSQL as the store.
        public_url: URL where clients reach the service, such as `https://swell.example`. If empty,
            links use the host of the request.
        tls: `self-signed` serves HTTPS with a generated certificate, kept in `tls` of the data
            folder, for trials; local commands trust it. With `server.tls_cert` the service always
            uses HTTPS.
        tls_cert: Certificate file with its chain, PEM. The service reads it again when it changes.
        tls_key: Private key file of the certificate, PEM, without a password.
        hosts: Host names that requests may use, complete and without a port, in addition to
            `server.public_url`, IP addresses and `localhost`. If neither is set, any host name is
            accepted.
        pipelines: Pipelines to serve: TOML files (`chains.toml`), Python files (`chains.py`), or
            built-in ones (`swell/picture`). A pipeline is available when workers serve all of its
            models. Empty for none.
        styles: Style files for the web app, in TOML with their pictures in the same folder, or
            built-in ones (`swell/picture`). Empty for none.
        cors_origins: Origins of pages that may call the service from a browser, such as
            `https://shop.example`; `*` for all. They need an API key like every client.
        facades: Compatible APIs to serve, each under a path of the same name, for existing clients.
            Empty for none.
        model_aliases: Model names of clients of compatible APIs, mapped to served models: lines
            such as `"gpt-image-1" = "swell/icons"` under `[server.model_aliases]` in the file, JSON
            in the environment. `*` matches every unknown name.
        upload_types: Media types that clients may upload, detected from the first bytes, not from
            the declared type; `*/*` for any. `application/octet-stream` matches unknown bytes.
        max_body_bytes: Largest JSON body, in bytes.
        max_upload_bytes: Largest file that a client may upload, in bytes.
        max_artifact_bytes: Largest file that a worker may deliver, in bytes.
        max_wait_s: Longest `Prefer: wait`, in seconds.
        keepalive_s: Interval of keep-alive comments on an idle event stream, in seconds.
        signed_url_s: How long a signed URL lasts, in seconds.
        head_timeout_s: Longest time from the first byte of a request to the end of its headers, in
            seconds.
        body_timeout_s: Longest pause within a request's body, in seconds.
        drain_s: Time for open requests to finish after SIGTERM, in seconds.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    processes: int = Field(default=1, ge=1, le=256)
    public_url: Annotated[str, AfterValidator(service_url)] | None = None
    tls: Literal["off", "self-signed"] = "off"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    hosts: Hosts = ()
    pipelines: Words = ("swell/picture",)
    styles: Words = ("swell/picture",)
    cors_origins: Origins = ()
    facades: tuple[Facade, ...] = get_args(Facade)
    model_aliases: Annotated[Mapping[str, str], Json] = {}
    upload_types: MediaTypes = (
        "image/*",
        "audio/*",
        "video/*",
        "text/plain",
        "application/json",
        "application/pdf",
        "application/octet-stream",
    )
    max_body_bytes: int = Field(default=10 * 1024**2, ge=1)
    max_upload_bytes: int = Field(default=100 * 1024**2, ge=1)
    max_artifact_bytes: int = Field(default=2 * 1024**3, ge=1)
    max_wait_s: float = Field(default=60.0, ge=0)
    keepalive_s: float = Field(default=15.0, gt=0)
    signed_url_s: float = Field(default=3600.0, gt=0)
    head_timeout_s: float = Field(default=20.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)
    drain_s: float = Field(default=10.0, ge=0)

    @model_validator(mode="after")
    def _fit_together(self) -> "ServerSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError(
                "server.tls_cert and server.tls_key go together: set both, or neither and "
                "server.tls = self-signed"
            )
        return self


def _rate(per_s: float) -> float:
    if 0 < per_s < 1e-5:
        raise ValueError("give at least 0.00001 requests per second, or 0 for no limit")
    return per_s


class LimitsSettings(Group):
    """Limits of keys that were created without limits; keys of operators have none.

    Attributes:
        rate_per_s: Requests per second on average; 0 for no limit, else at least 0.00001.
        burst: Largest burst of requests; unset for two seconds' worth.
        tasks_in_flight: Unfinished tasks at a time; 0 for no limit.
        tasks_per_day: Tasks per day, refilled continuously; 0 for no limit.
        streams: Open event streams at a time on each backend process; 0 for no limit.
        guest_tasks: Tasks that a visitor of a shared page may run without a key; 0 for none.
    """

    rate_per_s: Annotated[float, AfterValidator(_rate)] = Field(default=0.0, ge=0, le=1e6)
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    tasks_in_flight: int = Field(default=0, ge=0)
    tasks_per_day: int = Field(default=0, ge=0)
    streams: int = Field(default=0, ge=0)
    guest_tasks: int = Field(default=0, ge=0, le=10_000)


def _check_classes(classes: Mapping[str, int]) -> Mapping[str, int]:
    for name, priority in classes.items():
        if not name or len(name) > 60 or not name.isprintable() or not 0 <= priority <= 9:
            raise ValueError(
                f"{name!r} = {priority} is no class: write a name of at most 60 letters and a "
                "priority from 0 to 9, such as free = 5"
            )
    return classes


class AdmissionSettings(Group):
    """Priority classes, and prices of samples.

    Attributes:
        classes: Priority classes: name and priority. 1 is normal, higher numbers are less urgent.
            `[admission.classes]` in the file, JSON in the environment.
        sample_micros: Price of one sample (picture) for quotas and credits where the worker's pool
            has no price, in millionths of a dollar.
    """

    classes: Annotated[Mapping[str, int], Json, AfterValidator(_check_classes)] = {
        "paid": 1,
        "free": 5,
    }
    sample_micros: int = Field(default=0, ge=0)


class RetentionClass(Group):
    """How long data of some models is kept; unset for ever.

    Attributes:
        models: The models; each in one class only.
        inputs_s: As `retention.inputs_s`.
        outputs_s: As `retention.outputs_s`.
        tasks_s: As `retention.tasks_s`.
    """

    models: Words = Field(min_length=1)
    inputs_s: float | None = Field(default=None, ge=0)
    outputs_s: float | None = Field(default=None, ge=0)
    tasks_s: float | None = Field(default=None, ge=86_400)


class RetentionSettings(Group):
    """How long data is kept after a task has ended.

    Attributes:
        inputs_s: Time after a task's end until its input and uploads that no other task uses are
            deleted, in seconds. Such a task cannot be retried. Unset to keep them.
        outputs_s: Time after a task's end until its outputs are deleted, in seconds; unset to keep
            them.
        tasks_s: Time after a task's end until its whole record is deleted, in seconds, at least a
            day; unset to keep it.
        uploads_s: Age at which an unused upload is deleted, in seconds, but not before its URL
            expires (`server.signed_url_s`); unset to keep it.
        classes: Separate retention times for some models, by a name of your choice:
            `[retention.classes.NAME]` with `models`, `inputs_s`, `outputs_s` and `tasks_s` in the
            file, JSON in the environment. A class keeps data forever where it sets no time.
    """

    inputs_s: float | None = Field(default=None, ge=0)
    outputs_s: float | None = Field(default=None, ge=0)
    tasks_s: float | None = Field(default=None, ge=86_400)
    uploads_s: float | None = Field(default=86_400.0, ge=0)
    classes: Annotated[Mapping[str, RetentionClass], Json] = {}

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


class DeliverySettings(Group):
    """Leases, retries and deadlines.

    Attributes:
        lease_s: Lease time: a worker that sends no heartbeat for this time loses its tasks, in
            seconds.
        heartbeat_s: Heartbeat interval of a worker that holds a task, in seconds.
        worker_wait_s: Longest long-poll of a worker for tasks, in seconds.
        backoff_base_s: Longest backoff after a task's first failure, in seconds; doubles with each
            failure.
        backoff_cap_s: Longest backoff after any failure of a task, in seconds.
        sweep_every_s: Interval of the check for expired leases and deadlines, in seconds.
    """

    lease_s: float = Field(default=30.0, gt=0)
    heartbeat_s: float = Field(default=10.0, gt=0)
    worker_wait_s: float = Field(default=20.0, ge=0)
    backoff_base_s: float = Field(default=1.0, ge=0)
    backoff_cap_s: float = Field(default=60.0, ge=0)
    sweep_every_s: float = Field(default=0.25, gt=0)

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


class WebhooksSettings(Group):
    """Webhooks.

    Attributes:
        allow_private_urls: Private networks and hosts that webhooks may reach; values as for
            `worker.allow_private_urls`. Callers choose these URLs, so they can reach what the
            backend can reach there.
        url_ports: Ports that webhook URLs may use, or `any`; addresses and hosts in
            `webhooks.allow_private_urls` may use others.
        schedule_s: Wait after each failed attempt, in seconds, plus or minus a tenth. After one
            attempt more than there are waits, the delivery has failed.
        timeout_s: Time for a receiver to answer one attempt, in seconds.
        at_once: Concurrent attempts, one connection each; two thirds at most for one key or one
            host.
        per_receiver: Concurrent attempts to one host of one key, or to one standing endpoint; one
            while it does not answer.
        log_s: Time to keep the record of a finished delivery, in seconds; unset to keep it.
        endpoints: Standing endpoints per key.
    """

    allow_private_urls: Words = ()
    url_ports: Words = ("80", "443")
    schedule_s: Waits = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
    timeout_s: float = Field(default=20.0, gt=0)
    at_once: int = Field(default=1536, ge=2)
    per_receiver: int = Field(default=8, ge=1)
    log_s: float | None = Field(default=30 * 86400.0, ge=0)
    endpoints: int = Field(default=50, ge=0)


class LogSettings(Group):
    """The log on stderr.

    Attributes:
        level: Lowest level to log.
        json_lines: Log one JSON object per line.
        requests: Level of the line for each finished HTTP request; `off` for none. The line has no
            query, headers or body.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = False
    requests: Literal["off", "debug", "info"] = "debug"

    @property
    def level_of_requests(self) -> Literal["off", "debug", "info"]:
        """The level of the lines about requests; `off` if the log leaves that level out."""
        order = ("debug", "info", "warning", "error")
        if self.requests == "off" or order.index(self.requests) < order.index(self.level):
            return "off"
        return self.requests


class TelemetrySettings(Group):
    """Traces, by OpenTelemetry; needs `swell[telemetry]`.

    Attributes:
        endpoint: Collector for traces, OTLP over HTTP, such as `http://127.0.0.1:4318`; empty for
            no traces.
        sample: Share of requests to trace if the client's `traceparent` does not decide.
        in_tasks: Whether the JSON of a traced task contains its `trace_id`.
    """

    endpoint: str = ""
    sample: float = Field(default=1.0, ge=0, le=1)
    in_tasks: bool = False
