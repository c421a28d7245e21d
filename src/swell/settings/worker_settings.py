"""Settings of a worker, and of the workers that `swell up` starts."""

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, SecretStr

from swell.settings.group import Group, Words


class WorkerSettings(Group):
    """One worker.

    Attributes:
        url: URL of the backend.
        token: API key with the scope `worker`.
        broker: External queue that the worker polls itself, as `broker.url` of the backend; empty
            to ask the backend for tasks. Leases and outcomes always go through the backend.
        ca_file: CA certificates (PEM) to trust for the backend in addition to the system's, such as
            one of `server.tls = "self-signed"`.
        models: Models to serve: names of built-in models, modules (`package.module` or
            `package.module:name`) or paths of Python files. Default: the stages of the pipeline
            `swell/picture`, and portraits.
        slots: Tasks that the worker holds at a time; unset for two batches of the model.
        name: Name shown to operators; empty for host name and process id.
        pool: Pool that the worker belongs to.
        stage: `trial` registers new model versions for trials only, as `swell models try` does;
            empty for the stage that the models declare.
        instance: Provider's name of the machine, container or process; set by the launcher through
            `SWELL_INSTANCE_ID`. Empty for a worker started by hand.
        device: Device for models, such as `cpu` or `cuda:0`.
        batching: How step-batched models share a step. `exact`: always with the model's fixed
            number of rows, so that a seed gives the same picture bit for bit in any batch. `fast`:
            with the number of rows that measured fastest; the last bits may differ. Unset for
            `fast` on a GPU, where batching pays most, and `exact` on other devices.
        device_memory_bytes: Device memory for all models together. Models that do not fit are
            loaded on demand and evict others: first models without waiting tasks, then the least
            recently used. In bytes; unset for 90 % of a GPU's memory that other processes leave
            free, and for no limit on other devices.
        host_memory_bytes: Host memory for models evicted from the device, so that they reload
            quickly; beyond it the least recently used is dropped. In bytes; unset for no limit.
        picture_format: Format of pictures if neither the model nor the input sets one.
        encode_threads: Threads that encode pictures; unset for one less than the number of cores,
            at most 4.
        cache_dir: Cache folder of downloaded weights; unset for `weights` in the data folder.
        cache_bytes: Size of the weights cache; the least recently used weights are evicted first.
            In bytes; unset for the whole disk.
        baked_dir: Read-only folder of weights that came with the machine image, laid out like the
            cache.
        compiled_dir: Cache folder of compiled programs, readable and writable only by the worker's
            user; may be a shared volume or part of an image; unset for `compiled` in the data
            folder.
        compiled_bytes: Size of the cache of compiled programs; the least recently used are evicted
            first. In bytes; unset for the whole disk.
        weights: Pushed weights to download at the start, as `owner/name@version` or the path of a
            `weights.toml`, in addition to those listed in a `weights.toml` in the model's folder.
        added: Whether to serve the models that `swell models add` added to the data folder.
        optional: Those of `worker.models` (or of the added models) that are skipped with a logged
            error if they cannot be loaded; any other failure to load stops the worker.
        hub_url: Server behind `hf:`: any hub with the API of the Hugging Face Hub.
        hub_token: Token of the hub, for gated and private repositories.
        weights_file: File that lists the weights behind the links in an image of `swell build`,
            downloaded before the models load; unset for none.
        health_file: File that a healthy worker writes every few seconds, for `swell health`; unset
            for none.
        environments_dir: Folder of the environments of models with their own requirements; unset
            for `environments` in the data folder.
        wheels_dir: Folder of wheels for the environments of models with their own requirements, for
            machines without a network; unset for the package index.
        max_file_bytes: Largest input file to read, in bytes; `swell up` sets it to the backend's
            `server.max_upload_bytes`. From other servers than the backend the worker reads at most
            64 MiB.
        max_lora_bytes: Largest LoRA that an input may name, in bytes; cached with the weights. An
            uploaded LoRA must also fit `server.max_upload_bytes`.
        allow_private_urls: Private addresses that input URLs may use: networks (`10.0.0.0/8`),
            hosts (`minio.internal`), hosts and addresses with a port (`minio.internal:9000`,
            `[fd00::1]:9000`), or `any`. A network allows URLs with an address in it at any port,
            and names such as `files.corp.example` that resolve into it at `worker.url_ports`; a
            name without a dot or ending in `.internal`, `.local` or similar needs its own entry.
            Users choose these URLs, so they can read what the worker can read there. The backend's
            own files need no entry.
        url_ports: Ports that input URLs may use, or `any`; addresses and hosts in
            `worker.allow_private_urls` may use others.
        cancel_grace_s: Time for a model to stop a task that is canceled, expired or has lost its
            lease, in seconds. After it the worker kills the model process and loads the model
            again.
        run_limit_s: Longest `run` of a model, in seconds. After it the worker kills the model
            process and loads the model again. Unset for no limit.
        drain_s: Time for a worker to finish its tasks after SIGTERM before it hands them over, in
            seconds; unset for no limit.
        killed_after_s: Time from SIGTERM until the platform kills the worker, in seconds; the
            worker hands over before that. Providers of pools set it. Unset for no limit.
        handover_s: Time for a worker that hands over to save checkpoints and deliver finished
            tasks, in seconds; 0 returns the leases at once, without checkpoints.
        give_up_s: Time without any answer from the backend after which the worker exits with code
            5, so that an unreachable machine costs nothing, in seconds; 0 or unset to wait forever.
        asked_at: Time when the launcher requested the machine, such as `2026-11-26T09:30:00Z`, to
            measure the boot; the launcher sets `SWELL_WORKER__ASKED_AT`. Negative times and times
            over two hours are ignored.
        pull_s: Time to pull the worker's image before the start, in seconds, if the launcher knows
            it.
    """

    url: str = "http://127.0.0.1:8000"
    token: SecretStr = SecretStr("")
    broker: str = ""
    ca_file: Path | None = None
    models: Words = (
        "swell/icons",
        "swell/translate",
        "swell/prompt-check",
        "swell/paint",
        "swell/upscale",
        "swell/safety",
        "swell/portraits",
    )
    slots: int | None = Field(default=None, ge=1)
    name: str = ""
    pool: str = Field(default="default", min_length=1)
    stage: Literal["", "trial"] = ""
    instance: str = Field(default="", max_length=200)
    device: str = "cpu"
    batching: Literal["exact", "fast"] | None = None
    device_memory_bytes: int | None = Field(default=None, gt=0)
    host_memory_bytes: int | None = Field(default=None, ge=0)
    picture_format: Literal["png", "webp", "jpeg", "avif"] = "png"
    encode_threads: int | None = Field(default=None, ge=1)
    cache_dir: Path | None = None
    cache_bytes: int | None = Field(default=None, gt=0)
    baked_dir: Path | None = None
    compiled_dir: Path | None = None
    compiled_bytes: int | None = Field(default=None, gt=0)
    weights: Words = ()
    added: bool = True
    optional: Words = ()
    hub_url: str = "https://huggingface.co"
    hub_token: SecretStr = SecretStr("")
    weights_file: Path | None = None
    health_file: Path | None = None
    environments_dir: Path | None = None
    wheels_dir: Path | None = None
    max_file_bytes: int = Field(default=100 * 1024**2, ge=1)
    max_lora_bytes: int = Field(default=1024**3, ge=1)
    allow_private_urls: Words = ()
    url_ports: Words = ("80", "443")
    cancel_grace_s: float = Field(default=5.0, ge=0)
    run_limit_s: float | None = Field(default=None, gt=0)
    drain_s: float | None = Field(default=None, ge=0)
    killed_after_s: float | None = Field(default=None, ge=0)
    handover_s: float = Field(default=5.0, ge=0)
    give_up_s: float | None = Field(default=3600.0, ge=0)
    asked_at: AwareDatetime | None = None
    pull_s: float | None = Field(default=None, ge=0)

    @property
    def is_exact(self) -> bool:
        """Whether steps have a fixed number of rows."""
        default = "fast" if self.device.startswith("cuda") else "exact"
        return (self.batching or default) == "exact"


class PoolSettings(Group):
    """The workers that `swell up` starts.

    Attributes:
        workers: Number of worker processes.
        drain_s: Time for tasks in progress to finish after SIGTERM, in seconds.
        boot_delay_s: Artificial delay of a worker's start, in seconds, for tests of the autoscaler.
        hour_micros: Price of one worker of the pool `worker.pool` per hour, in millionths of a
            dollar, for the ledger; unset if unknown.
    """

    workers: int = Field(default=1, ge=0)
    drain_s: float = Field(default=30.0, ge=0)
    boot_delay_s: float = Field(default=0.0, ge=0)
    hour_micros: int | None = Field(default=None, ge=0)
