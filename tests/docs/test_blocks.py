"""Every fenced block of the documentation is held to something that it must agree with.

Here all blocks are parsed, and their commands, options, settings, routes, imports, targets and
extras must exist. Shells and programs are run too, or listed with why they cannot be, by
test_blocks_run.py.

docs/models/remote.md is loaded and not called, since its services are elsewhere. There is no GPU
and no image of others: docs/models/weights.md and docs/serve-sdxl-flux.md run on a CPU in place of
`cuda`, and docs/models/cog.md with a process of cog's server in place of a container.
"""

import ast
import importlib
import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Set
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from pages import ROOT, Block, every_block
from swell.cli import app
from swell.sdk.pipeline import load_pipelines
from swell.sdk.style_presets import load_styles
from swell.server.routes import ROUTES
from swell.settings.load import load
from swell.weights.weight_index import read_listing
from swell_models.added_portraits import read_scenarios


def of(*languages: str) -> list[Block]:
    return [each for each in every_block() if each.language in languages]


def test_every_language_of_a_block_is_held_to_something() -> None:
    held = {"sh", "bash", "console", "python", "py", "toml", "json", "yaml", "js"}
    #: Pictures in letters, what programs print, and other programs' files.
    others = {"text", "mermaid", "nginx", "", "ini", "promql", "dockerfile", "html"}
    assert {each.language for each in every_block()} - held - others == set()
    assert len(of("sh", "bash", "console")) > 30
    assert len(of("python", "py")) > 30
    assert len(of("toml")) > 10


# ---- shells


def commands_of(text: str) -> list[list[str]]:
    """Return the simple commands of a script, without assignments and words of the shell."""
    text = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    lexer = shlex.shlex(
        text.replace("\\\n", " ").replace("$(", " ; ").replace("\n", " \n; "),
        posix=True,
        punctuation_chars=";&|()<>",
    )
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    for token in lexer:
        if re.fullmatch(r"[;&|()]+", token):
            found.append([])
        elif re.fullmatch(r"[<>&]+", token):
            found[-1].append("<")
        else:
            found[-1].append(token)
    return [command for command in map(_bare, found) if command]


def _bare(tokens: list[str]) -> list[str]:
    words = {"do", "then", "if", "until", "while", "!", "exec", "time", "export", "sudo", "$"}
    while tokens and (tokens[0] in words or re.match(r"\w+=", tokens[0])):
        tokens = tokens[1:]
    # What goes to a file or comes from one is no word of the command.
    return tokens[: tokens.index("<")] if "<" in tokens else tokens


@pytest.mark.parametrize("a_block", of("sh", "bash", "console"), ids=str)
def test_a_block_of_a_shell_has_only_what_there_is(a_block: Block) -> None:
    parsed = subprocess.run(
        ["bash", "-n"], input=a_block.text, capture_output=True, text=True, check=False
    )
    assert parsed.returncode == 0, parsed.stderr
    # Apps have routes of their own.
    held(a_block.text, but={"curl"} if a_block.page.startswith("examples/") else frozenset())


def held(text: str, but: Set[str] = frozenset()) -> None:
    """Hold each command of a script that is known here to what there is."""
    for command in commands_of(text):
        name = Path(command[0]).name
        if name in WORDS and name not in but:
            WORDS[name](command[1:])


def _swell(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="swell")
    while isinstance(command, TyperGroup):
        if not words or words[0].startswith("-"):
            return
        name, *words = words
        inner = command.get_command(context, name)
        assert inner is not None, f"no command {name}"
        command, context = inner, typer.Context(inner, info_name=name, parent=context)
    # Options must exist and have their values; too many words are refused.
    command.make_parser(context).parse_args(list(words))


def _make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = [word for word in words if "=" not in word and not word.startswith("-")]
    assert set(asked) <= set(targets)


def _pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words:
        for extras in re.findall(r"^swell\[([\w,]+)\]", word):
            assert set(extras.split(",")) <= set(project["optional-dependencies"])


def _python(words: list[str]) -> None:
    if words and re.match(r"(benchmarks|training|web|docs)/", words[0]):
        assert (ROOT / words[0]).is_file()
    if words[:1] == ["-m"] and words[1].startswith("swell"):
        assert importlib.util.find_spec(words[1])


