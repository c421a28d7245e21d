"""Blocks of pages, and people who do what stands there.

Which blocks tests take is read off the calls of `block`, `blocks` and `commands`, so the words of
those are literals (tests/docs/test_blocks_run.py). Whoever takes a block of a shell runs it.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from commandline import PATIENCE_S, clean_environment

__all__ = ["ROOT", "Block", "Reader", "block", "blocks", "commands", "every_block", "ran"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, whose path is named from the root."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str) -> list[Block]:
    """Return all blocks of a page, also those that stand in lists."""
    text = (ROOT / page).read_text("utf-8")
    found = re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [
        Block(
            page,
            text.count("\n", 0, each.start()) + 1,
            each[2],
            re.sub(rf"^{each[1]}", "", each[3], flags=re.MULTILINE),
        )
        for each in found
    ]


@functools.cache
def every_block() -> list[Block]:
    """Return the blocks of all pages, without those of npm's packages."""
    folders = ("docs", "deploy", "examples", "packages", "training", "tests", "benchmarks")
    pages = [path for folder in folders for path in (ROOT / folder).rglob("*.md")]
    pages += ROOT.glob("*.md")
    pages = [path for path in pages if "node_modules" not in path.parts]
    return [each for path in sorted(pages) for each in blocks_of(str(path.relative_to(ROOT)))]


def block(page: str, holding: str, language: str = "python") -> str:
    """Return the one block of a page in a language that has these words in it."""
    [found] = [each for each in blocks(page, language) if holding in each]
    return found


def blocks(page: str, language: str = "python", since: str = "") -> list[str]:
    """Return the blocks of a page in a language, from a line on that is given."""
    begin = (ROOT / page).read_text("utf-8").split("\n").index(since) if since else 0
    found = [each for each in blocks_of(page) if each.language == language and each.line > begin]
    return [each.text for each in found]


def commands(page: str, holding: str, language: str = "sh") -> list[list[str]]:
    """Return the words after `swell` of each line of a block that has no other commands."""
    lines = [
        shlex.split(each, comments=True) for each in block(page, holding, language).splitlines()
    ]
    assert all(words[0] == "swell" for words in lines if words)
    return [words[1:] for words in lines if words]


@dataclass(frozen=True)
class Reader:
    """Somebody who types what a page says, in a folder, with the command of this environment."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    patience_s: float = PATIENCE_S

    def does(
        self, script: str, *instead: tuple[str, str], answers: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a block as it stands there, but for these words, until its end.

        Args:
            script: The block, or a part of it.
            instead: Words of the page, and what stands for them here.
            answers: What is typed when it asks.
        """
        for there, here in instead:
            assert there in script, there
            script = script.replace(there, here)
        own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-ec", script],
            cwd=self.folder,
            env=clean_environment() | own | dict(self.variables),
            input=answers,
            capture_output=True,
            text=True,
            timeout=self.patience_s,
            check=False,
        )
        assert done.returncode == 0, f"{script}{done.stdout}{done.stderr}"
        return done


def ran(script: str, folder: Path, patience_s: float = PATIENCE_S) -> str:
    """Run a script in a folder and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
