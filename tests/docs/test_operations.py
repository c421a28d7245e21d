"""The dashboard, the alerts and the pages for operators speak of metrics that are there."""

import functools
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from commandline import Swell, ready_line, stop
from swell.server.metrics import METRICS, PROCESS_METRICS

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "swell.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
OPERATE = ROOT / "docs" / "operate.md"

#: What Prometheus itself adds to whatever it scrapes.
SCRAPED = {"up": {"job", "instance"}}
ADDED = {"job", "instance"}

#: Words of PromQL that look like names.
WORDS = frozenset(
    {
        *("by", "without", "on", "ignoring", "group_left", "group_right", "bool", "and", "or"),
        *("unless", "offset", "sum", "max", "min", "avg", "count", "topk", "bottomk", "rate"),
        *("increase", "changes", "histogram_quantile", "le"),
    }
)


@functools.cache
def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


@functools.cache
def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def queries() -> list[tuple[str, str]]:
    """Return (where, PromQL) of everything that is asked."""
    asked = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    asked += [(name, rule["expr"]) for name, rule in alerts().items()]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            metric = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert metric, variable["definition"]
            asked.append((variable["name"], f"sum by ({metric[2]}) ({metric[1]})"))
    return asked


def read(query: str) -> tuple[set[str], set[str]]:
    """Return the metrics and the labels of a query."""
    depth = 0
    for letter in query:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        assert depth >= 0, query
    assert depth == 0, query
    labels = set()
    for names in re.findall(r"\b(?:by|without|on)\s*\(([^)]*)\)", query):
        labels |= {name.strip() for name in names.split(",") if name.strip()}
    for matchers in re.findall(r"\{([^}]*)\}", query):
        labels |= set(re.findall(r"(\w+)\s*[=!]", matchers))
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on)\s*\([^)]*\)|\"[^\"]*\"", " ", query)
    names = set(re.findall(r"\b[a-z_][a-z0-9_]*\b", bare)) - WORDS
    return names, labels - {"le"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swell]:
    swell = Swell(tmp_path_factory.mktemp("swell"))
    process = swell.start("up", "--json", "--port", "0", "-m", "demo/upper")
    try:
        ready_line(process, swell.folder)
        yield swell
    finally:
        assert stop(process) == 0


@pytest.fixture(scope="module")
def series(running: Swell) -> dict[str, set[str]]:
    """Sample → its labels, as a service tells them that has run a task."""
    done = running.run("tasks", "submit", "demo/upper", "-i", "text=a", "--watch")
    assert done.returncode == 0, done.stderr
    access = json.loads((running.folder / ".swell" / "access.json").read_text())
    with urllib.request.urlopen(f"{access['url']}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, set[str]] = dict(SCRAPED)
    for family in text_string_to_metric_families(text):
        names = {
            "counter": [f"{family.name}_total"],
            "histogram": [f"{family.name}{end}" for end in ("_bucket", "_sum", "_count")],
        }.get(family.type, [family.name])
        for name in names:
            found.setdefault(name, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


#: Labels of what a service has only after something went wrong, or that this one has not.
RARE = {
    "swell_tasks_dead_total": {"model"},
    "swell_attempts_requeued_total": {"model"},
    "swell_tasks_swept_total": {"what"},
    "swell_canary_rollbacks_total": {"model"},
    "swell_canary_share": {"model"},
    "swell_canary_evidence": {"model", "what"},
    "swell_tasks_degraded_total": {"model"},
    "swell_requests_refused_total": {"code"},
    "swell_class_ready": {"model", "class"},
    "swell_model_switches_total": {"model", "source"},
    "swell_workers_starting": {"pool"},
    "swell_cost_micros_total": {"pool", "kind"},
    "swell_cost_seconds_total": {"pool", "kind"},
    "swell_cost_images_total": {"pool"},
    "swell_budget_micros": {"period"},
    "swell_pool_desired": {"pool"},
    "swell_pool_ready": {"pool"},
    "swell_pool_booting": {"pool"},
    "swell_pool_draining": {"pool"},
    "swell_pool_closed_seconds": {"pool"},
    "swell_pool_changes_total": {"pool", "what"},
    "swell_pool_ends_total": {"pool", "how"},
    "swell_call_errors_total": {"contract", "call", "code"},
    "swell_duty_failures_total": {"duty"},
    "swell_queue_oldest_age_seconds": {"queue"},
    "swell_tasks_waiting": {"queue"},
    "swell_tasks_running": {"queue"},
    "swell_tasks_delayed": {"queue"},
}


def test_every_query_asks_for_metrics_and_labels_that_are_there(
    series: dict[str, set[str]],
) -> None:
    wrong = []
    for where, query in queries():
        names, labels = read(query)
        assert names, (where, query)
        known = set(ADDED)
        for name in names:
            if name not in series:
                wrong.append(f"{where}: {name}")
                continue
            known |= series[name] | RARE.get(name, set())
        wrong += [f"{where}: label {label}" for label in labels - known]
    assert wrong == []


def test_the_reader_of_queries_finds_what_is_wrong() -> None:
    query = 'histogram_quantile(0.9, sum by (le, pod) (rate(odd_bucket{job="x", a=~"b"}[5m]))) > 1'
    assert read(query) == ({"odd_bucket"}, {"pod", "job", "a"})
    with pytest.raises(AssertionError):
        read("sum(rate(x[5m])")


def test_a_service_tells_every_metric_that_is_described(series: dict[str, set[str]]) -> None:
    told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}
    assert set(METRICS) | set(PROCESS_METRICS) <= told


#: What no panel and no alert asks for: each is told in another way by one that does.
NOT_SHOWN = {
    "swell_cost_seconds_total",
    "swell_pool_busy",
    "swell_pool_ends_total",
    "swell_queue_republished_total",
}


def test_every_metric_is_asked_for_or_was_left_out_on_purpose() -> None:
    asked = {name for _, query in queries() for name in read(query)[0]}
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert set(METRICS) - shown - NOT_SHOWN == set()
    assert set(METRICS) >= NOT_SHOWN


def test_every_panel_has_a_place_a_unit_and_says_what_it_shows() -> None:
    places = [tuple(panel["gridPos"].values()) for panel in dashboard()["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(places)
    for panel in panels():
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    assert dashboard()["schemaVersion"] >= 36, "older than Grafana 10"


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = re.findall(r"^### (Swell\w+)$", OPERATE.read_text(), re.MULTILINE)
    assert sections == list(alerts())


def test_every_alert_says_how_urgent_it_is_and_what_happens() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("page", "ticket"), name
        assert rule["annotations"]["summary"], name
        section = OPERATE.read_text().partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert len(section.split()) > 20, name


def test_metrics_that_the_page_names_are_there() -> None:
    told = set(re.findall(r"`((?:swell|process)_\w+)`", OPERATE.read_text()))
    assert told
    assert told <= set(METRICS) | set(PROCESS_METRICS)