def _curl(words: list[str]) -> None:
    values = {
        flag: [value for option, value in itertools.pairwise(words) if option == f"-{flag}"]
        for flag in ("X", "d", "F", "T")
    }
    urls = [word for word in words if re.match(r"(https?://|\$\{?[A-Z_]*URL|\"?\$URL)", word)]
    has_body = values["d"] or values["F"] or "--json" in words or "--data-binary" in words
    method = (values["X"] or ["PUT" if values["T"] else "POST" if has_body else "GET"])[0]
    for url in urls:
        path = re.sub(r"^(https?://[^/]*|\$\{?\w+\}?)", "", url).partition("?")[0]
        host = re.match(r"https?://([^/:]*)", url)
        if host and not re.search(r"127\.0\.0\.1|localhost|swell|example", host[1]):
            continue
        assert is_route(method, path), f"{method} {path}"


def is_route(method: str, path: str) -> bool:
    for route in ROUTES:
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route.public_path))
        if route.method == method and re.fullmatch(pattern, path):
            return True
    return False


WORDS = {
    "swell": _swell,
    "make": _make,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "curl": _curl,
}


def test_what_does_not_exist_would_be_found() -> None:
    for wrong in (
        "swell tasks sbmit a/b",
        "swell up --prot 1",
        "make nothing",
        "pip install 'swell[nothing]'",
        "curl $URL/v1/nothing",
        "A=$(swell keys create a --nothing)",
        "true && swell nothing | cat",
    ):
        with pytest.raises(Exception, match=r"."):
            held(wrong)


# ---- Python


@pytest.mark.parametrize("a_block", of("python", "py"), ids=str)
def test_a_block_of_python_compiles_and_its_imports_are_there(a_block: Block) -> None:
    tree = ast.parse(a_block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                assert _is_there(each.name), each.name
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            names = _names_of(node.module)
            for each in node.names:
                assert each.name in names or _is_there(f"{node.module}.{each.name}"), each.name
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "swell":
            swell = importlib.import_module("swell")
            assert hasattr(swell, node.attr) or _is_there(f"swell.{node.attr}"), node.attr


def _names_of(module: str) -> set[str]:
    """Return what a module has, without importing it: some need torch, which is not here."""
    found = importlib.util.find_spec(module)
    assert found is not None, module
    assert found.origin is not None, module
    tree = ast.parse(Path(found.origin).read_text("utf-8"))
    names = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom | ast.If):
            imported = [each for each in ast.walk(node) if isinstance(each, ast.alias)]
            names |= {each.asname or each.name for each in imported}
    return names


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("swell", "swell_models")


def _is_there(name: str) -> bool:
    return not _is_ours(name) or importlib.util.find_spec(name) is not None


# ---- data


@pytest.mark.parametrize("a_block", of("toml"), ids=str)
def test_a_block_of_toml_is_settings_or_a_file_that_is_read(a_block: Block, tmp_path: Path) -> None:
    path = tmp_path / "weights.toml"
    path.write_text(re.sub(r"(?<=ami-)…", "0a1b2c3d4e5f", a_block.text))
    found = tomllib.loads(path.read_text())
    if "pipelines" in found:
        assert load_pipelines(str(path))
    elif {"model", "version"} <= set(found):
        assert read_listing(path)
    elif "styles" in found:
        for style in found["styles"].values():
            PIL.Image.new("RGB", (8, 8)).save(tmp_path / style["picture"])
        assert load_styles(str(path))
    elif any("title" in each for each in found.values() if isinstance(each, dict)):
        assert read_scenarios(path)
    else:
        load(config=path, environment={}, folder=tmp_path)


@pytest.mark.parametrize("a_block", of("json", "yaml"), ids=str)
def test_a_block_of_data_is_what_it_says(a_block: Block) -> None:
    if a_block.language == "yaml":
        assert list(yaml.safe_load_all(a_block.text))
    else:
        json.loads(a_block.text)


@pytest.mark.parametrize("a_block", of("js"), ids=str)
def test_a_block_of_javascript_parses(a_block: Block, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js")
    path = tmp_path / "a.mjs"
    path.write_text(a_block.text)
    done = subprocess.run([node, "--check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
