"""Which steps of README.md and of the tutorial fail when both are followed word for word?

Clones HEAD into an empty folder, with an empty HOME, and follows README.md, then docs/tutorial.md
while everything that README.md started is still running. Commands are typed into terminals (bash on
a pseudo-terminal) as the page has them, files are written as shown, the browser's steps are done in
Chromium, and the output is compared with what the page shows. A port that is taken on this machine
is replaced by a free one. Blocks titled `Needs …` want a GPU or a cloud: they are counted by title,
and tests/docs run them with small networks or on local servers.

    python benchmarks/door_readme.py             README.md, then the tutorial
    python benchmarks/door_readme.py tutorial    the tutorial alone
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

from machine import ROOT, report, say

README = Path("README.md")
TUTORIAL = Path("docs") / "tutorial.md"

#: Code included.
MOST_WORDS = 900

#: Packages are downloaded on the way.
LONGEST_STEP_S = 600.0

#: Of `make demo`.
DEMO_PORT = 8000

_FENCE = re.compile(r'^```(\w+) title="([^"]+)"$')
_ITEM = re.compile(r"^\d+\. (.+)$")
#: Colours, ends of lines, and the prompt of an environment.
_LOOKS = re.compile(r"\x1b\[[\d;?]*[A-Za-z]|\r|^(?:\(\.venv\) )+", re.MULTILINE)
_DONE = re.compile(r"^::done (\d+)$", re.MULTILINE)
_FAILED = re.compile(r"^::failed .*$", re.MULTILINE)
#: Reports each command of a block that fails, not only the last one.
_TRAP = """trap 'printf "\\n::failed %s: %s\\n" "$?" "$BASH_COMMAND"' ERR\n"""


# ---- what the page says


@dataclass(frozen=True)
class Step:
    """Something to do, or to see.

    Attributes:
        kind: `type` into a terminal, `see` there, `write` a file, `browse`, or `needs` what this
            machine does not have.
        where: The terminal, the file's path in the clone, or what is needed; empty in the browser.
        text: What is typed, seen or written; of the browser, the sentence.
        line: Its line on the page.
    """

    kind: Literal["type", "see", "write", "browse", "needs"]
    where: str
    text: str
    line: int


def steps(page: str) -> list[Step]:
    """Return the steps of a page in their order.

    Raises:
        ValueError: A block does not say where it belongs.
    """
    found: list[Step] = []
    lines = iter(enumerate(page.splitlines(), start=1))
    for number, line in lines:
        item = _ITEM.match(line)
        if item:
            found.append(Step("browse", "", item[1], number))
        if not line.startswith("```"):
            continue
        fence = _FENCE.match(line)
        if fence is None:
            raise ValueError(f"line {number}: {line} has no title that says where it belongs")
        body = []
        for _, inner in lines:
            if inner == "```":
                break
            body.append(inner)
        text = "\n".join(body) + "\n"
        found.append(Step(_kind(fence[1], fence[2]), fence[2], text, number))
    return found


def _kind(language: str, title: str) -> Literal["type", "see", "write", "needs"]:
    if title.startswith("Needs "):
        return "needs"
    if not title.startswith("Terminal"):
        return "write"
    return "see" if language == "text" else "type"


def agrees(shown: str, printed: str) -> bool:
    """Whether each shown line was printed, in this order; `…` stands for anything."""
    lines = iter(printed.splitlines())
    return all(any(_fits(wanted, line) for line in lines) for wanted in shown.splitlines())


def _fits(wanted: str, line: str) -> bool:
    pattern = ".*".join(re.escape(part.strip()) for part in wanted.split("…"))
    return re.fullmatch(pattern, line.strip()) is not None


# ---- terminals


class Terminal:
    """A bash that somebody types into."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._printed = ""
        self._from = 0
        self._is_stopped = False
        self._news = threading.Condition()
        self._fd, other = pty.openpty()
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        # A session of its own, whose terminal this is: Ctrl-C reaches what runs in front.
        self._shell = subprocess.Popen(
            ["setsid", "--ctty", "bash", "--noprofile", "--norc", "--noediting", "-i"],
            cwd=folder,
            env=environment,
            stdin=other,
            stdout=other,
            stderr=other,
        )
        os.close(other)
        threading.Thread(target=self._read, daemon=True).start()
        self.type(f"stty -echo; PS1=; PS2=\n{_TRAP}")
        self.ended(20)

    def type(self, text: str) -> None:
        """Type, and a line that tells when it is over; what was printed before is done with."""
        with self._news:
            self._from = len(self._printed)
        self._is_stopped = text.startswith("# Ctrl-C")
        if self._is_stopped:
            self._write("\x03")
        self._write(f"{text}printf '\\n::done %s\\n' $?\n")

    def printed(self) -> str:
        """Return what was printed since the last step."""
        with self._news:
            return _LOOKS.sub("", self._printed[self._from :])

    def has_failed(self) -> bool:
        """Whether a command of the last step failed; one that Ctrl-C stopped may."""
        return not self._is_stopped and _FAILED.search(self.printed()) is not None

    def ended(self, limit_s: float) -> int | None:
        """Wait until the last step is over, and return its exit code; None where it goes on."""
        self._until(lambda: _DONE.search(self.printed()) is not None, limit_s)
        found = _DONE.search(self.printed())
        return None if found is None else int(found[1])

    def shows(self, shown: str, limit_s: float) -> bool:
        """Wait until something was printed, or the step is over without."""
        self._until(
            lambda: agrees(shown, self.printed()) or bool(_DONE.search(self.printed())), limit_s
        )
        return agrees(shown, self.printed())

    def close(self) -> None:
        """End what runs in the foreground, and the shell."""
        self._write("\x03")
        self._write("\nexit\n")
        try:
            self._shell.wait(30)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()
        os.close(self._fd)

    def _until(self, is_so: Callable[[], bool], limit_s: float) -> None:
        ends_s = time.monotonic() + limit_s
        with self._news:
            while not is_so() and time.monotonic() < ends_s:
                self._news.wait(0.5)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the shell has ended
            os.write(self._fd, text.encode())

    def _read(self) -> None:
        while True:
            try:
                read = os.read(self._fd, 65_536)
            except OSError:
                return
            with self._news:
                self._printed += read.decode(errors="replace")
                self._news.notify_all()


