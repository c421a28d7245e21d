"""The tutorial is followed word for word, but for its installation, which a figure follows too."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import docs_tutorial  # noqa: E402 - it lies among the benchmarks
from docs_tutorial import Reader, Step, agrees, environment, steps, with_free_ports  # noqa: E402
from pages import blocks  # noqa: E402

PAGE = (ROOT / docs_tutorial.PAGE).read_text()


def test_a_block_says_where_it_belongs() -> None:
    with pytest.raises(ValueError, match="line 1"):
        steps("```sh\nls\n```\n")


def test_steps_are_what_is_typed_seen_written_and_done_in_the_browser() -> None:
    page = """
```sh title="Terminal 1"
ls
pwd
```
```text title="Terminal 1"
a…
```
```toml title="swell.toml"
[worker]
```
1. Press **Create**.
"""
    assert steps(page) == [
        Step("type", "Terminal 1", "ls\npwd\n", 2),
        Step("see", "Terminal 1", "a…\n", 6),
        Step("write", "swell.toml", "[worker]\n", 9),
        Step("browse", "", "Press **Create**.", 12),
    ]


@pytest.mark.parametrize(
    ("shown", "printed", "is_so"),
    [
        ("a\nb", "x\na\ny\nb\n", True),
        ("a\nb", "b\na\n", False),
        ("a … c", "a b c", True),
        ("a … c", "a b d", False),
        ("a", "ab", False),
        ("a\na", "a", False),
    ],
)
def test_what_is_shown_was_printed_in_this_order(shown: str, printed: str, is_so: bool) -> None:
    assert agrees(shown, printed) == is_so


def test_every_block_of_the_page_is_a_step() -> None:
    found = steps(PAGE)
    assert len([step for step in found if step.kind != "browse"]) == PAGE.count("\n```") // 2
    assert {step.kind for step in found} == {"type", "see", "write", "browse"}


#: Where this test begins: what comes before installs.
SECOND = "## 2. A model of your own"


def test_every_block_of_a_shell_is_typed_and_every_program_written() -> None:
    found = steps(PAGE.partition(SECOND)[2])
    typed = [step.text for step in found if step.kind == "type"]
    assert typed == blocks("docs/tutorial.md", "sh", SECOND)
    written = [step.text for step in found if step.kind == "write"]
    assert set(blocks("docs/tutorial.md", "python", SECOND)) <= set(written)


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(400)
def test_the_page_can_be_followed(tmp_path: Path) -> None:
    if shutil.which("chromium") is None or not (ROOT / "web" / "dist" / "index.html").is_file():
        pytest.skip("needs chromium, and the web app: `make web`")
    home, clone = tmp_path / "home", tmp_path / "swell"
    home.mkdir()
    clone.mkdir()
    (clone / ".venv").symlink_to(sys.prefix)
    page, ports = with_free_ports(SECOND + PAGE.partition(SECOND)[2])
    path = os.environ.get("PYTHONPATH")
    reader = Reader(
        clone, environment(home, ports) | ({"PYTHONPATH": path} if path else {}), limit_s=90
    )
    reader.follow(page)
    assert reader.failed == []
