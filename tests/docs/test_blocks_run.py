"""Every block of a shell or a program is run by a test, or listed here with why none can.

Tests take blocks by `block`, `blocks` and `commands` of tests/pages.py, and run them. Which ones is
read off those calls, without running them: their words are literals, or constants of their modules.
Names, addresses, dates and versions of a page are those of the test's own Swell, and an environment
that a page makes or activates is the one in which tests run.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pages import ROOT, Block, block, blocks, commands, every_block

LANGUAGES = ("sh", "bash", "console", "python", "py", "js")


@dataclass(frozen=True)
class NotRun:
    """A block that no test runs, or a line of one that a test runs but for it.

    Attributes:
        page: Named from the root.
        begins: The first words of the block, or of the line.
        why: What is missing where tests run, and what comes closest to it.
    """

    page: str
    begins: str
    why: str


BLOCKS: tuple[NotRun, ...] = (
    NotRun(
        "benchmarks/README.md",
        "make gpu GPU=--keep",
        "a GPU: tests/unit/test_gpu_torch.py runs the stages in miniature",
    ),
    NotRun(
        "CONTRIBUTING.md",
        "make demo ONCE=1",
        "make check and pytest would run this test again, inside itself; the figure "
        "docs-tutorial makes the demo in a fresh clone",
    ),
    NotRun(
        "CONTRIBUTING.md",
        "make check",
        "the gate is these commands",
    ),
    NotRun(
        "README.md",
        "make web",
        "they set up .venv, build the web app with npm, and stay up: the figure door-readme does, "
        "in a fresh clone",
    ),
    NotRun(
        "README.md",
        ".venv/bin/pip install -e '.[embedded,diffusers]'",
        "a GPU and gigabytes of weights: tests/docs/test_diffusers_pages_torch.py has the same "
        "commands add and serve small networks",
    ),
    NotRun(
        "README.md",
        ". .venv/bin/activate\nmkdir mine",
        "the test makes the folder and activates nothing; the figure door-readme does",
    ),
    NotRun(
        "docs/tutorial.md",
        "make setup",
        "it installs into .venv and fetches packages with npm: the figure door-readme does, in a "
        "fresh clone",
    ),
    NotRun(
        "docs/install.md",
        "make wheels",
        "it makes .venv first; what it runs then, .ci/wheels, "
        "tests/integration/test_wheels.py runs in a copy",
    ),
    NotRun(
        "tests/README.md",
        "make check",
        "the gate is these commands",
    ),
    NotRun(
        "training/README.md",
        "python3.11 -m venv venv",
        "hours of training, with sets of icons and published weights from the network",
    ),
    NotRun(
        "docs/clients.md",
        "export SSL_CERT_FILE",
        "tests/clients and the tests of the page's programs give clients the variables of "
        "their own Swell",
    ),
    NotRun(
        "deploy/compose/README.md",
        "swell build --bake",
        "no docker, and no registry to have base images from: tests/containers "
        "builds and runs such images with podman, tests/integration/test_compose.py "
        "checks and serves what the file sets",
    ),
    NotRun(
        "deploy/compose/README.md",
        "swell build swell/icons --extra scale",
        "as above",
    ),
    NotRun(
        "deploy/compose/README.md",
        "docker compose -f deploy/compose/scaled.yml up --detach backend",
        "as above",
    ),
    NotRun(
        "deploy/compose/README.md",
        "docker compose -f deploy/compose/scaled.yml exec",
        "as above",
    ),
    NotRun(
        "deploy/compose/README.md",
        "docker compose -f deploy/compose/scaled.yml up --detach --scale",
        "as above",
    ),
    NotRun(
        "deploy/helm/swell/README.md",
        "swell build models/poster.py",
        "no cluster and no registry: tests/integration/test_kubernetes_manifests.py "
        "renders the chart with Helm's own SDK and runs what it sets on an imitated "
        "cluster",
    ),
    NotRun(
        "deploy/kubernetes/README.md",
        "swell build models/poster.py",
        "no cluster and no registry: tests/integration/test_kubernetes_manifests.py "
        "makes all of it with kustomize and runs what it sets on an imitated "
        "cluster",
    ),
    NotRun(
        "deploy/kubernetes/README.md",
        "in_backend=",
        "as above",
    ),
    NotRun(
        "deploy/kubernetes/README.md",
        "kubectl -n swell create secret generic swell-objects",
        "as above",
    ),
    NotRun(
        "deploy/kubernetes/README.md",
        "kubectl -n swell create secret generic swell-reader",
        "as above",
    ),
    NotRun(
        "deploy/systemd/README.md",
        "useradd",
        "it changes the machine, of which systemd must be the first process: "
        "tests/integration/test_systemd_units.py has the units checked by systemd's "
        "own programs and starts what they start",
    ),
    NotRun(
        "deploy/systemd/README.md",
        "install -m 600 deploy/systemd/worker.env",
        "as above",
    ),
    NotRun(
        "docs/install.md",
        "swell build models/poster.py",
        "no registry: tests/containers builds images and pushes weights for their workers",
    ),
    NotRun(
        "examples/sing/README.md",
        "pip install 'swell[diffusers]'",
        "gigabytes of weights and a GPU: "
        "tests/acceptance/test_example_musetalk_torch.py has tiny random networks",
    ),
    NotRun(
        "docs/models/authoring.md",
        "def pack(self, asked):",
        "a piece of a model that the reader has; it is parsed",
    ),
    NotRun(
        "docs/models/authoring.md",
        "from swell.diffusion.torch_arrays import OUT_OF_MEMORY",
        "as above",
    ),
    NotRun(
        "docs/models/authoring.md",
        "def decode(self, latents, item):",
        "as above",
    ),
    NotRun(
        "docs/models/authoring.md",
        "class Sdxl(swell.Model):",
        "as above",
    ),
    NotRun(
        "docs/models/authoring.md",
        "class Poster(swell.Model):",
        "as above",
    ),
    NotRun(
        "docs/models/authoring.md",
        "# /// script",
        "as above",
    ),
)

LINES: tuple[NotRun, ...] = (
    NotRun(
        "README.md",
        ".venv/bin/pip install -e '.[scale]'",
        "the environment is this one",
    ),
    NotRun(
        "README.md",
        "pip install fastapi",
        "the environment has it already; the figure door-readme installs it in a fresh clone",
    ),
    NotRun(
        "benchmarks/README.md",
        "python benchmarks/figures.py run",
        "it takes minutes to hours and a machine to itself",
    ),
    NotRun(
        "benchmarks/README.md",
        "python benchmarks/figures.py all",
        "as above",
    ),
    NotRun(
        "benchmarks/README.md",
        "python benchmarks/service_throughput.py",
        "as above",
    ),
    NotRun(
        "benchmarks/README.md",
        "python benchmarks/engine_peers.py --short",
        "as above",
    ),
    NotRun(
        "benchmarks/README.md",
        "python benchmarks/engine_peers.py --sweep",
        "as above",
    ),
    NotRun(
        "deploy/systemd/README.md",
        "systemctl daemon-reload",
        "it changes the machine, of which systemd must be the first process",
    ),
    NotRun(
        "deploy/systemd/README.md",
        "systemctl enable --now swell-migrate.service",
        "as above",
    ),
    NotRun(
        "deploy/systemd/README.md",
        "systemctl enable --now swell.service",
        "as above",
    ),
    NotRun(
        "docs/models/README.md",
        "pip install 'swell[argos]'",
        "the environment is this one; packages are brought without it",
    ),
    NotRun(
        "docs/models/diffusers.md",
        "pip install -e '.[embedded,diffusers]'",
        "the environment is this one",
    ),
    NotRun(
        "docs/serve-sdxl-flux.md",
        "make setup && . .venv/bin/activate",
        "the environment is this one",
    ),
    NotRun(
        "docs/serve-sdxl-flux.md",
        "pip install -e '.[embedded,diffusers]'",
        "the environment is this one",
    ),
)


# ---- which are run

TAKERS: dict[str, Callable[..., object]] = {
    "block": block,
    "blocks": blocks,
    "commands": commands,
}


@dataclass(frozen=True)
class Call:
    """A test's call that takes blocks of a page."""

    name: str
    words: tuple[str, ...]
    where: str

    def takes(self) -> set[Block]:
        """Return the blocks that it takes.

        Raises:
            ValueError: There are not those that it asks for.
        """
        bound = inspect.signature(TAKERS[self.name]).bind(*self.words)
        bound.apply_defaults()
        asked = bound.arguments
        try:
            texts = blocks(**asked) if self.name == "blocks" else [block(**asked)]
        except ValueError as error:
            raise ValueError(f"{self.where} takes no block, or more than one: {error}") from None
        return {
            each
            for each in every_block()
            if (each.page, each.language) == (asked["page"], asked["language"])
            and each.text in texts
        }


