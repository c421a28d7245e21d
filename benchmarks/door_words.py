"""Counts phrases that plain technical English avoids, and the words of the documentation.

Phrases per 10,000 words of the docs, of comments and docstrings, and of the texts that users see.
Starlette, Dramatiq, Procrastinate and cog have 3 to 8 of them by the same count.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from figures import BEGIN, END
from machine import ROOT, report

PHRASES = re.compile(
    r"\b(whoever|whatever|whose|nobody|somebody|everybody"
    r"|of which|of whom|from which|in which|by which"
    r"|(?:is|are|was|be) told|told|tells|hears?|heard"
    r"|(?:is|are) looked|looked (?:at|after)|looks after"
    r"|stands? (?:for|still|in|beside|by|on)|(?:lies|lie) (?:in|apart|beside)"
    r"|so many|so much|so long as|that many|at hand|beside|besides|meanwhile|brings? forth|what is"
    r"|what (?:it|they|was|are|has|had|comes|waits|runs|lies|stands)"
    r"|who (?:waits|asks|comes|looks|has)|has to go|(?:goes|go|went|gone) on"
    r"|(?:are|is) to be|is (?:his|hers|theirs)|anew|of its own|of their own"
    r"|there is (?:nobody|nothing)|as (?:if|though) it were|(?:is|are) over"
    r"|taken back|let go|worth(?:less| while)|it is that|(?:does|do) without)\b",
    re.IGNORECASE,
)
MOST_READERS_WORDS = 45_000
#: Written by the code, records of runs, or history: not pages for readers.
NOT_FOR_READERS = {"reference", "decisions"}


def without_code(markdown: str) -> str:
    return re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))


def comments(source: str) -> str:
    """Return the comments and docstrings of a module, without the code that they quote."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    prose = [each.string for each in tokens if each.type == tokenize.COMMENT]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            prose.append(re.sub(r"`[^`]*`", "", text))
    return "\n".join(prose)


def rate(texts: Iterable[str]) -> dict[str, Any]:
    """Return the phrases per 10,000 words, and the ten that are used most."""
    text = "\n".join(texts)
    found = Counter(match[0].lower() for match in PHRASES.finditer(text))
    words = len(re.findall(r"[A-Za-z']+", text))
    per_10k = round(1e4 * found.total() / max(words, 1), 1)
    most = dict(found.most_common(10))
    return {"per_10k": per_10k, "phrases": found.total(), "words": words, "most": most}


def without_figures(page: str) -> str:
    """Return a page without the table of figures that benchmarks/figures.py writes into it."""
    before, _, rest = page.partition(BEGIN)
    return before + rest.partition(END)[2]


def pages_for_readers(docs: Path) -> list[Path]:
    pages = sorted(docs.rglob("*.md"))
    return [page for page in pages if page.relative_to(docs).parts[0] not in NOT_FOR_READERS]


def words_for_readers(docs: Path) -> int:
    """Return the words of the pages for readers, without raw figures."""
    texts = (without_figures(page.read_text()) for page in pages_for_readers(docs))
    return sum(len(text.split()) for text in texts)


def count(root: Path) -> dict[str, Any]:
    docs = root / "docs"
    readme = (root / "README.md").read_text()
    pages = [page.read_text() for page in docs.rglob("*.md")]
    reference = [docs / "reference" / f"{name}.md" for name in ("cli", "http", "settings")]
    shown = [*(root / "web" / "src").rglob("en.json"), *reference]
    modules = (root / "src" / "swell").rglob("*.py")
    return {
        "docs": rate(without_code(text) for text in (readme, *pages)),
        "code": rate(comments(path.read_text()) for path in modules),
        "shown": rate(path.read_text() for path in shown),
        "readme_words": len(readme.split()),
        "readers_words": words_for_readers(docs),
    }


def main() -> None:
    """Count, report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    counted = count(ROOT)
    value = max(counted["docs"]["per_10k"], counted["shown"]["per_10k"])
    report(value, counted, ok=counted["readers_words"] <= MOST_READERS_WORDS)


if __name__ == "__main__":
    main()
