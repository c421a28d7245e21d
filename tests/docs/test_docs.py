"""The documents say what the code does."""

import ast
import functools
import io
import keyword
import re
import subprocess
import tokenize
import tomllib
from pathlib import Path

import pytest

from swell.core import errors
from swell.core.errors import SwellError
from swell.core.events import EventKind
from swell.core.task import TRANSITIONS, TaskState

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "src" / "swell"
MODULES = sorted(PACKAGE.rglob("*.py"))


@functools.cache
def tracked() -> list[Path]:
    """Return the files of the repository, new ones that are not ignored included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout: there is nothing to list")
    return sorted({ROOT / name for name in listed.stdout.split("\0") if name})


def test_the_checkout_fits_where_it_is_copied_to_a_gpu_machine() -> None:
    assert sum(path.stat().st_size for path in tracked() if path.is_file()) <= 64 * 2**20


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(text: str, head: str) -> list[list[str]]:
    """Return the cells of the table whose first column is called `head`."""
    _, found, rest = text.partition(f"\n| {head} |")
    assert found, f"no table that begins with {head}"
    rows = []
    for line in rest.splitlines()[2:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def bare(cell: str) -> str:
    return cell.strip("`")


# ---- links


def pages() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".md" and path.exists()]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as its readers make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
    return {*plain, *re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text)}


def test_links_between_documents_resolve() -> None:
    broken = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            file = page if not name else page.parent / name
            is_there = file.exists()
            if is_there and anchor and file.suffix == ".md":
                is_there = anchor in anchors(file.read_text(encoding="utf-8"))
            if not is_there:
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_document_can_be_reached_from_the_index() -> None:
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
            waiting.append((page.parent / target).resolve())
    written = {page for page in pages() if DOCS in page.parents}
    assert written <= reached


def test_decisions_are_numbered_without_gaps_and_listed_by_their_titles() -> None:
    row = r"^\| (\d+) \| \[(.+)\]\((.+)\) \| [^|]+ \|$"
    told = re.findall(row, read("decisions/README.md"), re.M)
    files = sorted(path.name for path in (DOCS / "decisions").glob("*.md") if path.stem != "README")
    assert [name for _, _, name in told] == files
    assert [int(number) for number, _, _ in told] == list(range(1, len(told) + 1))
    for number, title, name in told:
        assert read(f"decisions/{name}").splitlines()[0] == f"# {number}. {title}"


def test_decisions_have_at_most_300_words() -> None:
    pages = (DOCS / "decisions").glob("0*.md")
    assert [page.name for page in pages if len(page.read_text("utf-8").split()) > 300] == []


# ---- what the code has


def test_the_diagram_of_the_life_of_a_task_is_the_code() -> None:
    edges = re.findall(r"^\s+(\w+) --> (\w+)", read("guarantees.md"), re.MULTILINE)
    drawn = {(TaskState(before), TaskState(after)) for before, after in edges}
    assert drawn == {(before, after) for before in TRANSITIONS for after in TRANSITIONS[before]}


def test_the_table_of_transitions_is_the_diagram() -> None:
    text = read("guarantees.md")
    drawn = re.findall(r"^\s+(\w+) --> (\w+): (.+)$", text, re.MULTILINE)
    told = [(before, after, by.replace("`", "")) for before, after, by, _ in table(text, "from")]
    assert told == drawn


def test_ends_of_the_diagram_are_the_terminal_states() -> None:
    ends = re.findall(r"^\s+(\w+) --> \[\*\]", read("guarantees.md"), re.MULTILINE)
    assert {TaskState(state) for state in ends} == {s for s in TaskState if s.is_terminal}


def test_every_error_is_described_with_its_status_and_whether_to_retry() -> None:
    told = {
        bare(code): (int(status), retry == "yes")
        for code, status, retry, _, _ in table(read("errors.md"), "code")
    }
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, SwellError)
    ]
    assert told == {
        kind.code: (kind.status, kind.retryable) for kind in kinds if kind is not SwellError
    }


def test_every_code_of_a_failed_task_is_described() -> None:
    told = {bare(row[0]) for row in table(read("errors.md").partition("## Why a task")[2], "code")}
    assert told == task_error_codes()


def task_error_codes() -> set[str]:
    """Return the codes that the code puts into a task's error."""
    codes = set()
    for path in MODULES:
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            found: list[ast.expr] = []
            if name == "TaskError":
                found = [each.value for each in node.keywords if each.arg == "code"]
            elif name == "Fault":
                found = node.args[1:2]
            elif name == "failed":
                found = node.args[:1]
            codes |= {each.value for each in found if isinstance(each, ast.Constant)}
    return codes


def test_the_totals_of_the_fault_trials_are_those_of_their_results() -> None:
    results = (ROOT / "benchmarks" / "results" / "faults.md").read_text(encoding="utf-8")
    totals = re.findall(
        r"^([\d,]+) tasks accepted, ([\d,]+) ended once, under (\d+) faults", results, re.MULTILINE
    )
    rows = table(read("guarantees.md"), "system")
    assert [(accepted, ended, faults) for _, faults, accepted, ended, *_ in rows] == totals


