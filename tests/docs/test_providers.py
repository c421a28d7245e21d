"""What is told of providers is what they have, ask for and may do."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from swell.providers.factory import KINDS, options_of
from swell.providers.options import checked
from swell.providers.reference import providers_markdown
from swell.settings.load import load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "workers-anywhere.md").read_text()
SOURCES = ROOT / "src" / "swell" / "providers"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_reference_of_options_is_what_the_code_says() -> None:
    written = (DOCS / "reference" / "providers.md").read_text()
    assert written == providers_markdown(), "run `make docs`"


def test_every_provider_is_told_with_the_extra_that_it_needs() -> None:
    section = PAGE.partition("## Where")[2].partition("### This machine")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \|([^|]*)\|", section, re.MULTILINE))
    assert set(rows) == {"process", *KINDS}
    extras = {name: re.findall(r"swell\[(\w+)\]", needs) for name, needs in rows.items()}
    assert extras == {"process": []} | {k: [v.extra] if v.extra else [] for k, v in KINDS.items()}


def test_the_examples_are_pools(tmp_path: Path) -> None:
    providers = set()
    for text in blocks("toml"):
        (tmp_path / "swell.toml").write_text(text)
        settings = load(environment={}, folder=tmp_path).settings
        for name, pool in settings.pools.items():
            providers.add(pool.provider)
            if pool.provider != "process":
                checked(options_of(pool.provider), pool.options, f"pools.{name}.options")
    assert {"aws", "gcp", "azure", "kubernetes", "skypilot", "external"} <= providers


def test_the_rights_that_amazon_is_asked_for_are_those_of_the_calls_that_are_made() -> None:
    policy: dict[str, Any] = json.loads(blocks("json")[0])
    allowed = set()
    for each in policy["Statement"]:
        actions = each["Action"]
        allowed |= {actions} if isinstance(actions, str) else set(actions)
    source = (SOURCES / "aws.py").read_text()
    called = set(re.findall(r'(?:ec2|_client\("ec2"\))\.(\w+)\(', source)) - {"get_paginator"}
    called |= set(re.findall(r'get_paginator\("(\w+)"\)', source))
    wanted = {f"ec2:{_camel(each)}" for each in called}
    queue = {each.removesuffix("_batch") for each in re.findall(r"\bsqs\.(\w+)\(", source)}
    wanted |= {f"sqs:{_camel(each)}" for each in queue}
    # What CreateFleet does on one's behalf.
    assert allowed == wanted | {"ec2:CreateTags", "ec2:RunInstances", "iam:PassRole"}


def _camel(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))


def test_the_events_of_amazon_are_those_that_are_understood() -> None:
    pattern = json.loads(blocks("json")[1])
    source = (SOURCES / "aws.py").read_text()
    assert set(pattern["detail-type"]) == set(re.findall(r'kind == "([^"]+)"', source))


def test_figures_and_files_that_are_named_are_there() -> None:
    assert "[fleet-providers]" in (ROOT / "benchmarks" / "figures.toml").read_text()
    scripts = sorted((ROOT / "deploy" / "cloud-init").glob("*.sh"))
    assert [each.name for each in scripts] == ["aws.sh", "azure.sh", "gcp.sh"]
    for shown in scripts:
        assert f"cloud-init/{shown.name}" in PAGE
        assert subprocess.run(["sh", "-n", shown], check=False).returncode == 0
