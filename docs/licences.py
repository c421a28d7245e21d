"""Writes `docs/reference/licences.md` from what is shipped: `python docs/licences.py`.

Python packages and their licences are those that are installed here, the app's packages those of
its lock file, weights and data those of their notice. A test compares.
"""

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["bundled", "licence_of", "main", "page", "required", "weights"]

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "licences.md"

#: As packages tell their licences → as SPDX does.
_SPDX: Final = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}

_HEAD: Final = """# Licences

<!-- Written by `python docs/licences.py`. -->

Swell is under [Apache-2.0](../../LICENSE). This is what comes with it, or is
installed with it, under licences of others. Weights that you add have licences of their own, which
Swell does not know.

"""

_INSTALLED: Final = """## Installed with Swell

Packages of Python that `pip install swell` brings, and below those that `swell[embedded]` brings
besides; other extras bring others.

"""

_IN_THE_APP: Final = """
## In the web app

What the app is made with, of which it holds what it uses; no more than these can be in it.
Their texts and notices are in `licences.txt` beside the app, in the wheel `swell/web/licences.txt`.

"""

_WEIGHTS: Final = """
## Weights and data

The package `swell-models`; [its notice](../../packages/swell-models/NOTICE.md) has the texts, the
sets of pictures that networks learned from, and their authors.

| file | what | licence |
|---|---|---|
"""

_IN_THE_CODE: Final = """
## Data in the code

What stands in Swell's own files and was measured, drawn or written by others.

| file | what | licence |
|---|---|---|
"""

#: Files, what of others is in them, and its licence.
_DATA: Final = (
    (
        ("swell/simulator/scenarios.py",),
        "requests in each minute of the Azure LLM inference trace 2023 (`azure-conv`, "
        "`azure-code`), of AzurePublicDataset, Microsoft",
        "CC-BY-4.0",
    ),
    (
        ("swell/simulator/speeds.py", "swell/simulator/traces.py", "benchmarks/replay.py"),
        "quantiles and shares of GenTD26 (cluster-trace-v2026-GenAI of alibaba/clusterdata; Lin "
        "et al., SoCC 2025), and none of its rows",
        "the data set is for research and study",
    ),
    (
        ("swell/core/billing/prices.toml",),
        "prices of machines, as facts: read from SkyPilot's catalogue (skypilot-org), each row "
        "with its version and the day; no text of it",
        "Apache-2.0, as Swell",
    ),
    (
        ("swell/models/samples/*", "swell/models/styles/*.webp", "swell_models/samples/*"),
        "what the models of `swell-models` and the demonstrations gave; samples of portraits, "
        "faces, cutouts, safety and enlargement were made from `portrait.webp`, which is NASA's, "
        "or from drawn pictures. No endorsement of any kind is meant",
        "Apache-2.0, as Swell; the photograph is in the public domain",
    ),
    (
        ("benchmarks/judge/judge.onnx", "benchmarks/judge/stranger.onnx"),
        "networks of Swell's own that recognise icons; in the sdist, not in the wheel. They "
        "learned from Noto Emoji (Apache-2.0), Fluent Emoji (MIT), Twemoji and Emoji One 2 "
        "(CC-BY-4.0)",
        "Apache-2.0",
    ),
)

_IN_THE_SITE: Final = """
## In the documentation's site

Zensical, whose theme comes with the pages that `make site` makes, and not with Swell.

"""


def _web_build() -> Any:
    """Import web/build.py, which is no part of a package and writes the licences into the app."""
    spec = importlib.util.spec_from_file_location("swell_web_build", ROOT / "web" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: Returns what may be in the app, of a lock file of npm: package → licence.
bundled: Final[Callable[[dict[str, Any]], dict[str, str]]] = _web_build().bundled


def licence_of(name: str) -> str:
    """Return the licence of an installed package, by SPDX where it is known."""
    told = metadata.metadata(name)
    expression = told.get("License-Expression")
    if expression:
        return str(expression)
    classified = [
        each.rpartition(" :: ")[2]
        for each in told.get_all("Classifier") or []
        if each.startswith("License :: ")
    ]
    words = classified or [(told.get("License") or "not told").strip().splitlines()[0]]
    return " or ".join(_SPDX.get(word, word) for word in words)


def required(*extras: str) -> set[str]:
    """Return the packages that Swell needs with these extras, and those that they need."""
    found: set[str] = set()
    waiting = [("swell", {"", *extras})]
    while waiting:
        name, wanted = waiting.pop()
        for each in map(Requirement, metadata.requires(name) or []):
            marker, needed = each.marker, canonicalize_name(each.name)
            is_asked = marker is None or any(marker.evaluate({"extra": extra}) for extra in wanted)
            if is_asked and needed not in found and needed != "swell":
                found.add(needed)
                waiting.append((needed, {"", *each.extras}))
    return found


def weights(notice: str) -> list[str]:
    """Return the rows of the notice's table of files."""
    table = notice.partition("| file | what | licence |\n|---|---|---|\n")[2]
    return table.partition("\n\n")[0].splitlines()


def page() -> str:
    """Return the page."""
    core = required()
    more = required("embedded") - core - {"swell-models"}
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    notice = (ROOT / "packages" / "swell-models" / "NOTICE.md").read_text()
    parts = [
        _HEAD,
        _INSTALLED,
        _table("package", {name: licence_of(name) for name in sorted(core)}),
        "\n",
        _table("with `embedded`", {name: licence_of(name) for name in sorted(more)}),
        _IN_THE_APP,
        _table("package or typeface", dict(sorted(bundled(lock).items()))),
        _WEIGHTS,
        "".join(f"{row}\n" for row in weights(notice)),
        _IN_THE_CODE,
        *(
            f"| {', '.join(f'`{file}`' for file in files)} | {what} | {licence} |\n"
            for files, what, licence in _DATA
        ),
        _IN_THE_SITE,
        _table("package", {"zensical": licence_of("zensical")}),
    ]
    return "".join(parts)


def _table(head: str, rows: dict[str, str]) -> str:
    lines = [f"| {head} | licence |", "|---|---|"]
    return (
        "\n".join([*lines, *(f"| `{name}` | {licence} |" for name, licence in rows.items())]) + "\n"
    )


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
