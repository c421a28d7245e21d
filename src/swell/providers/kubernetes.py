"""Provider for a Kubernetes cluster: one Job for each worker.

With one Job per worker, the controller chooses which worker to end; a Deployment would choose
itself. The cluster's own autoscaler adds and removes nodes. Annotations on the pods ask it not to
evict them.

The provider needs six calls and makes them with Swell's HTTP client. The official client (37.0.2)
is 75 MB unpacked and blocks threads. Tests check the requests against Kubernetes' schemas.

Source:
    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/,
    https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions,
    https://kubernetes.io/docs/concepts/security/pod-security-standards/,
    https://karpenter.sh/docs/concepts/disruption/#pod-level-controls,
    https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md.
"""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from pydantic import Field

from swell.core.clock import Clock
from swell.core.errors import InvalidInput, SwellError, Unavailable
from swell.core.provider import (
    ASKED_AT,
    INSTANCE_ID,
    KILLED_AFTER_S,
    Instance,
    InstanceState,
    LaunchRequest,
    Notice,
    Refused,
)
from swell.providers.kubeconfig import Access, opened
from swell.providers.marks import DEPLOYMENT, POOL, Marks, as_label, moment
from swell.providers.options import Options
from swell.providers.refusals import given_of, in_words
from swell.providers.rest import Answer, Rest, retry_after
from swell.providers.sightings import Sightings
from swell.settings.environment import process_environment

#: Label with the name of a pod's Job. Kubernetes has renamed its own label for this.
_INSTANCE: Final = "swell-instance"

#: Limit of concurrent calls, and page size of lists.
_CALLS: Final = 8
_PAGE_N: Final = 500

_KEEP: Final = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
}

#: The `restricted` pod security standard, and a read-only root file system. `swell build` creates
#: user 10001 in its images.
_UNPRIVILEGED: Final = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "runAsGroup": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONFINED: Final = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


class KubernetesOptions(Options):
    """Options of a pool of Jobs of a Kubernetes cluster."""

    image: str = Field(min_length=1, description="The worker's container image.")
    namespace: str = Field(
        default="", description="Where its Jobs are; empty for the account's or context's own."
    )
    command: tuple[str, ...] = Field(
        default=(), description="Options of `swell worker`, as the container's arguments."
    )
    resources: Mapping[str, str] = Field(
        default={},
        description='What each has, as request and limit, such as `{"nvidia.com/gpu": "1"}`.',
    )
    secret: str = Field(
        default="",
        description="A Secret whose keys become environment variables, for "
        "`SWELL_WORKER__TOKEN`, so that no Job contains the controller's token."
        " Empty to write the token into the Jobs.",
    )
    node_selector: Mapping[str, str] = Field(default={}, description="Labels of its nodes.")
    tolerations: tuple[Mapping[str, Any], ...] = Field(
        default=(), description="Taints of nodes that it tolerates, as Kubernetes writes them."
    )
    spot: bool = Field(
        default=False, description="Whether the nodes that its labels select may be reclaimed."
    )
    service_account: str = Field(
        default="", description="Account of its pods; none of its rights are needed or mounted."
    )
    pull_secrets: tuple[str, ...] = Field(default=(), description="Secrets to pull the image with.")
    weights_dir: str = Field(
        default="",
        description="Folder of the node for fetched weights, which user 10001 may write; empty for "
        "one that goes with the pod.",
    )
    drain_s: float = Field(
        default=120.0,
        ge=0,
        description="Time for a worker to finish its tasks when its pod is deleted, in seconds.",
    )
    kept_s: int = Field(
        default=600, ge=0, description="Time to keep a finished Job for inspection, in seconds."
    )
    pod: Mapping[str, Any] = Field(
        default={}, description="More of Kubernetes' `PodSpec`, as it is."
    )
    kubeconfig: Path | None = Field(
        default=None,
        description="File that says how the cluster is reached; unset for the cluster that the "
        "controller runs in, else `KUBECONFIG` or `~/.kube/config`.",
    )
    context: str = Field(default="", description="Of the kubeconfig; empty for its current one.")


