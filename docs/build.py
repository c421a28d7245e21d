"""Builds the site of the documentation into `.site/html`: `python docs/build.py`.

Pages link to files outside of docs/, which a site of docs/ alone would not have. So the site is
built from a copy: those files are brought along below `house/`, and what links to them is written
anew. Beside each page lies its Markdown, and `llms.txt` lists them all (https://llmstxt.org).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import yaml

__all__ = [
    *("Entry", "Seen", "build", "dead_links", "entries", "gathered", "listing", "main"),
    *("navigation", "relinked", "seen"),
]

ROOT: Final = Path(__file__).resolve().parents[1]
SITE: Final = ROOT / ".site"

#: Where files lie in the site that lie outside of docs/ in the repository.
_HOUSE: Final = "house"

#: The web app's, for the head of each page.
_ICON: Final = "web/src/icon.svg"

#: A link or picture of Markdown, and code, in which there are none.
_LINK: Final = re.compile(r"(?P<code>```.*?```|`[^`\n]*`)|(?P<before>\]\()(?P<to>[^)\s]+)\)", re.S)

#: What stands behind a block's language and is for tests: the site's Markdown takes none of it.
_NOTE: Final = re.compile(r"\A(```\w+) [\w ]+$", re.M)

_SUMMARY: Final = (
    "Swell serves open image models (Stable Diffusion, SDXL, FLUX, or your own Python function) "
    "to any number of users."
)

#: Keeps a page out of the site's search.
_NO_SEARCH: Final = b"---\nsearch:\n  exclude: true\n---\n"


@dataclass(frozen=True)
class Entry:
    """A page of the navigation: its section, title, and path below docs/."""

    section: str
    title: str
    path: str


# ---- decisions, on plain values


def placed(path: str) -> str:
    """Return where a file of the repository lies in the site: `docs/a.md` is `a.md`."""
    inside = path.removeprefix("docs/")
    return inside if inside != path else f"{_HOUSE}/{path}"


def relinked(text: str, path: str) -> tuple[str, list[str]]:
    """Return a page as the site has it, and the files that it links to.

    Args:
        text: Markdown.
        path: The page's path in the repository.
    """
    wanted: list[str] = []
    here = os.path.dirname(placed(path))

    def link(found: re.Match[str]) -> str:
        if found["code"]:
            return _NOTE.sub(r"\1", found["code"])
        name, mark, anchor = found["to"].partition("#")
        if not name or re.match(r"[a-z]+:", name):
            return found[0]
        target = os.path.normpath(os.path.join(os.path.dirname(path), name))
        wanted.append(target)
        return f"{found['before']}{os.path.relpath(placed(target), here or '.')}{mark}{anchor})"

    return _LINK.sub(link, text), wanted


def gathered(first: list[str], read: Callable[[str], bytes]) -> dict[str, bytes]:
    """Return the files of the site by their places there: the first, and what they link to."""
    found: dict[str, bytes] = {}
    waiting = list(first)
    while waiting:
        path = waiting.pop()
        if placed(path) in found:
            continue
        content = read(path)
        if path.endswith(".md"):
            text, wanted = relinked(content.decode(), path)
            content = text.encode()
            waiting += wanted
        found[placed(path)] = content
    return found


def entries(nav: list[Any], section: str = "") -> list[Entry]:
    """Return the pages of a navigation in their order, each with its topmost section."""
    found = []
    for each in nav:
        for title, what in each.items():
            if isinstance(what, list):
                found += entries(what, section or title)
            else:
                found.append(Entry(section, title, what))
    return found


def listing(pages: list[Entry], text_of: Callable[[str], str]) -> str:
    """Return `llms.txt`: what Swell is, and each page with its first sentence."""
    lines = ["# Swell", "", f"> {_SUMMARY}"]
    section = None
    for page in pages:
        if page.section != section:
            section = page.section
            lines += ["", f"## {section or 'Start'}", ""]
        about = first_sentence(text_of(page.path))
        lines.append(f"- [{page.title}]({page.path}){f': {about}' if about else ''}")
    return "\n".join(lines) + "\n"


def first_sentence(text: str) -> str:
    """Return the first sentence of a page's first paragraph, without marks; empty without one."""
    for block in re.sub(r"```.*?```", "", text, flags=re.S).split("\n\n"):
        if block.strip() and block.lstrip()[0] not in "#|!<>-*":
            plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(block.split()))
            return re.split(r"(?<=[.!?:]) ", plain.replace("**", ""))[0].rstrip(":")
    return ""