# ---- a reader


class Reader:
    """Follows pages in a clone and keeps what did not go as they say.

    Attributes:
        failed: The page, the line and the reason of each step that failed.
        needed: How many blocks of each `Needs …` were passed over.
    """

    def __init__(self, clone: Path, environment: dict[str, str], limit_s: float) -> None:
        self.clone = clone
        self.limit_s = limit_s
        self.failed: list[str] = []
        self.needed: Counter[str] = Counter()
        self._environment = environment
        self._terminals: dict[str, Terminal] = {}
        self._link = ""
        self._stack = contextlib.ExitStack()
        self._page: Page | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def follow(self, name: str, page: str) -> int:
        """Do all steps of a page in new terminals, which stay open; return how many there were."""
        self._terminals = {}
        todo, began_s = steps(page), time.monotonic()
        for step, after in zip(todo, [*todo[1:], None], strict=True):
            at_s = time.monotonic() - began_s
            say(f"{at_s:5.0f} s, {name}:{step.line}: {step.kind} {step.where} {step.text[:60]!r}")
            why = self._do(step, after)
            if why:
                say(f"    {why}")
                self.failed.append(f"{name}:{step.line}: {why}")
        return len(todo)

    def _do(self, step: Step, after: Step | None) -> str | None:
        """Return why a step did not go as the page says."""
        if step.kind == "browse":
            return self._browse(step.text)
        if step.kind == "write":
            (self.clone / step.where).write_text(step.text)
            return None
        if step.kind == "needs":
            self.needed[step.where] += 1
            return None
        if step.kind == "see":
            return self._see(step)
        return self._type(step, is_shown=after is not None and _shows(after, step))

    def _type(self, step: Step, is_shown: bool) -> str | None:
        terminal = self._terminals.get(step.where)
        if terminal is None:
            terminal = Terminal(self.clone, self._environment)
            self._terminals[step.where] = terminal
            self._stack.callback(terminal.close)
        elif not step.text.startswith("# Ctrl-C"):
            code = terminal.ended(self.limit_s)
            if code is None:
                return "what ran before has not ended"
        terminal.type(step.text)
        if is_shown:
            return None
        code = terminal.ended(self.limit_s)
        if code == 0 and not terminal.has_failed():
            return None
        return f"exit code {code}: {terminal.printed()[-1000:]}"

    def _see(self, step: Step) -> str | None:
        terminal = self._terminals[step.where]
        if not terminal.shows(step.text, self.limit_s) or terminal.has_failed():
            return f"not what is shown: {terminal.printed()[-1000:]}"
        links = re.findall(r"^http://\S+/#/\S+$", terminal.printed(), re.MULTILINE)
        self._link = links[-1] if links else self._link
        return None

    def _browse(self, sentence: str) -> str | None:
        if self._page is None:
            self._page = self._stack.enter_context(browser_page())
        try:
            browse(self._page, sentence, self._link)
        except (PlaywrightError, ValueError) as error:
            return str(error)[:1000]
        return None


