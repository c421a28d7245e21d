"""A Kubernetes cluster on this machine: kmock's server, and what a cluster does with Jobs.

kmock keeps objects and knows the API's paths. Here come label selectors, pages, the two halves of a
deletion, a quota, and the controllers: a Job gets a pod, a pod gets a node, and a pod that is told
to go is gone when time has come.
"""

import copy
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp.web
import attrs
import kmock
import kubernetes_validate

__all__ = ["Cluster"]

JOBS: Final = kmock.resource("batch", "v1", "jobs")
PODS: Final = kmock.resource("", "v1", "pods")

NAMESPACE: Final = "swell"
TOKEN: Final = "secret-of-the-account"


@attrs.define(kw_only=True)
class Cluster(kmock.KubernetesEmulator):
    """The API server and its controllers."""

    #: At most so many Jobs; None for no quota.
    quota: int | None = None
    #: Whether a pod finds a node.
    has_nodes: bool = True
    #: Items of a page at most.
    page: int = 500
    #: Answers of the next calls, as (status, reason, message).
    errors: list[tuple[int, str, str]] = attrs.field(factory=list)
    #: So many lists from now on are older than whatever was made.
    lists_nothing: int = 0
    #: What was asked of pods: name and grace, in order.
    graces: list[tuple[str, str]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.resources[JOBS] = {"namespaced": True, "kind": "Job"}
        self.resources[PODS] = {"namespaced": True, "kind": "Pod"}

    # ---- the API server

    async def _handle(self, request: Any) -> Any:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return await self._refused(401, "Unauthorized", "Unauthorized")
        if self.errors:
            return await self._refused(*self.errors.pop(0))
        if request.action == kmock.action.CREATE and request.resource == JOBS:
            return await self._created(request)
        if request.action == kmock.action.DELETE and request.name is not None:
            return await self._deleted(request)
        return await super()._handle(request)

    async def _refused(self, status: int, reason: str, message: str) -> Any:
        error = kmock.KubernetesError(status=status, reason=reason, message=message)
        return await self._render_error(error)

    async def _created(self, request: Any) -> Any:
        job = request.data
        kubernetes_validate.validate(job, "1.33", strict=True)
        living = [each for each in self._all(JOBS) if each]
        if self.quota is not None and len(living) >= self.quota:
            name = job["metadata"]["name"]
            message = (
                f'jobs.batch "{name}" is forbidden: exceeded quota: jobs, requested: '
                f"count/jobs.batch=1, used: count/jobs.batch={len(living)}"
            )
            return await self._refused(403, "Forbidden", message)
        meta = job["metadata"]
        meta |= {"namespace": request.namespace, "creationTimestamp": _text(datetime.now(UTC))}
        answer = await super()._handle(request)
        self._start(job)
        return answer

    async def _deleted(self, request: Any) -> Any:
        found = self._one(request.resource, request.name)
        if found is None:
            return await self._refused(404, "NotFound", f'"{request.name}" not found')
        now = datetime.now(UTC)
        if request.resource == PODS:
            grace_s = float(request.params["gracePeriodSeconds"])
            self.graces.append((request.name, request.params["gracePeriodSeconds"]))
        else:
            assert request.params["propagationPolicy"] == "Foreground"
            grace_s = 0.0
        found.patch({"metadata": {"deletionTimestamp": _text(now + timedelta(seconds=grace_s))}})
        if request.resource == JOBS:
            for pod in self.pods_of(request.name):
                pod.patch({"metadata": {"deletionTimestamp": _text(now + timedelta(seconds=30))}})
        return aiohttp.web.json_response(found.raw)

    async def _serve_list(self, request: Any) -> Any:
        if self.lists_nothing:
            self.lists_nothing -= 1
            return {"metadata": {}, "items": []}
        whole = await super()._serve_list(request)
        wanted = dict(each.split("=") for each in request.params["labelSelector"].split(","))
        items = [
            each for each in whole["items"] if wanted.items() <= each["metadata"]["labels"].items()
        ]
        at = int(request.params.get("continue", "0"))
        size = min(self.page, int(request.params["limit"]))
        following = str(at + size) if at + size < len(items) else ""
        meta = {"resourceVersion": "1", "continue": following}
        return {"metadata": meta, "items": items[at : at + size]}

    # ---- the controllers

    def _start(self, job: Any) -> None:
        name = job["metadata"]["name"]
        template = copy.deepcopy(job["spec"]["template"])
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
            | {"spec": template["spec"]},
            "1.33",
            strict=True,
        )
        meta = template["metadata"] | {"name": f"{name}-abcde", "namespace": NAMESPACE}
        scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        scheduled |= {"message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}
        status = {"phase": "Pending", "conditions": [scheduled]}
        pod = {"metadata": meta, "spec": template["spec"], "status": status}
        self.objects[PODS, NAMESPACE, meta["name"]] = pod
        self.settle()

    def settle(self) -> None:
        """Let time pass: pods that wait run, those that were told to go are gone."""
        for pod in self._all(PODS):
            if "deletionTimestamp" in pod["metadata"]:
                pod.delete()
            elif pod["status"]["phase"] == "Pending" and self.has_nodes:
                pod.patch({"spec": {"nodeName": "node-1"}, "status": {"phase": "Running"}})
                pod.patch({"status": {"conditions": []}})
        for job in self._all(JOBS):
            going = "deletionTimestamp" in job["metadata"]
            if going and not self.pods_of(job["metadata"]["name"]):
                job.delete()

    def end(self, name: str, exit_code: int) -> None:
        """Let the container of a Job end by itself."""
        now = _text(datetime.now(UTC))
        over = {"exitCode": exit_code, "finishedAt": now, "reason": "Completed"}
        phase = "Failed" if exit_code else "Succeeded"
        statuses = [{"name": "worker", "state": {"terminated": over}}]
        for pod in self.pods_of(name):
            pod.patch({"status": {"phase": phase, "containerStatuses": statuses}})
        kind = "Failed" if exit_code else "Complete"
        condition = {"type": kind, "status": "True", "lastTransitionTime": now}
        condition |= {"reason": "BackoffLimitExceeded", "message": "Job has reached the limit"}
        job = self._one(JOBS, name)
        assert job is not None
        job.patch({"status": {"conditions": [condition]}})

    def drain(self, name: str, at: datetime | None) -> None:
        """Let the node of a Job's pod be drained; None where that is only announced."""
        target = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        for pod in self.pods_of(name):
            pod.patch({"status": {"conditions": [target]}})
            if at is not None:
                pod.patch({"metadata": {"deletionTimestamp": _text(at)}})

    def lose(self, name: str) -> None:
        """Take a Job and its pods away, as somebody with kubectl can."""
        for pod in self.pods_of(name):
            pod.delete()
        job = self._one(JOBS, name)
        assert job is not None
        job.delete()

    def pods_of(self, name: str) -> list[Any]:
        """The pods of a Job."""
        found = self._all(PODS)
        return [each for each in found if each["metadata"]["labels"]["swell-instance"] == name]

    def jobs(self) -> list[Any]:
        """All Jobs that are there."""
        return list(self._all(JOBS))

    def _all(self, resource: Any) -> Iterator[Any]:
        kept = [obj for (kind, _, _), obj in self.objects.items() if kind == resource]
        return iter([each for each in kept if not each.deleted])

    def _one(self, resource: Any, name: str) -> Any:
        return next(
            (each for each in self._all(resource) if each["metadata"]["name"] == name), None
        )


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
