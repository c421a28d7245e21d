"""What `swell deploy` says of settings: each fault with why it matters and its mend."""

from pathlib import Path

import pytest

from swell.cli.deployment import Deployment, judge, worker_url
from swell.cli.parts import Finding
from swell.settings.load import load

#: What a careful operator has; each case below spoils one thing.
SOUND = {
    "SWELL_SERVER__HOST": "0.0.0.0",
    "SWELL_SERVER__PUBLIC_URL": "https://swell.example",
    "SWELL_STORE__URL": "postgresql://swell:4f1d0c9b7a6e5d2c@db.example/swell?sslmode=verify-full",
    "SWELL_OBJECTS__URL": "s3://shop/objects",
    "SWELL_LIMITS__TASKS_IN_FLIGHT": "100",
    "SWELL_RETENTION__INPUTS_S": "86400",
    "SWELL_RETENTION__OUTPUTS_S": "86400",
    "SWELL_RETENTION__TASKS_S": "864000",
    "SWELL_AUTOSCALE__TOKEN": "swell_the-key-of-workers-of-this-shop",
    "SWELL_AUTOSCALE__DEPLOYMENT": "shop",
    "SWELL_AUTOSCALE__DAY_BUDGET_MICROS": "100000000",
    "SWELL_COSTS__BUDGET_DAY_MICROS": "100000000",
}

POOL = """
[pools.jobs]
provider = "kubernetes"
models = ["acme/poster"]
hour_micros = 800000
drain_s = {drain_s}
[pools.jobs.options]
image = "{image}"
drain_s = 120
{more}
"""


def found(
    tmp_path: Path, changes: dict[str, str] | None = None, toml: str = "", backends: int = 3
) -> list[Finding]:
    (tmp_path / "swell.toml").write_text(toml)
    environment = {name: text for name, text in (SOUND | (changes or {})).items() if text}
    settings = load(environment=environment, folder=tmp_path).settings
    return judge(Deployment(settings, backends))


def wrong(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.name, each.grade) for each in findings if each.grade != "ok"]


def test_what_is_sound_has_no_complaint_and_each_rule_says_so(tmp_path: Path) -> None:
    pool = POOL.format(drain_s=90, image="registry.example/poster:7", more='secret = "workers"')
    findings = found(tmp_path, toml=pool)
    assert wrong(findings) == []
    assert len(findings) == len({each.name for each in findings}) > 10
    assert all(each.detail and not each.why for each in findings)


def test_nothing_is_asked_of_a_trial_on_this_machine(tmp_path: Path) -> None:
    settings = load(environment={}, folder=tmp_path).settings
    findings = judge(Deployment(settings))
    assert wrong(findings) == []
    # Nor is it said to have what was not asked for.
    told = {each.name: each.detail for each in findings}
    assert "server.public_url" in told["address"]
    for name in ("limits", "retention"):
        assert "not needed" in told[name]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"SWELL_STORE__URL": ""}, ("store", "fail")),
        (
            {"SWELL_STORE__URL": "postgresql://swell:4f1d0c9b7a6e5d2c@db.example/swell"},
            ("database", "warn"),
        ),
        ({"SWELL_BROKER__URL": "nats://nats.example/swell"}, ("database", "warn")),
        ({"SWELL_OBJECTS__URL": ""}, ("files", "fail")),
        ({"SWELL_OBJECTS__URL": "memory:"}, ("files", "fail")),
        ({"SWELL_OBJECTS__ENDPOINT": "http://files.example"}, ("files", "fail")),
        ({"SWELL_SERVER__PUBLIC_URL": "http://swell.example"}, ("address", "fail")),
        ({"SWELL_SERVER__PUBLIC_URL": ""}, ("address", "fail")),
        ({"SWELL_SERVER__TLS": "self-signed"}, ("address", "warn")),
        ({"SWELL_OBJECTS__SECRET": "minioadmin"}, ("secrets", "fail")),
        ({"SWELL_OBJECTS__SECRET": "please-change-me"}, ("secrets", "fail")),
        ({"SWELL_OBJECTS__SECRET": "7d0k1x"}, ("secrets", "warn")),
        (
            {"SWELL_STORE__URL": "postgresql://swell:p%61ssword@db.internal/swell"},
            ("secrets", "fail"),
        ),
        ({"SWELL_SERVER__CORS_ORIGINS": "*"}, ("pages", "warn")),
        ({"SWELL_LIMITS__TASKS_IN_FLIGHT": ""}, ("limits", "warn")),
        ({"SWELL_RETENTION__OUTPUTS_S": ""}, ("retention", "warn")),
        ({"SWELL_SERVER__KEEPALIVE_S": "60"}, ("streams", "warn")),
        ({"SWELL_WEBHOOKS__ALLOW_PRIVATE_URLS": "any"}, ("private networks", "fail")),
        ({"SWELL_WORKER__ALLOW_PRIVATE_URLS": "any"}, ("private networks", "fail")),
        ({"SWELL_LOG__LEVEL": "debug"}, ("log", "warn")),
    ],
    ids=lambda case: " ".join(map(str, case.items() if isinstance(case, dict) else case))[:60],
)
def test_each_fault_is_found_with_its_reason_and_its_mend(
    tmp_path: Path, changes: dict[str, str], expected: tuple[str, str]
) -> None:
    findings = found(tmp_path, changes)
    assert expected in wrong(findings)
    assert {name for name, _ in wrong(findings)} == {expected[0]}
    assert all(each.why and each.mend for each in findings if each.grade != "ok")