def calls(path: Path) -> Iterator[Call]:
    """Yield the calls of a file of tests that take blocks.

    Raises:
        ValueError: The words of one are not literals.
    """
    text = path.read_text("utf-8")
    if "from pages import" not in text:
        return
    tree = ast.parse(text)
    taking = {
        each.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "pages"
        for each in node.names
    } & set(TAKERS)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id not in taking:
            continue
        where = f"{path.relative_to(path.parents[1])}:{node.lineno}"
        words = [
            constants.get(each.id, each) if isinstance(each, ast.Name) else each
            for each in node.args
        ]
        literals = tuple(
            each.value
            for each in words
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        )
        if len(literals) != len(words) or node.keywords:
            raise ValueError(f"{where}: write the words as literals")
        yield Call(node.func.id, literals, where)


@functools.cache
def taken() -> set[Block]:
    """Return all blocks that tests take."""
    found: set[Block] = set()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path == Path(__file__):
            continue
        for call in calls(path):
            found |= call.takes()
    return found


def runnable() -> list[Block]:
    return [each for each in every_block() if each.language in LANGUAGES]


def whole(entry: NotRun) -> Block:
    """Return the one block that begins so."""
    [found] = [
        each
        for each in runnable()
        if each.page == entry.page and each.text.startswith(entry.begins)
    ]
    return found


