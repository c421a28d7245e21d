"""What kustomize and Helm make: a cluster would take it, and what it sets and runs exists."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_type_hints
from urllib.request import urlopen

import kmock
import kubernetes_validate
import pytest
import yaml
from manifests import CHART, KUSTOMIZE, HelmRefused, Manifest, charted, kustomized, linted
from typer.main import get_command

from commandline import PATIENCE_S, Swell, clean_environment, ready_line, stop
from kubernetes_cluster import NAMESPACE, TOKEN, Cluster
from pages import block
from swell.cli import app
from swell.cli.deployment import Deployment
from swell.core.clock import SystemClock
from swell.core.provider import LaunchRequest
from swell.providers.factory import options_of
from swell.providers.kubeconfig import Access
from swell.providers.kubernetes import KubernetesOptions, KubernetesProvider
from swell.providers.options import checked
from swell.server.workers.worker_schemas import PoolList, PoolScalingView, PoolView
from swell.settings.describe import describe
from swell.settings.load import Settings, load

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT / ".venv" / "crds"

#: Which package on npm holds classes that are generated from the makers' own types.
PACKAGES = {
    "keda.sh/v1alpha1": "@kubernetes-models/keda",
    "gateway.networking.k8s.io/v1": "@kubernetes-models/gateway-api",
}

#: Validates with them what comes as JSON.
CHECK = """
import { readFileSync } from "node:fs";
const { manifests, packages } = JSON.parse(readFileSync(0, "utf8"));
for (const each of manifests) {
    const kinds = await import(`${packages[each.apiVersion]}/${each.apiVersion}/index`);
    new kinds[each.kind](each).validate();
}
"""

#: What the chart makes at most.
GROWN = {
    "settings": {
        "SWELL_OBJECTS__URL": "s3://shop/objects",
        "SWELL_SERVER__PUBLIC_URL": "https://shop.example",
        "SWELL_SERVER__DRAIN_S": "20",
    },
    "secretSettings": {"SWELL_OBJECTS__SECRET": {"secret": "shop-bucket", "key": "secret"}},
    "image": {"pullSecrets": ["registry"]},
    "backend": {
        "autoscaling": {"enabled": True},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "web", "operator": "Exists"}],
        "serviceAccountAnnotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/shop"},
    },
    "gateway": {"enabled": True, "host": "shop.example"},
    "ingress": {"enabled": True, "host": "shop.example"},
}
#: And at least.
SMALL = {
    "migrate": {"enabled": False},
    "autoscaler": {"enabled": False},
    "networkPolicy": {"enabled": False},
}

#: What its reader writes into a copy of swell.toml, as README.md says.
CHOSEN = {"registry.example/poster:1": "registry.shop.example/poster:1", "acme/poster": "shop/fox"}

#: An overlay of one's own with an ingress.
WITH_INGRESS = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: swell
resources:
  - ../deploy/kubernetes/overlays/production
components:
  - ../deploy/kubernetes/components/ingress
"""

WAYS = ("trial", "production", "ingress", "own-trial", "own", "chart", "chart-small", "chart-grown")


def made(way: str, tmp_path: Path) -> tuple[Manifest, ...]:
    charts = {"chart": {}, "chart-small": SMALL, "chart-grown": GROWN}
    if way in charts:
        found: tuple[Manifest, ...] = charted(charts[way])["manifests"]
        return found
    if way == "ingress":
        return kustomized(an_overlay(tmp_path, WITH_INGRESS))
    if way in ("own", "own-trial"):
        settings = "base" if way == "own-trial" else "components/keda"
        return kustomized(an_overlay(tmp_path, of_the_readme(way), settings))
    return kustomized(KUSTOMIZE / "overlays" / way)


def of_the_readme(way: str) -> str:
    """An overlay of one's own that README.md shows: to try it, or with KEDA and a Gateway."""
    if way == "own-trial":
        return block("deploy/kubernetes/README.md", "overlays/trial", "yaml")
    return block("deploy/kubernetes/README.md", "overlays/production", "yaml")


