"""A little Markdown to HTML: headings, paragraphs, lists, tables, code. Everything else is text.

Model cards come from workers, so all of it is escaped; a link is one only to http(s) or to a
place on the same server.
"""

import html
import re
from collections.abc import Callable, Iterator
from typing import Final

_CODE: Final = re.compile(r"`([^`\n]+)`")
_STRONG: Final = re.compile(r"\*\*([^*\n]+)\*\*")
#: Neither part goes past another `[`, so that every character is looked at once.
_LINK: Final = re.compile(r"\[([^\[\]\n]+)\]\(((?:https?://|/|#)[^)\s\[]+)\)")
_HEADING: Final = re.compile(r"^(#{1,4})\s+(.*)$")
_ITEM: Final = re.compile(r"^\s*[-*]\s+(.*)$")


def first_line(text: str) -> str:
    """Return the first line that says something."""
    lines = (line.strip().lstrip("# ") for line in text.splitlines())
    return next((line for line in lines if line), "")


def parted(text: str) -> tuple[str, str]:
    """Return the first heading or paragraph, without a heading's signs, and all that follows."""
    lines = text.strip().splitlines()
    if not lines:
        return "", ""
    end = _until(lines, 1, _is_break)
    if found := _HEADING.match(lines[0]):
        return found[2], "\n".join(lines[1:])
    return "\n".join(lines[:end]), "\n".join(lines[end:])


def to_html(text: str) -> str:
    """Return Markdown as HTML."""
    return "\n".join(_blocks(text.splitlines()))


def _blocks(lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
        elif line.startswith("```"):
            end = _until(lines, at + 1, lambda each: each.startswith("```"))
            yield f"<pre><code>{html.escape(chr(10).join(lines[at + 1 : end]))}</code></pre>"
            at = end + 1
        elif found := _HEADING.match(line):
            level = len(found[1])
            yield f"<h{level}>{_inline(found[2])}</h{level}>"
            at += 1
        else:
            end = _until(lines, at + 1, _is_break)
            yield _block(lines[at:end])
            at = end


def _block(lines: list[str]) -> str:
    if lines[0].startswith("|"):
        return _table(lines)
    if _ITEM.match(lines[0]):
        text = "\n".join(lines)
        items = re.split(r"(?m)^\s*[-*]\s+", text)[1:]
        return "<ul>" + "".join(f"<li>{_inline(item.strip())}</li>" for item in items) + "</ul>"
    return f"<p>{_inline(chr(10).join(lines))}</p>"


def _table(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    # Many tables have an empty head, which says that they have none.
    has_head = any(rows[0])
    kept = [row for row in rows if not all(set(cell) <= {"-", ":"} for cell in row)]
    text = ""
    for number, row in enumerate(kept):
        tag = "th" if has_head and number == 0 else "td"
        text += "<tr>" + "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in row) + "</tr>"
    return f'<div class="wide"><table>{text}</table></div>'


def _inline(text: str) -> str:
    parts = _CODE.split(text)
    for at, part in enumerate(parts):
        escaped = html.escape(part)
        if at % 2:
            parts[at] = f"<code>{escaped}</code>"
        else:
            strong = _STRONG.sub(r"<strong>\1</strong>", escaped)
            parts[at] = _LINK.sub(r'<a href="\2">\1</a>', strong)
    return "".join(parts)


def _is_break(line: str) -> bool:
    return not line.strip() or line.startswith(("#", "```"))


def _until(lines: list[str], at: int, ends: Callable[[str], bool]) -> int:
    while at < len(lines) and not ends(lines[at]):
        at += 1
    return at
