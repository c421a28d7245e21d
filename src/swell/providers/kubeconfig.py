"""Address and credentials of a Kubernetes cluster, from the pod or from a kubeconfig.

Source:
    https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/ and
    https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/; commands that print tokens:
    https://kubernetes.io/docs/reference/config-api/client-authentication.v1/.
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

#: Folder of the service account in a pod.
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

#: Time before its expiry at which a command's token is renewed, and the lifetime of a token without
#: an expiry, in seconds.
_EARLY_S: Final = 60.0
_KEPT_S: Final = 600.0

#: Timeout of a token command, in seconds. A command that prompts for input would hang.
_ANSWER_S: Final = 60.0


class Access(msgspec.Struct, kw_only=True):
    """Address and credentials of a cluster."""

    url: str
    namespace: str
    tls: ssl.SSLContext | None = None
    #: Read at each call, because Kubernetes rotates the file.
    token_file: Path | None = None
    token: str = ""
    #: Command that prints a token, and its environment variables.
    command: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}
    #: Value of `KUBERNETES_EXEC_INFO` for the command: the expected output format.
    command_info: str = ""
    #: Expiry of the command's token, in monotonic seconds.
    until_s: float = float("-inf")
    #: Concurrent calls run the command once.
    asking: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Leave out the token and the variables."""
        return [("url", self.url), ("namespace", self.namespace)]

    def __repr__(self) -> str:
        """Leave out the token and the variables."""
        return f"Access(url={self.url!r}, namespace={self.namespace!r})"

    async def headers(self, clock: Clock, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the authorization header of a call.

        Raises:
            Unavailable: No token is available now.
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
    """Return the access to the configured cluster.

    Args:
        kubeconfig: Path of a kubeconfig; None for the cluster of this pod, or else the default
            file.
        context: Context of the kubeconfig; empty for the current one.
        environment: Environment of the process.
        namespace: Namespace; empty for the one of the service account or context.

    Raises:
        InvalidRequest: The configuration is missing or invalid.
    """
    if kubeconfig is None and environment.get("KUBERNETES_SERVICE_HOST"):
        found = in_cluster(environment)
    else:
        usual = environment.get("KUBECONFIG", "").split(os.pathsep)[0]
        home = Path(environment.get("HOME", "/")) / ".kube" / "config"
        found = of_kubeconfig(kubeconfig or (Path(usual) if usual else home), context)
    return msgspec.structs.replace(found, namespace=namespace or found.namespace or "default")


def in_cluster(environment: Mapping[str, str], folder: Path = _ACCOUNT) -> Access:
    """Return the access of a pod to its own cluster."""
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
    """Return the access that a kubeconfig describes.

    Raises:
        InvalidRequest: The file cannot be read, or an entry is missing.
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
    """Return the path of a command: a relative path starts at the kubeconfig's folder."""
    return str(folder / name) if os.sep in name else name


def _info(asks: Mapping[str, Any]) -> str:
    """Return the value of `KUBERNETES_EXEC_INFO` for a token command."""
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
    """Write bytes to a private temporary file, because the TLS library takes only file names."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield Path(file.name)