def job_of(name: str, marks: Marks, options: KubernetesOptions, told: Mapping[str, str]) -> Any:
    """Return the Job of one worker. Pure.

    Args:
        name: Name of the Job and id of the instance.
        marks: Owner of the instance.
        options: Options of the pool.
        told: Environment of the worker.
    """
    labels = marks.labels | {"app.kubernetes.io/managed-by": "swell", _INSTANCE: name}
    annotations = marks.texts
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {
            # The controller replaces ended workers, not Kubernetes.
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "ttlSecondsAfterFinished": options.kept_s,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations | _KEEP},
                "spec": _pod_spec(options, told) | dict(options.pod),
            },
        },
    }


def _pod_spec(options: KubernetesOptions, told: Mapping[str, str]) -> dict[str, Any]:
    # Writable volumes, as in deploy/kubernetes. The home folder is in the first.
    volumes: list[dict[str, Any]] = [
        {"name": "data", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts = [
        {"name": "data", "mountPath": "/var/lib/swell"},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if options.weights_dir:
        place = {"path": options.weights_dir, "type": "DirectoryOrCreate"}
        volumes.append({"name": "weights", "hostPath": place})
        mounts.append({"name": "weights", "mountPath": "/var/lib/swell/weights"})
    container: dict[str, Any] = {
        "name": "worker",
        "image": options.image,
        "env": [{"name": name, "value": value} for name, value in told.items()],
        "volumeMounts": mounts,
        "securityContext": _CONFINED,
    }
    if options.command:
        container["args"] = list(options.command)
    if options.resources:
        container["resources"] = {
            "requests": dict(options.resources),
            "limits": dict(options.resources),
        }
    if options.secret:
        container["envFrom"] = [{"secretRef": {"name": options.secret}}]
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": math.ceil(options.drain_s),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _UNPRIVILEGED,
        "containers": [container],
        "volumes": volumes,
    }
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        spec["tolerations"] = [dict(each) for each in options.tolerations]
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.pull_secrets:
        spec["imagePullSecrets"] = [{"name": each} for each in options.pull_secrets]
    return spec


class KubernetesProvider:
    """Provider for Kubernetes. See `swell.core.provider`.

    A pod without a node is not an error of `launch`: it stays pending, with its reason in
    `Instance.why`.

    Args:
        options: Options of the pool.
        clock: The clock.
        deployment: Name of the deployment that owns the Jobs.
        access: Access to the cluster; None to read it from the options.

    Raises:
        InvalidRequest: No cluster is configured.
    """

    def __init__(
        self,
        options: KubernetesOptions,
        clock: Clock,
        deployment: str,
        *,
        access: Access | None = None,
    ) -> None:
        self._options = options
        self._clock = clock
        self._deployment = deployment
        self._environment = process_environment(without_settings=True)
        self._access = access or opened(
            options.kubeconfig, options.context, self._environment, options.namespace
        )
        self._rest = Rest("the Kubernetes cluster", tls=self._access.tls)
        self._seen = Sightings(clock, sure_s=0.0)
        self._calls = asyncio.Semaphore(_CALLS)

    async def launch(self, request: LaunchRequest) -> list[Instance]:
        """Create Jobs.

        Raises:
            InvalidInput: The cluster rejects the Jobs, or does not allow the call.
            Refused: The namespace's quota is exhausted.
            Unavailable: The cluster is unreachable or overloaded.
        """
        if before := self._seen.of_launch(request.pool, request.token):
            return before
        marks = Marks.of(self._deployment, request, self._clock.now())
        if request.token and (found := await self._listed(marks.labels)):
            marks = msgspec.structs.replace(marks, asked_at=found[0].launched_at)
        begin = marks.name()
        made = await asyncio.gather(
            *(self._make(f"{begin}-{number}", marks, request) for number in range(request.n)),
            return_exceptions=True,
        )
        return self._seen.launched(given_of(made))

    async def instances(self, pool: str | None = None) -> list[Instance]:
        wanted = {DEPLOYMENT: as_label(self._deployment)}
        return self._seen.listed(
            await self._listed(wanted | ({} if pool is None else {POOL: as_label(pool)})), pool
        )

    async def notices(self) -> list[Notice]:
        """Return the instances that the cluster evicts, because their node drains or is lost."""
        wanted = {DEPLOYMENT: as_label(self._deployment)}
        jobs, pods = await self._jobs(wanted), await self._pods(wanted)
        going = (_instance(job, pods, is_spot=False) for job in jobs)
        alive = {each.id for each in going if each.state is not InstanceState.ENDED}
        kept = {
            job["metadata"]["name"] for job in jobs if "deletionTimestamp" not in job["metadata"]
        }
        return [
            Notice(instance_id=name, at=at)
            for name, pod in pods.items()
            if name in alive & kept
            for is_going, at in [_is_going(pod)]
            if is_going
        ]

    async def terminate(self, instance_ids: Sequence[str], *, grace_s: float = 30.0) -> None:
        """Delete Jobs; their pods get SIGTERM now, and SIGKILL after `grace_s` seconds.

        A repeated call can only shorten the grace period.
        """
        wanted = set(instance_ids)
        labels = {DEPLOYMENT: as_label(self._deployment)}
        own = {each["metadata"]["name"] for each in await self._jobs(labels)} & wanted
        await self._seen.end_all(sorted(own), lambda name: self._end(name, grace_s))

    async def close(self) -> None:
        """Close the connections. The Jobs keep running."""
        await self._rest.close()

    # ---- Jobs

    async def _make(self, name: str, marks: Marks, request: LaunchRequest) -> Instance:
        told = dict(request.environment)
        if self._options.secret:
            told.pop("SWELL_WORKER__TOKEN", None)
        told |= {INSTANCE_ID: name, ASKED_AT: marks.asked_at.isoformat()}
        told.setdefault(KILLED_AFTER_S, str(math.ceil(self._options.drain_s)))
        job = job_of(name, marks, self._options, told)
        answer = await self._call("POST", self._path("batch/v1", "jobs"), job)
        if answer.status == 409:  # an earlier call created it, and its answer was lost
            answer = await self._call("GET", self._path("batch/v1", "jobs", name))
        if not answer.is_ok:
            raise _explained(answer)
        return _instance(answer.body, {}, is_spot=self._options.spot)

    async def _end(self, name: str, grace_s: float) -> None:
        # The Job remains until its pods are gone, and creates no new ones.
        job = self._path("batch/v1", "jobs", name)
        await self._gone(job, {"propagationPolicy": "Foreground"})
        grace = {"gracePeriodSeconds": str(math.ceil(max(grace_s, 0.0)))}
        for pod in await self._items("v1", "pods", {_INSTANCE: name}):
            await self._gone(self._path("v1", "pods", pod["metadata"]["name"]), grace)

    async def _gone(self, path: str, how: Mapping[str, str]) -> None:
        answer = await self._call("DELETE", path, query=how)
        if not answer.is_ok and answer.status not in (404, 409):
            raise _explained(answer)

    async def _listed(self, labels: Mapping[str, str]) -> list[Instance]:
        jobs, pods = await self._jobs(labels), await self._pods(labels)
        return [_instance(each, pods, is_spot=self._options.spot) for each in jobs]

    async def _jobs(self, labels: Mapping[str, str]) -> list[Any]:
        return await self._items("batch/v1", "jobs", labels)

    async def _pods(self, labels: Mapping[str, str]) -> dict[str, Any]:
        pods = await self._items("v1", "pods", labels)
        return {each["metadata"]["labels"].get(_INSTANCE, ""): each for each in pods}

    async def _items(self, api: str, kind: str, labels: Mapping[str, str]) -> list[Any]:
        selector = ",".join(f"{key}={text}" for key, text in labels.items())
        query = {"labelSelector": selector, "limit": str(_PAGE_N)}
        found: list[Any] = []
        while True:
            answer = await self._call("GET", self._path(api, kind), query=query)
            if not answer.is_ok:
                raise _explained(answer)
            found += answer.body["items"]
            following = answer.body.get("metadata", {}).get("continue")
            if not following:
                return found
            query["continue"] = following

    def _path(self, api: str, kind: str, name: str = "") -> str:
        root = f"/api/{api}" if api == "v1" else f"/apis/{api}"
        return f"{root}/namespaces/{self._access.namespace}/{kind}{f'/{name}' if name else ''}"

    async def _call(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None
    ) -> Answer:
        async with self._calls:
            headers = await self._access.headers(self._clock, self._environment)
            answer = await self._rest.call(
                method, self._access.url + path, body, query=query, headers=headers
            )
        if answer.status == 401:
            self._access.until_s = float("-inf")  # the token was revoked
        return answer


def _instance(job: Any, pods: Mapping[str, Any], *, is_spot: bool) -> Instance:
    meta = job["metadata"]
    pod = pods.get(meta["name"], {})
    created = meta.get("creationTimestamp")
    epoch = "1970-01-01T00:00:00Z"
    marks = Marks.read(meta.get("annotations") or {}, asked_at=moment(created or epoch))
    state, why = _state(job, pod)
    has_ended = state is InstanceState.ENDED
    return msgspec.structs.replace(
        marks.starting(meta["name"]),
        state=state,
        ended_at=_ended_at(job, pod) if has_ended else None,
        exit_code=_exit_code(pod) if has_ended else None,
        location=pod.get("spec", {}).get("nodeName") or "",
        is_spot=is_spot,
        why=why,
    )


def _state(job: Any, pod: Any) -> tuple[InstanceState, str]:
    """Return the state of a worker, and the reason."""
    status, phase = pod.get("status", {}), pod.get("status", {}).get("phase")
    ended = [
        each
        for each in job.get("status", {}).get("conditions") or ()
        if each["type"] in ("Complete", "Failed") and each["status"] == "True"
    ]
    if ended or phase in ("Succeeded", "Failed"):
        told = status.get("message") or (ended[0].get("message") if ended else "")
        return InstanceState.ENDED, told or status.get("reason") or ""
    if "deletionTimestamp" in job["metadata"] or "deletionTimestamp" in pod.get("metadata", {}):
        return InstanceState.STOPPING, ""
    if phase == "Running":
        return InstanceState.RUNNING, ""
    return InstanceState.STARTING, _waits_for(status)


def _waits_for(status: Any) -> str:
    """Return why a pod does not run yet: no node, or no image."""
    for each in status.get("conditions") or ():
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{each.get('reason', '')}: {each.get('message', '')}"
    for each in status.get("containerStatuses") or ():
        waiting = each.get("state", {}).get("waiting", {})
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"{waiting['reason']}: {waiting.get('message', '')}"
    return ""


def _is_going(pod: Any) -> tuple[bool, datetime | None]:
    """Return whether the cluster evicts a pod, and the time if known."""
    if at := pod["metadata"].get("deletionTimestamp"):
        return True, moment(at)
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(c["type"] == "DisruptionTarget" and c["status"] == "True" for c in conditions), None


def _terminated(pod: Any) -> Any:
    for each in pod.get("status", {}).get("containerStatuses") or ():
        if found := each.get("state", {}).get("terminated"):
            return found
    return {}


def _exit_code(pod: Any) -> int | None:
    code = _terminated(pod).get("exitCode")
    return None if code is None else int(code)


def _ended_at(job: Any, pod: Any) -> datetime | None:
    told = _terminated(pod).get("finishedAt") or job.get("status", {}).get("completionTime")
    return moment(told) if told else None


def _explained(answer: Answer) -> SwellError:
    body = answer.body if isinstance(answer.body, dict) else {"message": str(answer.body)}
    told = in_words(
        [(str(body.get("reason") or answer.status), body.get("message") or json.dumps(body))]
    )
    if answer.status == 403 and "exceeded quota" in told:
        return Refused(f"the namespace's quota is used up: {told}", is_quota=True)
    if answer.status in (409, 410, 429) or answer.status >= 500:
        return Unavailable(f"the cluster has too much to do: {told}", headers=retry_after(answer))
    if answer.status in (401, 403):
        return InvalidInput(
            f"the cluster does not let the controller do this: {told}; give its account the role "
            "of deploy/kubernetes/base/autoscaler.yaml"
        )
    return InvalidInput(f"the cluster does not take what the pool's options say: {told}")