def an_overlay(tmp_path: Path, text: str, settings: str = "base") -> Path:
    """Write an overlay where kustomize finds what it is built on."""
    for name in ("base", "overlays", "components"):
        shutil.copytree(KUSTOMIZE / name, tmp_path / "deploy" / "kubernetes" / name)
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(text)
    pools = (KUSTOMIZE / settings / "swell.toml").read_text()
    for example, chosen in CHOSEN.items():
        pools = pools.replace(example, chosen)
    (folder / "swell.toml").write_text(pools)
    return folder


@pytest.fixture(params=WAYS)
def everything(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Manifest, ...]:
    return made(request.param, tmp_path)


def of_others(each: Manifest) -> bool:
    """Whether Kubernetes itself knows nothing of a kind."""
    return each["apiVersion"] in PACKAGES


def pods(manifests: Iterable[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in manifests:
        template = each.get("spec", {}).get("template")
        if template:
            yield template["metadata"]["labels"]["app.kubernetes.io/name"], template["spec"]
        elif each["kind"] == "Pod":
            yield each["metadata"]["labels"]["app.kubernetes.io/name"], each["spec"]


def own(manifests: Iterable[Manifest]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Pods and containers that run Swell's commands."""
    return [
        (name, pod, container)
        for name, pod in pods(manifests)
        for container in pod["containers"]
        if "poster" in container["image"] and name != "swell-test"
    ]


def told(manifests: Iterable[Manifest], container: dict[str, Any]) -> dict[str, str | None]:
    """The variables of a container; None for those of secrets."""
    maps = {e["metadata"]["name"]: e["data"] for e in manifests if e["kind"] == "ConfigMap"}
    found: dict[str, str | None] = {}
    for each in container.get("envFrom", ()):
        if "configMapRef" in each:
            found |= maps[each["configMapRef"]["name"]]
    return found | {each["name"]: each.get("value") for each in container.get("env", ())}


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_every_manifest_is_one_that_kubernetes_takes(
    everything: tuple[Manifest, ...], version: str
) -> None:
    found = [each for each in everything if not of_others(each)]
    assert len(found) >= 6
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)
    names = [(each["kind"], each["metadata"]["name"]) for each in everything]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("way", ["own", "chart-grown"])
def test_what_is_for_others_is_what_they_take(way: str, tmp_path: Path) -> None:
    if not (CRDS / "node_modules").exists() or shutil.which("node") is None:
        why = "the schemas of KEDA and the Gateway API are missing: .ci/services installs them"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    found = [each for each in made(way, tmp_path) if of_others(each)]
    kinds = {"Gateway", "HTTPRoute"}
    kinds |= {"ScaledObject", "TriggerAuthentication"} if way == "own" else set()
    assert {each["kind"] for each in found} == kinds
    assert validated(found) == 0
    # The check sees what is wrong.
    for each in found:
        broken: Manifest = json.loads(json.dumps(each))
        if each["kind"] == "HTTPRoute":
            broken["spec"]["rules"][0]["timeouts"]["request"] = "0 seconds"
        elif each["kind"] == "Gateway":
            del broken["spec"]["listeners"]
        elif each["kind"] == "ScaledObject":
            del broken["spec"]["triggers"][0]["metadata"]
        else:
            broken["spec"]["secretTargetRef"] = "token"
        assert validated([broken]) != 0, each["kind"]


def validated(found: list[Manifest]) -> int:
    ran = subprocess.run(
        ["node", "--input-type=module", "--eval", CHECK],
        cwd=CRDS,
        input=json.dumps({"manifests": found, "packages": PACKAGES}),
        text=True,
        capture_output=True,
        check=False,
    )
    return ran.returncode


def test_keda_reads_what_the_api_tells(tmp_path: Path) -> None:
    everything = made("own", tmp_path)
    scaled = next(each for each in everything if each["kind"] == "ScaledObject")
    told = scaled["spec"]["triggers"][0]["metadata"]
    # A path of GJSON: the first of a list that has a value, and fields within it.
    path = re.fullmatch(r'(\w+)\.#\((\w+)=="(\w+)"\)\.(\w+)\.(\w+)', told["valueLocation"])
    assert path
    pools, key, pool, scaling, field = path.groups()
    assert pools in get_type_hints(PoolList)
    assert {key, scaling} <= set(get_type_hints(PoolView))
    assert field in get_type_hints(PoolScalingView)
    worker = next(container for name, _, container in own(everything) if name == "swell-worker")
    assert {"name": "SWELL_WORKER__POOL", "value": pool} in worker["env"]
    paths = (ROOT / "docs" / "reference" / "http.md").read_text()
    assert told["url"].partition(":8000")[2] in paths
    [launched] = settings_of_pools(everything, tmp_path).pools.values()
    assert launched.provider == "external"


def test_every_setting_exists_and_every_command_line_is_one(
    everything: tuple[Manifest, ...], tmp_path: Path
) -> None:
    known = {each.variable for each in describe()}
    names = {name for name, _, _ in own(everything)}
    assert "swell-backend" in names
    assert names <= {"swell-backend", "swell-migrate", "swell-autoscaler", "swell-worker"}
    for name, _, container in own(everything):
        found = told(everything, container)
        assert set(found) <= known, name
        load(environment={k: v for k, v in found.items() if v is not None}, folder=tmp_path)
        words = container.get("args", ["worker"])
        # The entry point of images of `swell build`, whose arguments these are.
        command = container.get("command")
        assert command is None or command == ["tini", "--", "swell"]
        inner: Any = get_command(app)
        while hasattr(inner, "resolve_command"):
            with inner.make_context("swell", list(words), resilient_parsing=True) as context:
                _, inner, words = inner.resolve_command(context, list(words))
        with inner.make_context("last", list(words)) as context:
            assert context.params


def settings_of_pools(manifests: Iterable[Manifest], tmp_path: Path) -> Settings:
    maps = (each["data"] for each in manifests if each["kind"] == "ConfigMap")
    [text] = [data["swell.toml"] for data in maps if "swell.toml" in data]
    (tmp_path / "swell.toml").write_text(text)
    return load(environment={}, folder=tmp_path).settings


@pytest.mark.parametrize("way", ["trial", "production", "chart", "chart-grown"])
def test_the_pools_are_ones_and_their_url_is_that_of_the_service(way: str, tmp_path: Path) -> None:
    everything = made(way, tmp_path)
    settings = settings_of_pools(everything, tmp_path)
    pool = settings.pools["gpu"]
    options: Any = checked(options_of(pool.provider), pool.options, "pools.gpu.options")
    assert pool.options["secret"] == "swell-worker"
    # What is held is handed over before the pod is killed.
    assert pool.drain_s is not None
    assert pool.drain_s < options.drain_s
    [service] = [
        e
        for e in everything
        if e["kind"] == "Service"
        and e["spec"].get("ports")
        and e["spec"]["ports"][0]["port"] == 8000
    ]
    namespace = service["metadata"].get("namespace", "art")
    assert settings.autoscale.url == f"http://{service['metadata']['name']}.{namespace}.svc:8000"


def test_what_is_named_is_there(everything: tuple[Manifest, ...]) -> None:
    """Each in what is made, or a secret that the steps have made before."""
    kinds = {(each["kind"], each["metadata"]["name"]) for each in everything}
    steps = (KUSTOMIZE / "README.md").read_text() + (CHART / "README.md").read_text()
    examples = yaml.safe_load_all((KUSTOMIZE / "secrets.example.yaml").read_text())
    secrets = {each["metadata"]["name"] for each in examples} | {"shop-bucket"}
    for name in secrets - {"shop-bucket"}:
        assert f"secret generic {name}" in steps
    for _, pod in pods(everything):
        for container in pod["containers"]:
            for each in container.get("env", ()):
                named = each.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
                assert named is None or named in secrets
            for each in container.get("envFrom", ()):
                found = each.get("configMapRef", {}).get("name")
                assert found is None or ("ConfigMap", found) in kinds
                assert each.get("secretRef", {}).get("name", "swell-worker") in secrets
        account = pod.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in kinds
        for volume in pod.get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or ("PersistentVolumeClaim", claim) in kinds
            config = volume.get("configMap", {}).get("name")
            assert config is None or ("ConfigMap", config) in kinds


def test_selectors_choose_pods_that_are_there(everything: tuple[Manifest, ...]) -> None:
    labels = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in everything
        if "template" in each.get("spec", {})
    ]
    for each in everything:
        spec = each.get("spec", {})
        wanted = spec.get("selector", {}) if each["kind"] != "NetworkPolicy" else {}
        wanted = wanted.get("matchLabels", wanted)
        assert any(wanted.items() <= found.items() for found in labels), each["metadata"]["name"]
        if each["kind"] == "HorizontalPodAutoscaler":
            target = (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
            [scaled] = [e for e in everything if (e["kind"], e["metadata"]["name"]) == target]
            # A number beside it would be set anew by each `apply`.
            assert "replicas" not in scaled["spec"]
        if each["kind"] == "Ingress":
            backend = spec["rules"][0]["http"]["paths"][0]["backend"]["service"]
            [service] = [
                e
                for e in everything
                if e["kind"] == "Service" and e["metadata"]["name"] == backend["name"]
            ]
            assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
        if each["kind"] == "HTTPRoute":
            [backend] = spec["rules"][0]["backendRefs"]
            ports = {
                port["port"]
                for e in everything
                if (e["kind"], e["metadata"]["name"]) == ("Service", backend["name"])
                for port in e["spec"]["ports"]
            }
            assert backend["port"] in ports
            [parent] = spec["parentRefs"]
            [gateway] = [e for e in everything if e["kind"] == "Gateway"]
            assert gateway["metadata"]["name"] == parent["name"]
            listeners = {e["name"]: e for e in gateway["spec"]["listeners"]}
            assert listeners[parent["sectionName"]]["protocol"] == "HTTPS"


def test_nothing_runs_as_root_or_writes_outside_its_volumes(
    everything: tuple[Manifest, ...],
) -> None:
    """What Kubernetes calls `restricted`, and more: a root that is read only, limits of memory.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    for name, pod in pods(everything):
        of_pod = pod["securityContext"]
        assert of_pod["runAsNonRoot"] is True, name
        assert of_pod["runAsUser"] > 0
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod.get("volumes", ()))
        if name != "swell-autoscaler":
            assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"]
            limits = container["resources"]["limits"]
            assert "memory" in limits or "nvidia.com/gpu" in limits
    for name, _, container in own(everything):
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        assert {"/var/lib/swell", "/tmp"} <= mounted, name


def test_backends_and_workers_have_longer_to_end_than_they_take(
    everything: tuple[Manifest, ...],
) -> None:
    for _, pod, container in own(everything):
        found = told(everything, container)
        drains = [float(text) for key, text in found.items() if text and key.endswith("DRAIN_S")]
        waits = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
        takes_s = sum(drains) + (float(waits[1]) if waits else 0.0)
        assert takes_s < pod.get("terminationGracePeriodSeconds", 30)


def test_a_backend_knows_that_others_reach_it(
    everything: tuple[Manifest, ...], tmp_path: Path
) -> None:
    """By its variables alone, which are all that `swell deploy` in its pod sees."""
    [(_, _, backend)] = [each for each in own(everything) if each[0] == "swell-backend"]
    found = told(everything, backend)
    found.pop("SWELL_SERVER__PUBLIC_URL", None)
    given = {name: text for name, text in found.items() if text is not None}
    settings = load(environment=given, folder=tmp_path).settings
    assert Deployment(settings).is_open
    assert not [word for word in backend["args"] if word.startswith("--")]


def test_probes_ask_what_is_answered(everything: tuple[Manifest, ...]) -> None:
    [(_, _, backend)] = [each for each in own(everything) if each[0] == "swell-backend"]
    ports = {each["name"]: each["containerPort"] for each in backend["ports"]}
    paths = (ROOT / "docs" / "reference" / "http.md").read_text()
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = backend[kind]["httpGet"]
        assert asked["port"] in ports
        assert asked["path"] in paths
    assert (
        backend["readinessProbe"]["httpGet"]["path"] != backend["livenessProbe"]["httpGet"]["path"]
    )


@pytest.mark.parametrize("way", ["own", "chart-grown"])
def test_a_route_ends_no_stream(way: str, tmp_path: Path) -> None:
    [route] = [each for each in made(way, tmp_path) if each["kind"] == "HTTPRoute"]
    assert route["spec"]["hostnames"] == ["shop.example"]
    [rule] = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_the_chart_takes_a_gateway_that_is_there_and_makes_none_of_its_own() -> None:
    parents = [{"name": "public", "namespace": "gateways", "sectionName": "https"}]
    values = {"gateway": {"enabled": True, "parents": parents}}
    found = charted(values)["manifests"]
    [route] = [each for each in found if each["kind"] == "HTTPRoute"]
    assert route["spec"]["parentRefs"] == parents
    assert "Gateway" not in {each["kind"] for each in found}


@pytest.mark.parametrize("way", ["ingress", "chart-grown"])
def test_streams_pass_the_ingress_as_they_come(way: str, tmp_path: Path) -> None:
    [ingress] = [each for each in made(way, tmp_path) if each["kind"] == "Ingress"]
    found = ingress["metadata"]["annotations"]
    keepalive_s = load(environment={}, folder=tmp_path).settings.server.keepalive_s
    for maker, off in (("nginx.ingress.kubernetes.io", "off"), ("nginx.org", "false")):
        assert found[f"{maker}/proxy-buffering"] == off
    assert float(found["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > 10 * keepalive_s
    assert found["nginx.ingress.kubernetes.io/proxy-body-size"] == "0"
    assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]


@pytest.mark.parametrize("way", ["trial", "production", "chart", "chart-grown"])
def test_all_pods_have_policies_and_workers_reach_no_private_network(
    way: str, tmp_path: Path
) -> None:
    everything = made(way, tmp_path)
    policies = [each["spec"] for each in everything if each["kind"] == "NetworkPolicy"]

    def chosen(labels: dict[str, str], policy: dict[str, Any]) -> bool:
        wanted = policy["podSelector"]
        plain = wanted.get("matchLabels", {})
        among = wanted.get("matchExpressions", ())
        return plain.items() <= labels.items() and all(
            labels.get(each["key"]) in each["values"] for each in among
        )

    for each in everything:
        if "template" not in each.get("spec", {}):
            continue
        labels = each["spec"]["template"]["metadata"]["labels"]
        kinds = {kind for p in policies if chosen(labels, p) for kind in p["policyTypes"]}
        assert kinds == {"Ingress", "Egress"}, labels
    # As the provider labels its Jobs: see the provider's own tests.
    workers = {"app.kubernetes.io/managed-by": "swell"}
    [policy] = [policy for policy in policies if chosen(workers, policy)]
    assert policy["ingress"] == []
    [outside] = [rule["to"] for rule in policy["egress"] if "ipBlock" in rule["to"][0]]
    never = {to["ipBlock"]["cidr"]: set(to["ipBlock"]["except"]) for to in outside}
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= never["0.0.0.0/0"]
    assert {"fc00::/7", "fe80::/10"} <= never["::/0"]


def test_load_balancers_outside_of_pods_may_call_backends_where_the_chart_is_told() -> None:
    callers = ["130.211.0.0/22", "2600:1900::/28"]
    made = charted({"networkPolicy": {"callers": callers}})["manifests"]
    [policy] = [
        each["spec"]
        for each in made
        if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "shop-backend"
    ]
    [rule] = policy["ingress"]
    assert rule["from"] == [
        {"namespaceSelector": {}},
        *({"ipBlock": {"cidr": each}} for each in callers),
    ]
    with pytest.raises(HelmRefused, match="callers"):
        charted({"networkPolicy": {"callers": ["everybody"]}})


@pytest.mark.parametrize("way", ["trial", "chart"])
async def test_the_role_is_all_that_the_provider_needs_and_no_more(
    way: str, tmp_path: Path
) -> None:
    """Whatever the provider ever asks of a cluster, counted while it does all that it does."""
    async with Cluster() as cluster, kmock.Server(cluster):
        access = Access(url=str(cluster.url).rstrip("/"), namespace=NAMESPACE, token=TOKEN)
        options = KubernetesOptions(image="x")
        provider = KubernetesProvider(options, SystemClock(), "shop", access=access)
        request = LaunchRequest(pool="p", token="launch-1")
        [instance] = await provider.launch(request)
        cluster.lists_nothing = 2
        other = KubernetesProvider(options, SystemClock(), "shop", access=access)
        await other.launch(request)
        await provider.notices()
        await provider.terminate([instance.id])
        for each in (provider, other):
            await each.close()
        asked = {(each.resource.group, each.resource.plural, verb(each)) for each in cluster}
    role = next(each for each in made(way, tmp_path) if each["kind"] == "Role")
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert asked == allowed


def verb(request: Any) -> str:
    words = {"FETCH": "get", "LIST": "list", "CREATE": "create", "DELETE": "delete"}
    return words[request.action.value]


def test_the_steps_name_files_and_commands_that_exist() -> None:
    for path in (KUSTOMIZE / "README.md", CHART / "README.md"):
        named = re.findall(r"(?<!\.\./)deploy/(?:kubernetes|helm)[\w/.-]*", path.read_text())
        assert named
        for each in named:
            assert (ROOT / each).exists(), each
    folders = {"base", "overlays/trial", "overlays/production"}
    folders |= {"components/gateway", "components/ingress", "components/keda"}
    text = (KUSTOMIZE / "README.md").read_text()
    assert folders <= set(re.findall(r"^\| `([\w/]+)`", text, re.MULTILINE))
    assert {
        str(each.parent.relative_to(KUSTOMIZE)) for each in KUSTOMIZE.rglob("kustom*.yaml")
    } == (folders)


@pytest.mark.parametrize(
    ("way", "tag", "names"),
    [
        ("own-trial", "1", {"swell-backend", "swell-migrate", "swell-autoscaler"}),
        ("own", "7", {"swell-backend", "swell-migrate", "swell-autoscaler", "swell-worker"}),
    ],
)
def test_an_overlay_of_ones_own_changes_the_image_everywhere(
    way: str, tag: str, names: set[str], tmp_path: Path
) -> None:
    everything = made(way, tmp_path)
    images = {name: container["image"] for name, _, container in own(everything)}
    assert images == dict.fromkeys(names, f"registry.shop.example/poster:{tag}")
    assert "registry.example" not in json.dumps(everything)
    [launched] = settings_of_pools(everything, tmp_path).pools.values()
    assert launched.models == ("shop/fox",)


#: Makes all that is mounted read only but for two folders.
CONFINE = """
    mount --bind data data && mount --bind tmp tmp || exit 90
    mount -o remount,bind,ro "$(stat -c %m .)" && mount -o remount,bind,ro / || exit 91
    touch data/written tmp/written || exit 92
    ! touch written 2> /dev/null && ! touch "$HOME/written" 2> /dev/null || exit 93
    exec "$@"
"""


@contextmanager
def confined(tmp_path: Path, *arguments: str) -> Iterator[str]:
    """Start Swell as in the pods, where only two volumes can be written, and return its URL."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount its own root read only")
    folders = [tmp_path / "data", tmp_path / "tmp"]
    for folder in folders:
        folder.mkdir()
    command = (sys.executable, "-m", "swell", *arguments, "--json", "--port", "0")
    own = {"SWELL_DATA_DIR": str(folders[0]), "TMPDIR": str(folders[1])}
    with (tmp_path / "stderr.txt").open("w") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", CONFINE, "sh", *command],
            cwd=tmp_path,
            env=clean_environment() | own,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield ready_line(process, tmp_path)["url"]
    finally:
        assert stop(process) == 0


@pytest.mark.slow
def test_a_backend_serves_where_only_its_volumes_can_be_written(tmp_path: Path) -> None:
    with confined(tmp_path, "serve") as url:
        with urlopen(f"{url}/health/ready", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
        assert (tmp_path / "data" / "swell.db").exists()


@pytest.mark.slow
def test_a_worker_draws_where_only_its_volumes_can_be_written(tmp_path: Path) -> None:
    with confined(tmp_path, "up", "-m", "swell/icons") as url:
        asked = ("swell/icons", "-i", "prompt=a red fox", "-i", "steps=4", "--watch", "--url", url)
        own = {"SWELL_DATA_DIR": str(tmp_path / "data")}
        done = Swell(tmp_path).run("tasks", "submit", *asked, **own)
        assert done.returncode == 0, done.stderr + (tmp_path / "stderr.txt").read_text()
        [picture] = (tmp_path / "pictures").iterdir()
        assert picture.stat().st_size > 100


# ---- the chart


def test_the_chart_has_the_version_of_swell_and_nothing_to_complain_about() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert chart["version"] == chart["appVersion"] == project["version"]
    for values in ({}, SMALL, GROWN):
        found = linted(values)
        assert not found.get("errors"), found
        assert [each for each in found.get("messages", ()) if "icon" not in str(each)] == []


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"backend": {"replicas": 3}}, "SWELL_OBJECTS__URL"),
        ({"backend": {"autoscaling": {"enabled": True}}}, "SWELL_OBJECTS__URL"),
        ({"backend": {"replica": 3}}, "replica"),
        ({"backend": {"replicas": "many"}}, "replicas"),
        ({"settings": {"OBJECTS_URL": "s3://shop"}}, "OBJECTS_URL"),
        ({"settings": {"SWELL_SERVER__DRAIN_S": 20}}, "SWELL_SERVER__DRAIN_S"),
        ({"image": {"tag": ""}}, "tag"),
        ({"migrat": {}}, "migrat"),
        ({"gateway": {"enabled": True, "className": ""}}, "gateway.className"),
        ({"gateway": {"parents": [{"name": "public", "section": "https"}]}}, "section"),
    ],
)
def test_the_chart_refuses_values_that_would_not_serve(values: dict[str, Any], word: str) -> None:
    with pytest.raises(HelmRefused, match=word):
        charted(values)


