"""Workers as Kubernetes Jobs, on a cluster emulated by kmock with Kubernetes' schemas."""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta

import kmock
import pytest

from conformance.provider import OutlivingConformance, RefusingConformance
from kubernetes_cluster import NAMESPACE, TOKEN, Cluster
from swell.core.clock import SystemClock
from swell.core.errors import InvalidInput, Unavailable
from swell.core.provider import InstanceState, LaunchRequest, Notice, Provider, Refused
from swell.providers.kubeconfig import Access
from swell.providers.kubernetes import KubernetesOptions, KubernetesProvider


class TestKubernetesProvider(OutlivingConformance, RefusingConformance):
    # Pods wait for nodes, and each reports its reason.
    may_lack = False

    @pytest.fixture
    async def cluster(self) -> AsyncIterator[Cluster]:
        async with Cluster() as cluster, kmock.Server(cluster):
            self.cluster = cluster
            self.open: list[KubernetesProvider] = []
            yield cluster
            for provider in self.open:
                await provider.close()

    @pytest.fixture
    def provider(self, cluster: Cluster) -> KubernetesProvider:
        return self.made()

    def made(self, deployment: str = "shop", **more: object) -> KubernetesProvider:
        told = {"image": "registry.example/poster:1", "resources": {"nvidia.com/gpu": "1"}} | more
        options = KubernetesOptions.model_validate(told)
        url = str(self.cluster.url).rstrip("/")
        access = Access(url=url, namespace=NAMESPACE, token=TOKEN)
        made = KubernetesProvider(options, SystemClock(), deployment, access=access)
        self.open.append(made)
        return made

    async def another(self, provider: Provider, deployment: str | None = None) -> Provider:
        return self.made(deployment or "shop")

    async def settle(self, provider: Provider, ids: list[str], state: InstanceState) -> None:
        self.cluster.settle()
        assert {i.state for i in await provider.instances() if i.id in ids} == {state}

    async def told(self, provider: Provider, instance_id: str) -> Mapping[str, str]:
        return self.environment(instance_id)

    def environment(self, name: str) -> dict[str, str]:
        [pod] = self.cluster.pods_of(name)
        [container] = pod.raw["spec"]["containers"]
        return {each["name"]: each["value"] for each in container["env"]}

    async def refuse(self, provider: Provider, *, is_quota: bool) -> None:
        assert is_quota
        self.cluster.quota = 0

    async def relent(self, provider: Provider) -> None:
        self.cluster.quota = None

    # ---- specific to Kubernetes

    async def test_what_a_pod_waits_for_is_told(self, provider: KubernetesProvider) -> None:
        self.cluster.has_nodes = False
        await provider.launch(LaunchRequest(pool="p"))
        [waits] = await provider.instances()
        assert waits.state is InstanceState.STARTING
        assert "Insufficient nvidia.com/gpu" in waits.why
        self.cluster.has_nodes = True
        self.cluster.settle()
        [runs] = await provider.instances()
        assert (runs.state, runs.why, runs.location) == (InstanceState.RUNNING, "", "node-1")

    async def test_fewer_than_were_wanted_are_what_the_quota_leaves(
        self, provider: KubernetesProvider
    ) -> None:
        self.cluster.quota = 2
        assert len(await provider.launch(LaunchRequest(pool="p", n=5))) == 2
        with pytest.raises(Refused, match="exceeded quota") as refused:
            await provider.launch(LaunchRequest(pool="p", n=5))
        assert refused.value.is_quota
        assert len(await provider.instances()) == 2

    @pytest.mark.parametrize("exit_code", [0, 7])
    async def test_how_a_worker_ended_is_told(
        self, provider: KubernetesProvider, exit_code: int
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        self.cluster.settle()
        self.cluster.end(instance.id, exit_code)
        [ended] = await provider.instances()
        assert (ended.state, ended.exit_code) == (InstanceState.ENDED, exit_code)
        assert ended.ended_at is not None

    async def test_a_job_that_somebody_deleted_is_told_as_ended(
        self, provider: KubernetesProvider
    ) -> None:
        one, other = await provider.launch(LaunchRequest(pool="p", n=2))
        await self.settle(provider, [one.id, other.id], InstanceState.RUNNING)
        self.cluster.lose(one.id)
        states = {i.id: i.state for i in await provider.instances()}
        assert states == {one.id: InstanceState.ENDED, other.id: InstanceState.RUNNING}

    async def test_a_job_goes_first_and_its_pod_has_the_grace_that_was_given(
        self, provider: KubernetesProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        self.cluster.settle()
        await provider.terminate([instance.id], grace_s=45)
        [stopping] = await provider.instances()
        assert stopping.state is InstanceState.STOPPING
        assert self.cluster.graces == [(f"{instance.id}-abcde", "45")]
        assert "deletionTimestamp" in self.cluster.jobs()[0]["metadata"]
        assert await provider.notices() == []

    @pytest.mark.slow
    async def test_a_pod_that_must_leave_its_node_is_told(
        self, provider: KubernetesProvider
    ) -> None:
        one, other, _ = await provider.launch(LaunchRequest(pool="p", n=3))
        self.cluster.settle()
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=60)
        self.cluster.drain(one.id, at)
        self.cluster.drain(other.id, None)
        told = sorted(await provider.notices(), key=lambda each: each.at is None)
        assert told == [Notice(instance_id=one.id, at=at), Notice(instance_id=other.id)]

    async def test_with_a_secret_the_token_is_in_no_job(self, provider: Provider) -> None:
        hidden = self.made(secret="swell-worker")
        request = LaunchRequest(
            pool="p", environment={"SWELL_WORKER__TOKEN": "hidden", "SWELL_WORKER__URL": "u"}
        )
        [instance] = await hidden.launch(request)
        assert "SWELL_WORKER__TOKEN" not in self.environment(instance.id)
        [job] = self.cluster.jobs()
        assert "hidden" not in str(job.raw)
        container = job.raw["spec"]["template"]["spec"]["containers"][0]
        assert container["envFrom"] == [{"secretRef": {"name": "swell-worker"}}]

    async def test_whatever_the_options_say_is_a_job_that_the_cluster_takes(
        self, provider: Provider
    ) -> None:
        # The cluster validates against Kubernetes' schemas and rejects unknown fields.
        chosen = self.made(
            command=["--slots", "2"],
            node_selector={"cloud.google.com/gke-accelerator": "nvidia-l4"},
            tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            service_account="worker",
            pull_secrets=["registry"],
            weights_dir="/srv/weights",
            secret="swell-worker",
            spot=True,
            pod={"priorityClassName": "images", "runtimeClassName": "nvidia"},
        )
        [instance] = await chosen.launch(LaunchRequest(pool="p"))
        assert instance.is_spot
        [job] = self.cluster.jobs()
        spec = job.raw["spec"]
        assert spec["backoffLimit"] == 0
        pod = spec["template"]
        assert pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "true"
        assert pod["spec"]["restartPolicy"] == "Never"
        assert pod["spec"]["priorityClassName"] == "images"

    @pytest.mark.parametrize("weights_dir", ["", "/srv/weights"])
    async def test_a_worker_is_confined_as_every_pod_of_swell_is(
        self, provider: Provider, weights_dir: str
    ) -> None:
        """Pods satisfy Kubernetes' `restricted` standard, except for weights kept on a node.

        Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
        """
        confined = self.made(weights_dir=weights_dir)
        await confined.launch(LaunchRequest(pool="p"))
        [job] = self.cluster.jobs()
        pod = job.raw["spec"]["template"]["spec"]
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        kinds = {each["name"]: set(each) - {"name"} for each in pod["volumes"]}
        places = {each["mountPath"]: kinds[each["name"]] for each in container["volumeMounts"]}
        kept = {"/var/lib/swell/weights": {"hostPath"}} if weights_dir else {}
        assert places == {"/var/lib/swell": {"emptyDir"}, "/tmp": {"emptyDir"}} | kept

    async def test_an_answer_that_was_lost_makes_no_job_twice(
        self, provider: KubernetesProvider
    ) -> None:
        request = LaunchRequest(pool="p", n=3, token="launch-1")
        first = await provider.launch(request)
        # A controller with no knowledge of this and an older list.
        other = self.made()
        self.cluster.lists_nothing = 2
        again = await other.launch(request)
        assert sorted(i.id for i in again) == sorted(i.id for i in first)
        assert len(self.cluster.jobs()) == 3

    @pytest.mark.slow
    async def test_long_lists_come_in_pages(self, provider: KubernetesProvider) -> None:
        self.cluster.page = 2
        await provider.launch(LaunchRequest(pool="p", n=5))
        assert len(await (await self.another(provider)).instances()) == 5

    @pytest.mark.parametrize(
        ("status", "reason", "error"),
        [
            (429, "TooManyRequests", Unavailable),
            (503, "ServiceUnavailable", Unavailable),
            (410, "Expired", Unavailable),
            (403, "Forbidden", InvalidInput),
            (401, "Unauthorized", InvalidInput),
            (422, "Invalid", InvalidInput),
            (404, "NotFound", InvalidInput),
        ],
    )
    async def test_errors_of_the_cluster_are_told_by_what_is_to_be_done(
        self,
        provider: KubernetesProvider,
        status: int,
        reason: str,
        error: type[Exception],
    ) -> None:
        self.cluster.errors = [(status, reason, "no")]
        with pytest.raises(error, match=reason) as told:
            await provider.instances()
        assert not isinstance(told.value, Refused)
        assert await provider.instances() == []

    async def test_what_the_cluster_repeats_of_a_job_has_no_key_in_it(
        self, provider: KubernetesProvider
    ) -> None:
        token = f"swell_{'k' * 48}"
        told = f'Job "x" is invalid: spec.containers[0].env[1].value: Invalid value: "{token}"'
        self.cluster.errors = [(422, "Invalid", told)]
        with pytest.raises(InvalidInput, match="env") as error:
            await provider.launch(LaunchRequest(pool="p"))
        assert token not in str(error.value)

    async def test_a_cluster_that_is_away_is_unavailable(self, provider: Provider) -> None:
        access = Access(url="http://127.0.0.1:9", namespace=NAMESPACE)
        options = KubernetesOptions(image="x")
        away = KubernetesProvider(options, SystemClock(), "shop", access=access)
        with pytest.raises(Unavailable):
            await away.instances()
        await away.close()
        with pytest.raises(Unavailable, match="closed"):
            await away.instances()

    async def test_only_jobs_and_pods_of_one_namespace_are_asked_for(
        self, provider: KubernetesProvider
    ) -> None:
        [instance] = await provider.launch(LaunchRequest(pool="p"))
        await provider.notices()
        await provider.terminate([instance.id])
        asked = {(str(r.resource.plural), r.namespace) for r in self.cluster}
        assert asked == {("jobs", NAMESPACE), ("pods", NAMESPACE)}
