"""The list of known traps names tests that exist, and the page of clients the tested versions."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")
CLIENTS = ROOT / "tests" / "clients"


def test_every_trap_has_a_test_that_is_there() -> None:
    rows = (
        (CLIENTS / "README.md").read_text("utf-8").partition("## Known traps")[2].split("\n| ")[3:]
    )
    assert len(rows) >= 18
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", row)
        assert named, row
        for path, name in named:
            text = (ROOT / path).read_text("utf-8")
            assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), (path, name)


def test_the_versions_of_the_page_are_those_that_are_driven() -> None:
    told = set(re.findall(r"\b\d+\.\d+\.\d+(?:b\d+)?\b", PAGE))
    pinned = "\n".join(each.read_text("utf-8") for each in (CLIENTS / "requirements").glob("*.txt"))
    clients = r"^(?:replicate|openai|fal_client|libretranslatepy)==(\S+)$"
    driven = set(re.findall(clients, pinned, re.MULTILINE))
    packages = json.loads((CLIENTS / "node" / "package.json").read_text("utf-8"))
    driven |= set(packages["dependencies"].values())
    assert driven <= told