def test_the_chart_and_the_overlays_make_the_same_pods(tmp_path: Path) -> None:
    """But for names and labels, so that there is one way in which Swell runs in a cluster."""
    settings = ("production", {"settings": {"SWELL_OBJECTS__URL": "s3://x"}}), ("trial", {})
    for way, values in settings:
        found = pods(made(way, tmp_path))
        kustomize = {name: plain(pod) for name, pod in found if name != "postgres"}
        rendered = charted(values)["manifests"]
        helm = {name: plain(pod) for name, pod in pods(rendered) if name != "swell-test"}
        assert kustomize == helm
    pools = [settings_of_pools(made(way, tmp_path), tmp_path).pools for way in ("trial", "chart")]
    assert pools[0] == pools[1]


def plain(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(pod))
    found.pop("serviceAccountName", None)
    for spread in found.get("topologySpreadConstraints", ()):
        del spread["labelSelector"]
    for volume in found.get("volumes", ()):
        for named in ("configMap", "persistentVolumeClaim"):
            volume[named] = sorted(volume.get(named, {}))
    for container in found["containers"]:
        container.pop("envFrom", None)
        container.pop("imagePullPolicy", None)
        bucket = ("SWELL_OBJECTS__KEY_ID", "SWELL_OBJECTS__SECRET")
        container["env"] = [each for each in container["env"] if each["name"] not in bucket]
    return found


def test_the_notes_say_what_is_next() -> None:
    notes = charted(GROWN)["notes"]
    assert "https://shop.example" in notes
    assert "kubectl -n art create secret generic swell-worker" in notes
    assert "port-forward" in charted(SMALL)["notes"]
    assert "swell-worker" not in charted(SMALL)["notes"]