def around(entry: NotRun) -> Block:
    """Return the one block with a line that begins so."""
    [found] = [
        each
        for each in runnable()
        if each.page == entry.page and f"\n{entry.begins}" in f"\n{each.text}"
    ]
    return found


# ---- what holds


def test_every_block_is_run_or_listed() -> None:
    known = taken() | {whole(each) for each in BLOCKS}
    missing = [f"{each}: {each.text.splitlines()[0]}" for each in runnable() if each not in known]
    assert missing == [], "run them in a test by pages.block, or list them with why not"


def test_commands_stand_in_blocks_of_a_shell() -> None:
    commands = ("$ ", "curl ", "docker ", "export ", "make ", "pip ", "python ", "sudo ", "swell ")
    found = [
        f"{each}: {line}"
        for each in every_block()
        if not each.language
        for line in each.text.splitlines()
        if line.startswith(commands)
    ]
    assert found == [], "say which shell, behind the three backticks"


@pytest.mark.parametrize("entry", BLOCKS, ids=lambda entry: f"{entry.page}: {entry.begins}")
def test_a_block_that_is_listed_is_there_and_not_run(entry: NotRun) -> None:
    assert whole(entry) not in taken(), "it is run: take it from the list"


@pytest.mark.parametrize("entry", LINES, ids=lambda entry: f"{entry.page}: {entry.begins}")
def test_a_line_that_is_listed_stands_in_a_block_that_is_run(entry: NotRun) -> None:
    assert around(entry) in taken(), "list its block"


def test_words_that_are_no_literals_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tests" / "test_a.py"
    path.parent.mkdir()
    path.write_text('from pages import block\nPAGE = "README.md"\nblock(PAGE, "app = FastAPI")\n')
    [call] = calls(path)
    assert [each.page for each in call.takes()] == ["README.md"]
    for words in ('f"{PAGE}", "me/poster"', "PAGE, *several", 'PAGE, holding="me/poster"'):
        path.write_text(f'from pages import block\nPAGE = "README.md"\nblock({words})\n')
        with pytest.raises(ValueError, match="literals"):
            list(calls(path))


def test_a_call_that_takes_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test_a\.py:1 takes no block"):
        Call("block", ("README.md", "what nobody wrote"), "test_a.py:1").takes()
