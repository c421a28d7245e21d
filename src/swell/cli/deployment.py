"""Finds settings of a deployment that are insecure or will not scale. Pure.

Each rule checks one subject, and yields findings with a reason and a remedy. `fail` means that a
part does not work, or that tasks, keys or files may be lost; `warn` may be intended.
"""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from swell.bootstrap.autoscaler import advice, check_token
from swell.bootstrap.storage import is_shared, store_file
from swell.cli.options import is_loopback
from swell.cli.parts import Finding
from swell.core.errors import InvalidRequest
from swell.providers.factory import KINDS, options_of
from swell.providers.options import checked
from swell.settings.describe import describe
from swell.settings.load import Settings
from swell.settings.pool_prices import pool_prices
from swell.settings.pool_settings import PoolTable

#: Passwords of examples, images and tutorials.
_KNOWN: Final = frozenset(
    {"admin", "guest", "minio", "minioadmin", "password", "postgres", "root", "secret", "swell"}
)

#: Shorter secrets can be guessed, in characters.
_FEWEST: Final = 12

#: Common load balancers close connections that are silent for longer, in seconds.
_SILENT_S: Final = 55.0

#: Endings of host names in private networks.
_INSIDE: Final = (".internal", ".local", ".lan", ".svc", ".home.arpa", ".localdomain")

#: Providers with workers in a cloud, outside of private networks.
_CLOUDS: Final = frozenset({"aws", "gcp", "azure", "skypilot"})

#: Providers with workers on this machine, or with workers that Swell does not start.
_NEAR: Final = frozenset({"process", "container", "external"})

_NOT_FOUND: Final = "other machines cannot reach the backend there"
_IN_THE_CLEAR: Final = "keys and prompts cross the internet unencrypted"

_NOT_ASKED: Final = "not needed: only this machine reaches it"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment to check."""

    settings: Settings
    #: Number of machines or containers with a backend.
    backends: int = 1

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach the backend."""
        server = self.settings.server
        return server.public_url is not None or not is_loopback(server.host)

    @property
    def processes(self) -> int:
        """Number of backend processes."""
        return self.backends * self.settings.server.processes


def judge(deployment: Deployment) -> list[Finding]:
    """Return the findings of all rules; a rule without findings gives an `ok`."""
    found = []
    for rule in _RULES:
        told = list(rule(deployment))
        name = rule.__name__.removeprefix("_").replace("_", " ")
        found += told or [Finding(name, "ok", (rule.__doc__ or "").partition(".")[0])]
    return found


def worker_url(settings: Settings) -> str:
    """Return the URL of the backend for launched workers; empty if not configured."""
    return settings.autoscale.url or settings.server.public_url or ""


def why_none_joins(url: str) -> str | None:
    """Return why a cloud machine cannot use a URL of the backend; None if it can.

    Private addresses are allowed, because a manually started machine may be in the same network.
    """
    host = urlsplit(url).hostname or ""
    if not host or is_loopback(host):
        return _NOT_FOUND
    if _is_beyond(host) and not url.startswith("https://"):
        return _IN_THE_CLEAR
    return None


# ---- rules; the first sentence of a docstring is the text of its `ok`


def _store(deployment: Deployment) -> Iterator[Finding]:
    """All backends share the store of tasks."""
    settings = deployment.settings
    if not is_shared(settings) and deployment.processes > 1:
        yield Finding(
            *(
                "store",
                "fail",
                f"the store is SQLite, but there are {deployment.processes} backend processes",
            ),
            why="an SQLite file belongs to one process: the others do not start, or serve only "
            "their own tasks",
            mend="set store.url to postgresql://…, or run one backend",
        )
    elif store_file(settings) is not None and deployment.is_open and _has_cloud(settings):
        yield Finding(
            *("store", "warn", "the pools are in clouds, but the store is SQLite on one machine"),
            why="while that machine is down no task is accepted, and rented workers wait",
            mend="set store.url to postgresql://…; until then, use `swell db --backup`",
        )


def _database(deployment: Deployment) -> Iterator[Finding]:
    """Connections to the database, broker and bus are private."""
    settings = deployment.settings
    for key, url in (
        ("store.url", settings.store.url),
        ("broker.url", settings.broker.url),
        ("bus.url", settings.bus.url),
    ):
        parts = urlsplit(url)
        if not parts.hostname or not _is_beyond(parts.hostname):
            continue
        is_safe = (
            any(mode in parts.query for mode in ("sslmode=require", "sslmode=verify"))
            if parts.scheme.startswith("postgres")
            else parts.scheme != "nats"
        )
        if not is_safe:
            yield Finding(
                *("database", "warn", f"{key} does not require TLS to {parts.hostname}"),
                why="hashes of keys, prompts and the password cross a shared network",
                mend="add ?sslmode=verify-full for PostgreSQL, write tls://… for NATS",
            )


