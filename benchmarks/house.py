"""How large is the code, and how plain are its comments?

`--part server`: the core, the database and the server, which is all but what follows; `worker`:
the worker, its model process, diffusion, weights and built-in models; `all`: all of `src/swell`.
Code lines: no blank lines, comments or docstrings.

`size`: code lines; of the server and the worker it holds only without a function over 60 lines, a
file over 600 code lines, a class over 25 methods, and two modules of one name. `words`: phrases
that plain technical English avoids, per 10,000 words of comments and docstrings.
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
WORKER = frozenset(["worker", "runtime", "diffusion", "weights", "models"])
OTHERS = frozenset(
    ["engines", "cli", "containers", "providers", "autoscaler", "simulator", "client"]
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


def modules(part: str) -> list[Path]:
    """Return the modules that count."""
    found = [(path.relative_to(SWELL).parts[0], path) for path in sorted(SWELL.rglob("*.py"))]
    if part == "worker":
        return [path for package, path in found if package in WORKER]
    left_out = frozenset() if part == "all" else WORKER | OTHERS
    return [path for package, path in found if package not in left_out]


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


def size(part: str) -> None:
    of_package: Counter[str] = Counter()
    names: Counter[str] = Counter()
    violations = []
    for path in modules(part):
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
    report(of_package.total(), detail, ok=part == "all" or not violations)


def words(part: str) -> None:
    counted = rate(comments(path.read_text()) for path in modules(part))
    report(counted["per_10k"], counted)


def main() -> None:
    """Count, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("size", "words"))
    parser.add_argument("--part", choices=("server", "worker", "all"), default="server")
    asked = parser.parse_args()
    {"size": size, "words": words}[asked.what](asked.part)


if __name__ == "__main__":
    main()
