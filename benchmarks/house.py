"""How large are the core, the database and the server, and how plain are their comments?

Counted are all packages of `src/swell` but those of workers, models, engines, clouds, the command
line and the client. Code lines: no blank lines, comments or docstrings.

`size`: code lines; it holds only without a function over 60 lines, a file over 600 code lines, a
class over 25 methods, and two modules of one name. `words`: phrases that plain technical English
avoids, per 10,000 words of comments and docstrings.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from pathlib import Path
from typing import Any

from door_words import comments, rate
from machine import ROOT, report

SWELL = ROOT / "src" / "swell"
OTHERS = frozenset(
    [
        "worker",
        "runtime",
        "diffusion",
        "weights",
        "families",
        "models",
        "engines",
        "cli",
        "containers",
        "providers",
        "autoscaler",
        "simulator",
        "client",
    ]
)
MOST_FUNCTION_LINES = 60
MOST_FILE_LINES = 600
MOST_METHODS = 25
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
)
#: Each package may have these.
EVERYWHERE = frozenset({"__init__", "__main__", "routes", "schemas"})


def modules() -> list[Path]:
    """Return the modules that count."""
    found = sorted(SWELL.rglob("*.py"))
    return [path for path in found if path.relative_to(SWELL).parts[0] not in OTHERS]


def code_lines(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
            text = node.body[0]
            lines.difference_update(range(text.lineno, (text.end_lineno or 0) + 1))
    return len(lines)


def too_large(path: Path, source: str) -> list[str]:
    """Return the functions and classes of a module that are too large."""
    found = []
    name = path.relative_to(SWELL)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, FUNCTIONS):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                found.append(f"{name} {node.name}: {lines} lines")
        elif isinstance(node, ast.ClassDef):
            methods = sum(isinstance(each, FUNCTIONS) for each in node.body)
            if methods > MOST_METHODS:
                found.append(f"{name} {node.name}: {methods} methods")
    return found


def size() -> None:
    of_package: Counter[str] = Counter()
    names: Counter[str] = Counter()
    violations = []
    for path in modules():
        source = path.read_text()
        lines = code_lines(source)
        parts = path.relative_to(SWELL).parts
        of_package[parts[0] if len(parts) > 1 else "(root)"] += lines
        names[path.stem] += 1
        if lines > MOST_FILE_LINES:
            violations.append(f"{path.relative_to(SWELL)}: {lines} code lines")
        violations += too_large(path, source)
    twice = sorted(name for name, n in names.items() if n > 1 and name not in EVERYWHERE)
    violations += [f"{names[name]} modules called {name}" for name in twice]
    detail: dict[str, Any] = {"violations": violations, "of_package": of_package}
    report(of_package.total(), detail, ok=not violations)


def words() -> None:
    counted = rate(comments(path.read_text()) for path in modules())
    report(counted["per_10k"], counted)


def main() -> None:
    """Count, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("size", "words"))
    {"size": size, "words": words}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
