"""README.md and the tutorial are followed word for word, except for their installation.

The figure `door-readme` installs too, in a fresh clone.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import door_readme  # noqa: E402 - it is among the benchmarks
from door_readme import Reader, Step, Terminal, agrees, environment, steps, with_free_ports  # noqa: E402
from pages import blocks  # noqa: E402

PAGE = (ROOT / door_readme.TUTORIAL).read_text()
README = (ROOT / door_readme.README).read_text()


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
```sh title="Needs a GPU"
ls
```
1. Press **Create**.
"""
    assert steps(page) == [
        Step("type", "Terminal 1", "ls\npwd\n", 2),
        Step("see", "Terminal 1", "a…\n", 6),
        Step("write", "swell.toml", "[worker]\n", 9),
        Step("needs", "Needs a GPU", "ls\n", 12),
        Step("browse", "", "Press **Create**.", 15),
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


@pytest.mark.parametrize(
    ("page", "kinds"),
    [(README, {"type", "see", "write", "needs"}), (PAGE, {"type", "see", "write", "browse"})],
    ids=["README.md", "docs/tutorial.md"],
)
def test_every_block_of_the_page_is_a_step(page: str, kinds: set[str]) -> None:
    found = steps(page)
    assert len([step for step in found if step.kind != "browse"]) == page.count("\n```") // 2
    assert {step.kind for step in found} == kinds


def test_the_readme_has_at_most_900_words() -> None:
    assert len(README.split()) <= door_readme.MOST_WORDS


#: Where this test begins: what comes before installs.
SECOND = "## 2. Write a model"


def test_every_block_of_a_shell_is_typed_and_every_program_written() -> None:
    found = steps(PAGE.partition(SECOND)[2])
    typed = [step.text for step in found if step.kind == "type"]
    assert typed == blocks("docs/tutorial.md", "sh", SECOND)
    written = [step.text for step in found if step.kind == "write"]
    assert set(blocks("docs/tutorial.md", "python", SECOND)) <= set(written)


@pytest.mark.parametrize(
    ("shell", "has_failed"),
    [("true\n", False), ("false\ntrue\n", True), ("if false; then :; fi\n", False)],
)
def test_a_command_that_fails_in_the_middle_of_a_block_is_noticed(
    tmp_path: Path, shell: str, has_failed: bool
) -> None:
    terminal = Terminal(tmp_path, environment(tmp_path))
    try:
        terminal.type(shell)
        assert terminal.ended(30) == 0
        assert terminal.has_failed() == has_failed
    finally:
        terminal.close()


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
    page, _ = with_free_ports(SECOND + PAGE.partition(SECOND)[2])
    path = os.environ.get("PYTHONPATH")
    variables = environment(home) | ({"PYTHONPATH": path} if path else {})
    with Reader(clone, variables, limit_s=90) as reader:
        reader.follow("docs/tutorial.md", page)
    assert reader.failed == []