def test_every_event_is_described() -> None:
    told = [bare(row[0]) for row in table(read("use-the-api.md"), "event")]
    assert told == [kind.value for kind in EventKind]


# ---- words


def identifiers(source: str) -> set[str]:
    names = {
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME
    }
    return {name for name in names if not keyword.iskeyword(name)}


def as_words(identifier: str) -> str:
    """Return `_a_b_` for `a_b`, `ab` as it is written there, and `AB`."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", identifier)
    return f"_{'_'.join(parts).lower()}_"


def test_words_that_the_glossary_bans_are_no_identifiers() -> None:
    banned = {
        word.strip()
        for _, _, banned in table(read("glossary.md"), "word")
        for word in banned.split(",")
        if word.strip()
    }
    used = []
    for path in MODULES:
        if "compat" in path.parts:
            continue  # a façade speaks in the words of others
        for name in identifiers(path.read_text(encoding="utf-8")):
            words = as_words(name)
            if path.name == "solvers.py" and words == "_prediction_":
                continue  # what a network predicts: the field's word, and no task
            if name == "InterfaceError":
                continue  # asyncpg's own name
            if path.name == "hf_download.py" and name == "revision":
                continue  # huggingface_hub's own name
            used += [f"{path.name}: {name}" for word in banned if f"_{word}_" in words]
    assert used == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    nameless = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
    assert [path.name for path in MODULES if path.stem in nameless] == []


def test_the_glossary_explains_each_word_once_and_bans_none_of_them() -> None:
    rows = table(read("glossary.md"), "word")
    words = [word for word, _, _ in rows]
    banned = {word.strip() for _, _, banned in rows for word in banned.split(",")}
    assert len(words) == len(set(words))
    assert not set(words) & banned


# ---- the house


def drawn_tree() -> tuple[set[str], set[str], dict[str, set[str]]]:
    """Return (entries of src/swell, other folders, folders of packages) of the architecture."""
    block = re.search(r"```text\nsrc/swell/\n(.*?)```", read("architecture.md"), re.DOTALL)
    assert block
    lines = block[1].splitlines()
    package: list[str] = []
    nested: dict[str, set[str]] = {}
    for line in lines:
        name = line.split()[0].rstrip("/")
        if line.startswith("    "):
            nested.setdefault(package[-1], set()).add(name)
        elif line.startswith("  "):
            package.append(name)
    folders = {line.split()[0].rstrip("/") for line in lines if not line.startswith("  ")}
    return set(package), folders, nested


def test_the_tree_of_the_architecture_is_the_one_on_disk() -> None:
    package, folders, nested = drawn_tree()
    files = [path.relative_to(ROOT).parts for path in tracked() if path.exists()]
    assert package == {parts[2] for parts in files if parts[:2] == ("src", "swell")}
    assert folders == {parts[0] for parts in files if len(parts) > 1} - {"src"}
    for name, told in nested.items():
        inside = [parts for parts in files if parts[:3] == ("src", "swell", name)]
        assert told == {parts[3] for parts in inside if len(parts) > 4}, name


def test_the_tiers_of_tests_are_those_on_disk() -> None:
    (line,) = [line for line in read("architecture.md").splitlines() if line.startswith("tests/")]
    told = set(re.findall(r"\w+", line.removeprefix("tests/")))
    tiers = {path.relative_to(ROOT).parts[1] for path in tracked() if is_test(path)}
    assert tiers <= told


def test_the_layers_of_the_architecture_are_those_that_are_held() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    held = [
        set(re.findall(r"(?:swell\.)?(\w+)", layer))
        for layer in tomllib.loads(text)["tool"]["importlinter"]["contracts"][0]["layers"]
    ]
    block = read("architecture.md").partition("## Who may import whom")[2].split("```")[1]
    # A line that ends in a comma goes on, and what stands behind spaces tells what they are.
    lines = re.sub(r",\n", ", ", block.removeprefix("text\n").strip()).splitlines()
    told = [set(re.findall(r"\w+", line.partition("   ")[0])) for line in lines]
    assert told == held
    modules = {path.removesuffix(".py") for path in drawn_tree()[0]}
    packages = set().union(*held) - {"swell_models"}  # a distribution apart
    assert packages == modules - {"__init__", "__main__", "py.typed"}


def is_test(path: Path) -> bool:
    return path.name.startswith("test_") and path.relative_to(ROOT).parts[0] == "tests"


# ---- modules


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(parsed(path))


def test_no_file_names_this_machine_or_an_index_of_packages() -> None:
    told = re.compile(
        r"(?<![\w.}])/(?:work|root|home)/\w|index-url[ =]+\S*:/|\bpythonhosted\b", re.IGNORECASE
    )
    found = []
    for path in tracked():
        if not path.is_file() or path.stat().st_size > 1_000_000 or path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {hit[0]}" for hit in told.finditer(text)]
    assert found == []
