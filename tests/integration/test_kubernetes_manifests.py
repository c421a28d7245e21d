"""The manifests for Kubernetes: the cluster would take them, and what they set and run exists."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import kmock
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from kubernetes_cluster import NAMESPACE, TOKEN, Cluster
from swell.api.messages import PoolList, PoolScalingView, PoolView
from swell.cli import app
from swell.clock import SystemClock
from swell.config import describe, load
from swell.provider import LaunchRequest
from swell.providers.factory import options_of
from swell.providers.kubeconfig import Access
from swell.providers.kubernetes import KubernetesOptions, KubernetesProvider
from swell.providers.options import checked

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
KEDA = ROOT / ".venv" / "keda"

#: Validates what comes as JSON with the classes that are generated from KEDA's own types.
CHECK = """
import { readFileSync } from "node:fs";
const kinds = await import("@kubernetes-models/keda/keda.sh/v1alpha1/index");
for (const each of JSON.parse(readFileSync(0, "utf8"))) new kinds[each.kind](each).validate();
"""


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def everything() -> list[dict[str, Any]]:
    return [each for path in FILES for each in documents(path)]


def of_keda(each: dict[str, Any]) -> bool:
    return str(each["apiVersion"]).startswith("keda.sh/")


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for each in everything():
        template = each.get("spec", {}).get("template")
        if template:
            yield each["metadata"]["name"], template["spec"]


def own() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Pods and containers that run Swell's commands."""
    return [
        (name, pod, container)
        for name, pod in pods()
        for container in pod["containers"]
        if "poster" in container["image"]
    ]


@pytest.mark.parametrize("version", ["1.29", "1.33", "1.37"])
def test_every_manifest_is_one_that_kubernetes_takes(version: str) -> None:
    found = [each for each in everything() if not of_keda(each)]
    assert len(found) > 10
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)


def test_what_is_for_keda_is_what_keda_takes(tmp_path: Path) -> None:
    if not (KEDA / "node_modules").exists() or shutil.which("node") is None:
        why = "KEDA's schemas are missing: .ci/services installs them"
        pytest.fail(why) if os.environ.get("CI") else pytest.skip(why)
    found = [each for each in everything() if of_keda(each)]
    assert {each["kind"] for each in found} == {"ScaledObject", "TriggerAuthentication"}
    assert validated(found) == 0
    # The check sees what is wrong.
    del found[-1]["spec"]["triggers"][0]["metadata"]
    assert validated(found) != 0


def validated(found: list[dict[str, Any]]) -> int:
    ran = subprocess.run(
        ["node", "--input-type=module", "--eval", CHECK],
        cwd=KEDA,
        input=json.dumps(found),
        text=True,
        capture_output=True,
        check=False,
    )
    return ran.returncode


def test_keda_reads_what_the_api_tells() -> None:
    scaled = next(each for each in everything() if each["kind"] == "ScaledObject")
    told = scaled["spec"]["triggers"][0]["metadata"]
    # A path of GJSON: the first of a list that has a value, and fields within it.
    path = re.fullmatch(r'(\w+)\.#\((\w+)=="(\w+)"\)\.(\w+)\.(\w+)', told["valueLocation"])
    assert path
    pools, key, pool, scaling, field = path.groups()
    assert pools in get_type_hints(PoolList)
    assert {key, scaling} <= set(get_type_hints(PoolView))
    assert field in get_type_hints(PoolScalingView)
    worker = next(container for name, _, container in own() if name == "swell-worker")
    assert {"name": "SWELL_WORKER__POOL", "value": pool} in worker["env"]
    paths = (ROOT / "docs" / "reference" / "http.md").read_text()
    assert told["url"].partition(":8000")[2] in paths


def test_every_setting_exists_and_every_command_line_is_one(tmp_path: Path) -> None:
    known = {each.variable for each in describe()}
    assert {name for name, _, _ in own()} == {"swell-backend", "swell-autoscaler", "swell-worker"}
    for name, _, container in own():
        told = {each["name"]: each.get("value") for each in container["env"]}
        assert set(told) <= known, name
        load(environment={k: v for k, v in told.items() if v is not None}, folder=tmp_path)
        words = container.get("args", ["worker"])
        root: Any = get_command(app)
        with root.make_context("swell", list(words)) as context:
            _, command, rest = root.resolve_command(context, list(words))
            with command.make_context(words[0], rest, parent=context) as inner:
                assert inner.params


def test_the_pools_are_ones(tmp_path: Path) -> None:
    text = next(e for e in everything() if e["kind"] == "ConfigMap")["data"]["swell.toml"]
    (tmp_path / "swell.toml").write_text(text)
    settings = load(environment={}, folder=tmp_path).settings
    pool = settings.pools["gpu"]
    checked(options_of(pool.provider), pool.options, "pools.gpu.options")
    assert tomllib.loads(text)["pools"]["gpu"]["options"]["secret"] == "swell-worker"


def test_secrets_and_accounts_that_are_named_are_there() -> None:
    kinds = {(each["kind"], each["metadata"]["name"]) for each in everything()}
    for _, pod in pods():
        for container in pod["containers"]:
            for each in container.get("env", ()):
                named = each.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
                assert named is None or ("Secret", named) in kinds
        account = pod.get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in kinds
        for volume in pod.get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or ("PersistentVolumeClaim", claim) in kinds


def test_workers_have_longer_to_end_than_they_take() -> None:
    for _, pod, container in own():
        told = {each["name"]: each.get("value") for each in container["env"]}
        drains = [float(text) for name, text in told.items() if name.endswith("DRAIN_S")]
        assert sum(drains) < pod.get("terminationGracePeriodSeconds", 30)


async def test_the_role_is_all_that_the_provider_needs_and_no_more() -> None:
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
    role = next(each for each in everything() if each["kind"] == "Role")
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
    text = (FOLDER / "README.md").read_text()
    for path in re.findall(r"deploy/kubernetes/\S+\.yaml", text):
        assert (ROOT / path).exists()
    assert {path.name for path in FILES} == set(
        re.findall(r"^\| `(\S+\.yaml)`", text, re.MULTILINE)
    )