def _files(deployment: Deployment) -> Iterator[Finding]:
    """All backends share the files."""
    settings = deployment.settings
    parts = urlsplit(settings.objects.url)
    if parts.scheme == "memory":
        yield Finding(
            *("files", "fail", "files are kept in memory"),
            why="pictures are lost with the process",
            mend="remove objects.url to use a folder, or set it to a bucket",
        )
    if parts.scheme in ("", "file") and deployment.backends > 1:
        yield Finding(
            *(
                "files",
                "fail",
                f"files are in a folder, but there are {deployment.backends} backends",
            ),
            why="a picture that one backend stores is 404 on the others",
            mend="set objects.url to s3://…, gs://… or az://…; use a folder only if all backends "
            "mount it",
        )
    endpoint = urlsplit(settings.objects.endpoint)
    if endpoint.scheme == "http" and _is_beyond(endpoint.hostname or ""):
        yield Finding(
            *("files", "fail", f"objects.endpoint is {settings.objects.endpoint}, without TLS"),
            why="anyone with a signed URL can read its file for an hour",
            mend="use https://, and give the bucket's service a certificate",
        )


def _address(deployment: Deployment) -> Iterator[Finding]:
    """Clients connect with TLS, to a configured address."""
    server = deployment.settings.server
    if not deployment.is_open:
        yield Finding(
            *("address", "ok"),
            f"only this machine reaches {server.host}; behind a proxy, set server.public_url, and "
            "more is checked",
        )
        return
    if server.public_url is None:
        if server.tls_cert is None and server.tls == "off":
            yield Finding(
                *("address", "fail", f"{server.host} is open to others, without TLS"),
                why="keys cross the network unencrypted",
                mend="set server.tls_cert and server.tls_key; or put a TLS proxy in front, and set "
                "server.public_url = https://…",
            )
        if not server.hosts:
            yield Finding(
                *("address", "warn", "neither server.public_url nor server.hosts is set"),
                why="links in answers and webhooks follow the request's Host, which a caller "
                "chooses",
                mend="set server.public_url to the address that clients use, such as https://swell.example",
            )
    elif not server.public_url.startswith("https://") and _is_beyond(
        urlsplit(server.public_url).hostname or ""
    ):
        yield Finding(
            *("address", "fail", f"server.public_url is {server.public_url}"),
            why="keys and signed URLs cross the network unencrypted",
            mend="serve with TLS, and use https://",
        )
    if server.tls == "self-signed" and server.tls_cert is None:
        yield Finding(
            *("address", "warn", "the certificate is self-signed"),
            why="clients trust it only if they were given it, and people click the warning away",
            mend="set server.tls_cert and server.tls_key to a certificate of a public authority",
        )


def _secrets(deployment: Deployment) -> Iterator[Finding]:
    """No secret is well known or short."""
    settings = deployment.settings
    given = {
        key: unquote(urlsplit(url).password or "")
        for key, url in (
            ("store.url", settings.store.url),
            ("broker.url", settings.broker.url),
            ("bus.url", settings.bus.url),
        )
    }
    plain: dict[str, Any] = {
        each.key: _value(settings, each.key).get_secret_value()
        for each in describe()
        if each.is_secret
    }
    for key, secret in (given | plain).items():
        if secret and (secret.lower() in _KNOWN or "change" in secret.lower()):
            yield Finding(
                *("secrets", "fail", f"the secret of {key} is a well-known word"),
                why="attackers try it first",
                mend="create another: openssl rand -hex 24",
            )
        elif secret and len(secret) < _FEWEST and not _is_near(deployment, key):
            yield Finding(
                *("secrets", "warn", f"the secret of {key} has only {len(secret)} characters"),
                why="short secrets can be guessed",
                mend="create another: openssl rand -hex 24",
            )


def _pages(deployment: Deployment) -> Iterator[Finding]:
    """Only listed pages may use the API from a browser."""
    if "*" in deployment.settings.server.cors_origins:
        yield Finding(
            *("pages", "warn", "server.cors_origins allows every page"),
            why="any web page can use a key that a user enters there",
            mend="list the origins of your own pages",
        )


def _limits(deployment: Deployment) -> Iterator[Finding]:
    """Each key has limits."""
    chosen = deployment.settings.limits
    if chosen.rate_per_s or chosen.tasks_in_flight or chosen.tasks_per_day:
        return
    if not deployment.is_open:
        yield Finding("limits", "ok", _NOT_ASKED)
    else:
        yield Finding(
            *("limits", "warn", "keys have no limits by default"),
            why="users take turns, but one key can fill the queue, and pools grow for it",
            mend="set limits.tasks_in_flight and limits.rate_per_s, or quotas (`swell quotas`)",
        )


def _retention(deployment: Deployment) -> Iterator[Finding]:
    """Inputs, outputs and tasks are deleted after some time."""
    chosen = deployment.settings.retention
    unset = [
        name
        for name in ("inputs_s", "outputs_s", "tasks_s")
        if getattr(chosen, name) is None and not chosen.classes
    ]
    if unset and not deployment.is_open:
        yield Finding("retention", "ok", _NOT_ASKED)
    elif unset:
        yield Finding(
            *("retention", "warn", f"retention.{', retention.'.join(unset)} are unset"),
            why="prompts, pictures and rows are kept forever: disk and database grow, and so does "
            "the damage of a leak",
            mend="set them to the time that you promise your users, such as 2592000 (30 days)",
        )


