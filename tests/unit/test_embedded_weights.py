"""The weights that come with Swell: what is written down of them, and what is said without them."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from swell.core.errors import InvalidModel
from swell.sdk.model_loader import load_models

pytest.importorskip("onnxruntime")
pytest.importorskip("swell_models")

import swell_models
from swell.models import onnx_sessions as embedded

WEIGHTS = swell_models.path("files.json").parent
NOTICE = Path(__file__).resolve().parents[2] / "packages" / "swell-models" / "NOTICE.md"

#: What stands in the text of each licence, from its beginning to its end. CC BY 4.0 asks for its
#: text or its address (section 3(a)(1)(C)).
TERMS = {
    "Apache-2.0": ("1. Definitions.", "9. Accepting Warranty", "END OF TERMS AND CONDITIONS"),
    "BSD-2-Clause": ("2. Redistributions in binary form", "EVEN IF ADVISED OF THE POSSIBILITY"),
    "BSD-3-Clause": ("3. Neither the name of the copyright holder", "EVEN IF ADVISED OF THE"),
    "CC-BY-4.0": ("<https://creativecommons.org/licenses/by/4.0/>",),
    "LicenseRef-SCOWL": (
        "The collective work is Copyright 2000-2011 by Kevin Atkinson",
        "provided that the above copyright notice appears in all copies",
        "Copyright (c) J Ross Beresford 1993-1999. All Rights Reserved.",
        "Copyright 1993, Geoff Kuenning, Granada Hills, CA",
    ),
    "LicenseRef-public-domain": ("| public domain |",),
    "MIT": ("Permission is hereby granted, free of charge", "OTHER DEALINGS IN THE SOFTWARE."),
    "Unicode-3.0": (
        "COPYRIGHT AND PERMISSION NOTICE",
        "this copyright and permission notice appear with all copies of the Data Files",
        "THIRD PARTY RIGHTS. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR HOLDERS",
        "without prior written authorization of the copyright holder.",
    ),
}

#: Of all files together. An index takes wheels of 100 MB.
MOST_BYTES = 60_000_000


def test_weights_are_those_that_were_written_down() -> None:
    told = json.loads((WEIGHTS / "files.json").read_text())
    there = {path.name for path in WEIGHTS.iterdir()} - {"files.json", "sets.json"}
    assert there == set(told)
    for name, file in told.items():
        data = (WEIGHTS / name).read_bytes()
        assert len(data) == file["bytes"], name
        assert hashlib.sha256(data).hexdigest() == file["sha256"], name


def test_weights_fit_in_one_wheel() -> None:
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) <= MOST_BYTES


def test_every_file_has_a_licence_and_the_notice_names_it() -> None:
    notice = NOTICE.read_text(encoding="utf-8")
    texts = [notice, NOTICE.with_name("LICENSE").read_text(encoding="utf-8")]
    terms = " ".join(" ".join(texts).split())
    for name, file in json.loads((WEIGHTS / "files.json").read_text()).items():
        assert file["licence"], name
        assert file["source"], name
        assert f"`{name}`" in notice
        packed = re.findall(r"(?:PyPI|npm|Debian) (\S+)( \d+(?:\.\d+)+)?", file["source"])
        assert packed or file["source"].startswith("trained for Swell on the sets of sets.json"), (
            name
        )
        assert all(version for _, version in packed), name
        for licence in file["licence"].split(" AND "):
            assert all(part in terms for part in TERMS[licence]), (name, licence)


def test_holders_whose_licences_ask_for_it_are_named() -> None:
    notice = NOTICE.read_text(encoding="utf-8")
    for holder in ("Microsoft Corporation", "2019 StarClouds", "2017-2019 Miles Johnson"):
        assert f"Copyright (c) {holder}" in notice
    assert "Copyright © 1991-2026 Unicode, Inc." in notice


def test_what_the_icons_began_from_is_told_with_the_file_and_in_the_notice() -> None:
    told = json.loads((WEIGHTS / "files.json").read_text())
    for name in ("icons-unet.onnx", "icons-decoder.onnx"):
        assert "CC BY 4.0" in told[name]["source"]
    assert all("version" in one for one in json.loads((WEIGHTS / "sets.json").read_text()).values())


def test_the_weights_of_a_model_are_part_of_its_version() -> None:
    (definition,) = load_models("swell/upscale")
    assert embedded.weights("upscale.onnx") in definition.files


@pytest.mark.parametrize("name", ["nothing.onnx", "../__init__.py", ""])
def test_a_file_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(InvalidModel, match="pip install --upgrade"):
        embedded.weights(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "model"),
    [
        ("swell_models", "swell/upscale"),
        ("swell_models", "swell/paint"),
        ("swell_models", "demo/curve"),
        ("onnxruntime", "swell/upscale"),
        ("onnxruntime", "swell/paint"),
    ],
)
def test_without_weights_or_runtime_it_says_what_to_install(missing: str, model: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from swell.core.errors import InvalidModel\n"
        "from swell.sdk.model_loader import load_models\n"
        f"try: load_models({model!r})\n"
        "except InvalidModel as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"{missing} is not installed" in ran.stdout
    assert "pip install 'swell[embedded]'" in ran.stdout
