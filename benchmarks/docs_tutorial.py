"""Which steps of the documentation's tutorial fail when it is followed word for word?

Clones HEAD into an empty folder, with an empty HOME, and does what docs/tutorial.md says: commands
go into terminals (bash on a pseudo-terminal) as they stand there, files are written as they are
shown, the browser's steps are done in Chromium, and what each command prints is compared with what
the page shows. Where ports of the page are taken on this machine, others stand for them.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

from machine import ROOT, report, say

PAGE = Path("docs") / "tutorial.md"

#: Where the page has the reader write files.
FOLDER = "tutorial"

#: Packages are downloaded on the way.
LONGEST_STEP_S = 240.0

_FENCE = re.compile(r'^```(\w+) title="([^"]+)"$')
_ITEM = re.compile(r"^\d+\. (.+)$")
#: Colours, ends of lines, and the prompt of an environment.
_LOOKS = re.compile(r"\x1b\[[\d;?]*[A-Za-z]|\r|^(?:\(\.venv\) )+", re.MULTILINE)
_DONE = re.compile(r"^::done (\d+)$", re.MULTILINE)


# ---- what the page says


@dataclass(frozen=True)
class Step:
    """Something to do, or to see.

    Attributes:
        kind: `type` into a terminal, `see` there, `write` a file, or `browse`.
        where: The terminal or the file's name; empty in the browser.
        text: What is typed, seen or written; of the browser, the sentence.
        line: Where it stands on the page.
    """

    kind: Literal["type", "see", "write", "browse"]
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


def _kind(language: str, title: str) -> Literal["type", "see", "write"]:
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
        self.type("stty -echo; PS1=; PS2=\n")
        self.ended(20)

    def type(self, text: str) -> None:
        """Type, and a line that tells when it is over; what was printed before is done with."""
        with self._news:
            self._from = len(self._printed)
        if text.startswith("# Ctrl-C"):
            self._write("\x03")
        self._write(f"{text}printf '\\n::done %s\\n' $?\n")

    def printed(self) -> str:
        """Return what was printed since the last step."""
        with self._news:
            return _LOOKS.sub("", self._printed[self._from :])

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
    """Somebody who does what the page says, in a clone, and keeps what did not go as it says."""

    def __init__(self, clone: Path, environment: dict[str, str], limit_s: float) -> None:
        self.clone = clone
        self.limit_s = limit_s
        self.failed: list[str] = []
        self._environment = environment
        self._terminals: dict[str, Terminal] = {}
        self._link = ""
        self._stack = contextlib.ExitStack()
        self._page: Page | None = None

    def follow(self, page: str) -> int:
        """Do all steps; return how many there were."""
        todo, began_s = steps(page), time.monotonic()
        try:
            for step, after in zip(todo, [*todo[1:], None], strict=True):
                at_s = time.monotonic() - began_s
                say(f"{at_s:5.0f} s, line {step.line}: {step.kind} {step.where} {step.text[:60]!r}")
                why = self._do(step, after)
                if why:
                    say(f"    {why}")
                    self.failed.append(f"line {step.line}: {why}")
        finally:
            self._stack.close()
            for terminal in self._terminals.values():
                terminal.close()
        return len(todo)

    def _do(self, step: Step, after: Step | None) -> str | None:
        """Return why a step did not go as the page says."""
        if step.kind == "browse":
            return self._browse(step.text)
        if step.kind == "write":
            (self.clone / FOLDER / step.where).write_text(step.text)
            return None
        if step.kind == "see":
            return self._see(step)
        return self._type(step, is_shown=after is not None and _shows(after, step))

    def _type(self, step: Step, is_shown: bool) -> str | None:
        terminal = self._terminals.get(step.where)
        if terminal is None:
            terminal = Terminal(self.clone, self._environment)
            self._terminals[step.where] = terminal
        elif not step.text.startswith("# Ctrl-C"):
            code = terminal.ended(self.limit_s)
            if code is None:
                return "what ran before has not ended"
        terminal.type(step.text)
        if is_shown:
            return None
        code = terminal.ended(self.limit_s)
        return None if code == 0 else f"exit code {code}: {terminal.printed()[-1000:]}"

    def _see(self, step: Step) -> str | None:
        terminal = self._terminals[step.where]
        if not terminal.shows(step.text, self.limit_s):
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
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swell-tutorial-") as folder:
        clone, home = Path(folder) / "swell", Path(folder) / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        page, ports = with_free_ports((clone / PAGE).read_text())
        started_s = time.monotonic()
        reader = Reader(clone, environment(home, ports), LONGEST_STEP_S)
        number = reader.follow(page)
        took_s = time.monotonic() - started_s
    report(
        len(reader.failed),
        {
            "steps": number,
            "failed": reader.failed,
            "took_s": round(took_s, 1),
            "other_ports": {str(told): taken for told, taken in ports.items() if told != taken},
        },
    )


def with_free_ports(page: str) -> tuple[str, dict[int, int]]:
    """Return the page with free ports in place of those that are taken, and which they are."""
    ports = {}
    for told in sorted(
        {int(each) for each in re.findall(r"\b127\.0\.0\.1\D{1,3}(\d{4,5})\b", page)}
    ):
        ports[told] = told if is_free(told) else is_free(0)
        page = re.sub(rf"\b{told}\b", str(ports[told]), page)
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


def environment(home: Path, ports: dict[int, int]) -> dict[str, str]:
    """What a newcomer's shell has: an empty home, and nothing of this checkout."""
    left_out = ("SWELL_", "MAKE", "PYTHON", "VIRTUAL_ENV", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    own = str(ROOT / ".venv")
    paths = [each for each in kept["PATH"].split(os.pathsep) if not each.startswith(own)]
    kept |= {"HOME": str(home), "PATH": os.pathsep.join(paths), "TERM": "dumb", "COLUMNS": "200"}
    if ports.get(8000, 8000) != 8000:
        kept["SWELL_SERVER__PORT"] = str(ports[8000])
    return kept


if __name__ == "__main__":
    main()