def _streams(deployment: Deployment) -> Iterator[Finding]:
    """Event streams are never silent for long."""
    keepalive_s = deployment.settings.server.keepalive_s
    if keepalive_s > _SILENT_S:
        yield Finding(
            *("streams", "warn", f"server.keepalive_s is {keepalive_s:g}"),
            why="load balancers close connections that are silent for 60 s, so streams would break",
            mend="leave it at 15, or raise their limit",
        )


def _private_networks(deployment: Deployment) -> Iterator[Finding]:
    """URLs of users cannot reach private networks."""
    settings = deployment.settings
    for key, words in (
        ("webhooks.allow_private_urls", settings.webhooks.allow_private_urls),
        ("worker.allow_private_urls", settings.worker.allow_private_urls),
    ):
        if "any" in words:
            yield Finding(
                *("private networks", "fail", f"{key} is any"),
                why="a key reaches everything that this machine reaches: databases, the cloud's "
                "metadata with its credentials",
                mend="list the hosts to allow, such as files.internal:9000",
            )


def _log(deployment: Deployment) -> Iterator[Finding]:
    """The log level suits production."""
    chosen = deployment.settings.log
    if chosen.level == "debug" and deployment.is_open:
        yield Finding(
            *("log", "warn", "log.level is debug"),
            why="it costs time and disk with every request",
            mend="set it to info",
        )


def _pools(deployment: Deployment) -> Iterator[Finding]:
    """Pools can be launched, and their workers reach the backend."""
    settings = deployment.settings
    try:
        check_token(settings)
    except InvalidRequest as error:
        yield Finding(
            *("pools", "fail", "launched workers would have no key"),
            why="the backend's own key ends when it restarts, but the machines continue",
            mend=error.detail,
        )
    for name, table in settings.pools.items():
        yield from _pool(name, table, settings)
    for line in advice(settings, pool_prices(settings)) if settings.pools else []:
        yield Finding("pools", "warn", line)


def _pool(name: str, table: PoolTable, settings: Settings) -> Iterator[Finding]:
    where = f"pool {name}"
    if table.provider == "process":
        return
    try:
        options: Any = checked(options_of(table.provider), table.options, f"pools.{name}.options")
    except InvalidRequest as error:
        yield Finding(
            *(where, "fail", error.detail),
            why="the autoscaler does not start",
            mend=f"see the options of {table.provider}"
            if table.provider in KINDS
            else "choose an existing provider",
        )
        return
    image = getattr(options, "image", "")
    if image and "@" not in image and _tag(image) in ("", "latest"):
        yield Finding(
            *(where, "warn", f"its image {image} has no version"),
            why="workers that start tomorrow may run another model than those of today",
            mend="use a unique tag, or a digest",
        )
    drain_s = getattr(options, "drain_s", None)
    if drain_s is not None and (table.drain_s is None or table.drain_s > drain_s):
        yield Finding(
            *(where, "warn", f"its machines end {drain_s:g} s after the stop signal"),
            why="unfinished tasks are lost, and run again",
            mend=f"set pools.{name}.drain_s below that, such as {drain_s * 0.8:g}",
        )
    if table.provider == "kubernetes" and not options.secret:
        yield Finding(
            *(where, "warn", "the workers' key is in each Job"),
            why="anyone who can read Jobs can read it",
            mend=f"put it in a Secret, and name that in pools.{name}.options.secret",
        )
    if table.provider not in _NEAR:
        yield from _reach(where, table, worker_url(settings))


def _reach(where: str, table: PoolTable, url: str) -> Iterator[Finding]:
    host = urlsplit(url).hostname or ""
    is_far = table.provider in _CLOUDS
    if not host or is_loopback(host) or (is_far and not _is_beyond(host)):
        yield Finding(
            *(
                where,
                "fail",
                f"its workers connect to {url or 'the address that the backend listens on'}",
            ),
            why=_NOT_FOUND,
            mend="set autoscale.url or server.public_url to an address that they can reach",
        )
    elif is_far and not url.startswith("https://"):
        yield Finding(
            *(where, "fail", f"its workers connect to {url}"),
            why=_IN_THE_CLEAR,
            mend="serve with TLS, and use https://",
        )


_RULES: Final = (
    *(_store, _database, _files, _address, _secrets, _pages, _limits, _retention, _streams),
    *(_private_networks, _log, _pools),
)


# ---- helpers


def _has_cloud(settings: Settings) -> bool:
    return any(table.provider in _CLOUDS for table in settings.pools.values())


def _tag(image: str) -> str:
    """Return an image's tag, and not a registry's port."""
    return image.rpartition("/")[2].partition(":")[2]


def _value(settings: Settings, key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = getattr(found, part)
    return found


def _is_near(deployment: Deployment, key: str) -> bool:
    """Whether a secret is for a service that only this machine can reach."""
    if not key.endswith(".url"):
        return False
    host = urlsplit(_value(deployment.settings, key)).hostname or ""
    return not host or is_loopback(host)


def _is_beyond(host: str) -> bool:
    """Whether a host is outside of this machine and of private networks."""
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(_INSIDE) and ".svc." not in host