def test_one_backend_may_have_its_files_in_a_folder_and_its_tasks_in_sqlite(tmp_path: Path) -> None:
    alone = {"SWELL_STORE__URL": "", "SWELL_OBJECTS__URL": ""}
    assert wrong(found(tmp_path, alone, backends=1)) == []
    # Processes on one machine share a folder, and no SQLite file.
    several = alone | {"SWELL_SERVER__PROCESSES": "2"}
    assert wrong(found(tmp_path, several, backends=1)) == [("store", "fail")]


@pytest.mark.parametrize(
    ("url", "is_fine"),
    [
        ("nats://127.0.0.1/swell", True),
        ("nats://10.0.0.7/swell", True),
        ("nats://nats/swell", True),
        ("nats://nats.swell.svc:4222/swell", True),
        ("nats://nats.swell.svc.cluster.local/swell", True),
        ("tls://nats.example/swell", True),
        ("nats://8.8.8.8/swell", False),
    ],
)
def test_within_what_looks_private_tls_is_not_asked_for(
    tmp_path: Path, url: str, is_fine: bool
) -> None:
    assert wrong(found(tmp_path, {"SWELL_BROKER__URL": url})) == (
        [] if is_fine else [("database", "warn")]
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"image": "registry.example:5000/poster"}, ("pool jobs", "warn")),
        ({"image": "registry.example/poster:latest"}, ("pool jobs", "warn")),
        ({"drain_s": 300}, ("pool jobs", "warn")),
        ({"more": ""}, ("pool jobs", "warn")),
        ({"more": "sercet = 'x'"}, ("pool jobs", "fail")),
    ],
)
def test_pools_are_looked_at(
    tmp_path: Path, options: dict[str, object], expected: tuple[str, str]
) -> None:
    told = {"drain_s": 90, "image": "registry.example/poster:7", "more": "secret = 'workers'"}
    assert wrong(found(tmp_path, toml=POOL.format(**(told | options)))) == [expected]


def test_a_pool_without_a_key_or_a_provider_or_a_price_is_told(tmp_path: Path) -> None:
    pool = '[pools.gpu]\nprovider = "kubernets"\nmodels = ["acme/poster"]\n'
    findings = found(tmp_path, {"SWELL_AUTOSCALE__TOKEN": ""}, pool)
    told = " ".join(f"{each.detail} {each.mend}" for each in findings if each.grade != "ok")
    assert "did you mean kubernetes?" in told
    assert "SWELL_AUTOSCALE__TOKEN_FILE" in told
    assert "pools.gpu.hour_micros" in told


@pytest.mark.parametrize(
    ("url", "grade"),
    [
        ("https://swell.example", None),
        ("http://swell.example", "fail"),
        ("http://127.0.0.1:8000", "fail"),
        ("https://10.1.2.3", "fail"),
        ("https://swell.internal", "fail"),
    ],
)
def test_machines_of_clouds_must_find_the_backend(
    tmp_path: Path, url: str, grade: str | None
) -> None:
    pool = """
        [pools.spot]
        provider = "azure"
        models = ["acme/poster"]
        hour_micros = 1
        drain_s = 25
        [pools.spot.options]
        image = "registry.example/poster:7"
        drain_s = 30
        subscription = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
        group = "shop"
        location = "westeurope"
        subnet = "/subscriptions/s/subnets/s"
        sizes = ["Standard_NC4as_T4_v3"]
        source_image = "canonical:ubuntu-24_04-lts:server:latest"
        ssh_key = "ssh-ed25519 AAAA"
    """
    findings = found(tmp_path, {"SWELL_AUTOSCALE__URL": url}, pool)
    told = [each for each in findings if each.name == "pool spot"]
    assert [each.grade for each in told] == ([grade] if grade else []), told


def test_workers_ask_where_the_autoscaler_says_or_else_where_clients_ask(tmp_path: Path) -> None:
    for changes, url in (
        ({}, "https://swell.example"),
        ({"SWELL_AUTOSCALE__URL": "https://inner.example"}, "https://inner.example"),
    ):
        settings = load(environment=SOUND | changes, folder=tmp_path).settings
        assert worker_url(settings) == url
