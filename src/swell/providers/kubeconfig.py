"""Where a Kubernetes cluster is, and who we are to it: within it, or by a kubeconfig.

Source:
    https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/ and
    https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/; commands that give tokens, as
    those of the clouds do, in https://kubernetes.io/docs/reference/config-api/client-authentication.v1/.
"""

import asyncio
import base64
import contextlib
import json
import os
import ssl
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from swell.core.clock import Clock
from swell.core.errors import InvalidRequest, Unavailable
from swell.core.redact import hide_secrets
from swell.providers.command import run
from swell.providers.marks import moment

#: What a pod is given by its cluster.
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: A token that a command gave is asked for again so long before it ends, in seconds; one that
#: does not say when it ends is kept for the second.
_EARLY_S: Final = 60.0
_KEPT_S: Final = 600.0

#: A command that takes longer hangs, in seconds: perhaps it waits for somebody to type.
_ANSWER_S: Final = 60.0


class Access(msgspec.Struct, kw_only=True):
    """How one cluster is reached."""

    url: str
    namespace: str
    tls: ssl.SSLContext | None = None
    #: Read at each call, since it is changed in place; or told once.
    token_file: Path | None = None
    token: str = ""
    #: A command that tells a token: its words and variables.
    command: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}
    #: What such a command finds in its environment: in which words it is to answer.
    command_info: str = ""
    #: Until when such a token is used, by the monotonic clock.
    until_s: float = float("-inf")
    #: Many calls at a time ask once.
    asking: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Tell what may stand in a log: no token, and no variables."""
        return [("url", self.url), ("namespace", self.namespace)]

    def __repr__(self) -> str:
        """Return the same in one line."""
        return f"Access(url={self.url!r}, namespace={self.namespace!r})"

    async def headers(self, clock: Clock, environment: Mapping[str, str]) -> dict[str, str]:
        """Return what each call says of who we are.

        Raises:
            Unavailable: There is no token to be had now.
        """
        if self.token_file is not None:
            try:
                token = self.token_file.read_text().strip()
            except OSError as error:
                raise Unavailable(f"cannot read {self.token_file}: {error.strerror}") from error
        else:
            async with self.asking:
                if self.command and clock.monotonic_s() >= self.until_s:
                    await self._ask(clock, environment)
            token = self.token
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _ask(self, clock: Clock, environment: Mapping[str, str]) -> None:
        told = {**environment, **self.variables, "KUBERNETES_EXEC_INFO": self.command_info}
        ran = await run(*self.command, environment=told, patience_s=_ANSWER_S)
        try:
            status = json.loads(ran.out)["status"]
            self.token = status["token"]
        except (ValueError, KeyError, TypeError) as error:
            what = hide_secrets(ran.said.strip())[-300:]
            raise Unavailable(f"{self.command[0]} gives no token: {what}") from error
        left = timedelta(seconds=_KEPT_S)
        if status.get("expirationTimestamp"):
            left = moment(status["expirationTimestamp"]) - clock.now()
        self.until_s = clock.monotonic_s() + left.total_seconds() - _EARLY_S


def opened(
    kubeconfig: Path | None, context: str, environment: Mapping[str, str], namespace: str = ""
) -> Access:
    """Return how the cluster is reached that is meant.

    Args:
        kubeconfig: Named by somebody; None for the cluster that this runs in, else the usual file.
        context: Of the kubeconfig; empty for its current one.
        environment: Of the process.
        namespace: Empty for what the account or context says.

    Raises:
        InvalidRequest: There is none, or it is not understood.
    """
    if kubeconfig is None and environment.get("KUBERNETES_SERVICE_HOST"):
        found = in_cluster(environment)
    else:
        usual = environment.get("KUBECONFIG", "").split(os.pathsep)[0]
        home = Path(environment.get("HOME", "/")) / ".kube" / "config"
        found = of_kubeconfig(kubeconfig or (Path(usual) if usual else home), context)
    return msgspec.structs.replace(found, namespace=namespace or found.namespace or "default")


def in_cluster(environment: Mapping[str, str], folder: Path = _ACCOUNT) -> Access:
    """Return how a pod reaches its own cluster."""
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT", "443")
    name = folder / "namespace"
    return Access(
        url=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        namespace=name.read_text().strip() if name.exists() else "",
        tls=_tls(cafile=folder / "ca.crt"),
        token_file=folder / "token",
    )


def of_kubeconfig(path: Path, context: str = "") -> Access:
    """Return how a kubeconfig says that a cluster is reached.

    Raises:
        InvalidRequest: It cannot be read, or lacks what it names.
    """
    try:
        told = yaml.safe_load(path.read_text())
        chosen = _named(told["contexts"], context or told["current-context"], "context")
        cluster = _named(told["clusters"], chosen["cluster"], "cluster")
        user = _named(told.get("users") or [], chosen["user"], "user")
        return _access(chosen, cluster, user, path.parent)
    except OSError as error:
        raise InvalidRequest(
            f"the kubeconfig {path} cannot be read ({error.strerror}): name another one with the "
            "option kubeconfig, or run the controller within the cluster"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidRequest(
            f"the kubeconfig {path} is not understood ({error!r}): check it with kubectl"
        ) from error


def _access(
    chosen: Mapping[str, Any], cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path
) -> Access:
    asks = user.get("exec") or {}
    command = (_program(asks["command"], folder), *(asks.get("args") or ())) if asks else ()
    variables = {each["name"]: each["value"] for each in asks.get("env") or ()}
    file = user.get("tokenFile")
    return Access(
        url=cluster["server"].rstrip("/"),
        namespace=chosen.get("namespace") or "",
        tls=_tls_of(cluster, user, folder) if cluster["server"].startswith("https:") else None,
        token_file=folder / file if file else None,
        token=user.get("token") or "",
        command=command,
        variables=variables,
        command_info=_info(asks) if asks else "",
    )


def _program(name: str, folder: Path) -> str:
    """Return a command as a kubeconfig means it: a path is one from its own folder."""
    return str(folder / name) if os.sep in name else name


def _info(asks: Mapping[str, Any]) -> str:
    """Return what the command that a kubeconfig names is told of how it is asked."""
    version = asks.get("apiVersion") or "client.authentication.k8s.io/v1"
    told = {"apiVersion": version, "kind": "ExecCredential", "spec": {"interactive": False}}
    return json.dumps(told)


def _named(items: Sequence[Mapping[str, Any]], name: str, kind: str) -> Mapping[str, Any]:
    for each in items:
        if each["name"] == name:
            found: Mapping[str, Any] = each[kind]
            return found
    raise KeyError(f"no {kind} {name}")


def _tls_of(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    with contextlib.ExitStack() as stack:

        def file(table: Mapping[str, Any], name: str) -> Path | None:
            if data := table.get(f"{name}-data"):
                return stack.enter_context(_written(base64.b64decode(data)))
            return folder / table[name] if table.get(name) else None

        context = _tls(cafile=file(cluster, "certificate-authority"))
        if cert := file(user, "client-certificate"):
            context.load_cert_chain(cert, file(user, "client-key"))
        if cluster.get("insecure-skip-tls-verify"):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _tls(cafile: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cafile) if cafile else None)


@contextlib.contextmanager
def _written(data: bytes) -> Iterator[Path]:
    """Have bytes in a file that nobody else reads, since the library takes files only."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