def _shows(after: Step, typed: Step) -> bool:
    return after.kind == "see" and after.where == typed.where


@contextlib.contextmanager
def browser_page() -> Iterator[Page]:
    """A page of the Chromium that is installed."""
    arguments = ["--no-sandbox", "--disable-background-networking"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        yield opened.new_page(locale="en-GB")
        opened.close()


def browse(page: Page, sentence: str, link: str) -> None:
    """Do what a sentence says.

    Raises:
        ValueError: It says nothing that is known.
        PlaywrightError: It cannot be done.
    """
    if sentence == "Open the link.":
        page.goto(link)
    elif found := re.fullmatch(r"Type `(.+)` into \*\*(.+)\*\*\.?", sentence):
        page.get_by_label(found[2], exact=True).fill(found[1])
    elif found := re.fullmatch(r"Choose \*\*(.+)\*\*\.", sentence):
        page.get_by_text(found[1], exact=True).click()
    elif found := re.fullmatch(r"Press \*\*(.+)\*\*\.", sentence):
        page.get_by_role("button", name=found[1], exact=True).click()
    elif found := re.fullmatch(r"After some seconds there is the picture \*\*(.+)\*\*\.", sentence):
        page.get_by_role("img", name=found[1], exact=True).first.wait_for(timeout=120_000)
    else:
        raise ValueError(f"not a step in the browser: {sentence}")


# ---- doing it


def main() -> None:
    """Clone, follow, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("only", nargs="?", choices=["tutorial"])
    names = [TUTORIAL] if parser.parse_args().only else [README, TUTORIAL]
    words = len((ROOT / README).read_text().split())
    with tempfile.TemporaryDirectory(prefix="swell-door-") as folder:
        clone, home = Path(folder) / "swell", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        started_s, number, ports = time.monotonic(), 0, {DEMO_PORT: is_free(DEMO_PORT)}
        ports[DEMO_PORT] = ports[DEMO_PORT] or is_free(0)
        with Reader(clone, environment(home, ports[DEMO_PORT]), LONGEST_STEP_S) as reader:
            for name in names:
                page, of_page = with_free_ports((clone / name).read_text())
                ports |= of_page
                number += reader.follow(str(name), page)
        took_s = time.monotonic() - started_s
    report(
        len(reader.failed),
        {
            "steps": number,
            "failed": reader.failed,
            "not_run_here": dict(reader.needed),
            "readme_words": words,
            "took_s": round(took_s, 1),
            "other_ports": {str(page): here for page, here in ports.items() if page != here},
        },
        ok=words <= MOST_WORDS,
    )


def with_free_ports(page: str) -> tuple[str, dict[int, int]]:
    """Return the page with free ports in place of those that are taken, and which they are.

    A port that the page shows and nothing on it opens, such as that of `make demo`, stays.
    """
    ports = {}
    named = re.findall(r"\b127\.0\.0\.1\D{1,3}(\d{4,5})\b", page)
    for port in sorted({int(each) for each in named} - {DEMO_PORT}):
        ports[port] = port if is_free(port) else is_free(0)
        page = re.sub(rf"\b{port}\b", str(ports[port]), page)
    return page, ports


def is_free(port: int) -> int:
    """Return a port if it is free, or for 0 one that is; else 0."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return 0
        return int(tried.getsockname()[1])


def environment(home: Path, demo_port: int = DEMO_PORT) -> dict[str, str]:
    """Return a newcomer's environment: an empty home, and nothing of this checkout."""
    left_out = ("SWELL_", "MAKE", "PYTHON", "VIRTUAL_ENV", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    own = str(ROOT / ".venv")
    paths = [each for each in kept["PATH"].split(os.pathsep) if not each.startswith(own)]
    kept |= {"HOME": str(home), "PATH": os.pathsep.join(paths), "TERM": "dumb", "COLUMNS": "200"}
    return kept | ({"PORT": str(demo_port)} if demo_port != DEMO_PORT else {})


if __name__ == "__main__":
    main()