class Seen(HTMLParser):
    """What a page refers to, and the anchors that it has.

    Attributes:
        links: Where a reader may go.
        loaded: What comes with the page.
        anchors: Its parts that can be gone to.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element names."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif tag == "link" and "href" in found:
            self.loaded.add(found["href"])
        elif "src" in found:
            self.loaded.add(found["src"])


# ---- doing it


def seen(html: Path) -> dict[Path, Seen]:
    """Return the pages of a site, but the one for what is not there, whose links begin anywhere."""
    found = [path for path in sorted(html.rglob("*.html")) if path.name != "404.html"]
    return {path: Seen(path.read_text()) for path in found}


def dead_links(pages: dict[Path, Seen]) -> list[str]:
    """Return the links within a site that lead nowhere, each behind its page."""
    return [
        f"{path.name}: {link}"
        for path, page in pages.items()
        for link in sorted(page.links | page.loaded)
        if not urlsplit(link).scheme and not _leads(link, path, pages)
    ]


def _leads(link: str, path: Path, pages: dict[Path, Seen]) -> bool:
    address = urlsplit(link)
    target = (path.parent / unquote(address.path)).resolve() if address.path else path
    if target.is_dir():
        target = target / "index.html"
    if not target.is_file() or not address.fragment or target not in pages:
        return target.is_file()
    return unquote(address.fragment) in pages[target].anchors | {"__top"}


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name functions of Python that nobody needs here."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def navigation(root: Path = ROOT) -> list[Entry]:
    """Return the pages that mkdocs.yml names, in its order."""
    settings = yaml.load((root / "mkdocs.yml").read_text(), Loader=_Loader)
    return entries(settings["nav"])


def build(root: Path = ROOT, site: Path = SITE) -> Path:
    """Build the site anew; return the folder of its pages.

    Raises:
        subprocess.CalledProcessError: It cannot be built without warnings, and what they are was
            told.
        ValueError: A link in what was built leads nowhere.
    """
    shutil.rmtree(site, ignore_errors=True)
    pages = navigation(root)
    files = gathered(
        [
            *(str(path.relative_to(root)) for path in (root / "docs").rglob("*.md")),
            *(str(path.relative_to(root)) for path in (root / "docs" / "theme").iterdir()),
            _ICON,
            *(page.path.removeprefix(f"{_HOUSE}/") for page in pages if _is_of_house(page)),
        ],
        lambda path: (root / path).read_bytes(),
    )
    for place, content in files.items():
        written = site / "docs" / place
        written.parent.mkdir(parents=True, exist_ok=True)
        head = _NO_SEARCH if place.startswith("decisions/") else b""
        written.write_bytes(head + content)
    shutil.copy(root / "mkdocs.yml", site)
    subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"],
        cwd=site,
        check=True,
    )
    html = site / "html"
    for place, content in files.items():
        if place.endswith(".md"):
            (html / place).write_bytes(content)
    dead = dead_links(seen(html))
    if dead:
        raise ValueError(f"links that lead nowhere: {', '.join(dead)}")
    (html / "llms.txt").write_text(listing(pages, lambda path: files[path].decode()))
    return html


def _is_of_house(page: Entry) -> bool:
    return page.path.startswith(f"{_HOUSE}/")


def main() -> None:
    """Build, and say where it lies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--site", type=Path, default=SITE, help="where it is built")
    site = parser.parse_args().site.resolve()
    print(build(site=site) / "index.html")


if __name__ == "__main__":
    main()
