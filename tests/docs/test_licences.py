"""What is shipped is listed with its licence, and what a release says of itself agrees."""

import json
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import licences  # noqa: E402 - it lies among the pages

PAGE = (ROOT / "docs" / "reference" / "licences.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", PAGE, re.MULTILINE))

#: What may be passed on with a notice, and asks nothing of who uses it.
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-CMU"),
    # Of a typeface, which is used as any file of the app.
    *("OFL-1.1", "PSF-2.0", "Zlib"),
}


@pytest.mark.parametrize("extras", [(), ("embedded",)])
def test_every_package_that_is_installed_with_swell_is_listed(extras: tuple[str, ...]) -> None:
    needed = licences.required(*extras) - {"swell-models"}
    assert len(needed) > 20
    assert needed <= set(ROWS), "run `make docs`"


def test_what_the_app_may_hold_is_listed_with_its_licence() -> None:
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text("utf-8"))
    found = licences.bundled(lock)
    assert {"Bricolage Grotesque", "svelte", "uplot"} < set(found)
    assert {name: ROWS.get(name) for name in found} == found, "run `make docs`"


def test_every_file_of_the_weights_is_listed() -> None:
    notice = (ROOT / "packages" / "swell-models" / "NOTICE.md").read_text("utf-8")
    rows = licences.weights(notice)
    assert rows
    assert all(row in PAGE for row in rows), "run `make docs`"
    folder = ROOT / "packages" / "swell-models" / "src" / "swell_models" / "weights"
    files = {path.name for path in folder.iterdir()} - {"files.json"}
    assert files <= set(re.findall(r"`([^`]+)`", " ".join(row.split("|")[1] for row in rows)))


def test_networks_and_traces_outside_the_weights_are_listed() -> None:
    folders = ("benchmarks", "src", "tests", "training", "examples", "docs", "deploy")
    networks = [
        str(path.relative_to(ROOT)) for each in folders for path in (ROOT / each).rglob("*.onnx")
    ]
    sources = [
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src").rglob("*.py")
        if "AzurePublicDataset" in (text := path.read_text("utf-8")) or "clusterdata" in text
    ]
    assert networks
    assert sources
    assert all(f"`{each}`" in PAGE for each in (*networks, *sources)), "see docs/licences.py"


def test_no_licence_asks_anything_of_who_uses_swell() -> None:
    words = {word for licence in ROWS.values() for word in re.split(r" (?:AND|OR|or) ", licence)}
    assert words <= PERMISSIVE


# ---- releases


def releases() -> list[str]:
    """Return the versions of the changelog, the newest first."""
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heads[0] == "Unreleased" or re.match(r"\d", heads[0])
    return [head.split()[0] for head in heads if head != "Unreleased"]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_version_is_told_once_and_the_changelog_goes_up_to_it() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert metadata.version("swell") == told
    versions = releases()
    assert versions == sorted(set(versions), key=numbers, reverse=True)
    # What is in the tree is the newest release, or one to come whose changes are told.
    assert all(numbers(version) <= numbers(told) for version in versions)
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    changes = text.partition("## Unreleased\n")[2].partition("\n## ")[0]
    assert told in versions or re.search(r"^- ", changes, re.MULTILINE)


def test_changes_stand_below_the_headings_that_the_changelog_names() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    named = re.search(r"Headings: ([\w, ]+)\.", text)
    assert named
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= set(named[1].split(", "))
