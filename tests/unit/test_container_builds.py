"""What is said to engines and to pip; the engines themselves are in tests/containers."""

import configparser
import dataclasses
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from swell.cli import app
from swell.containers.dockerfile import SECRETS, Recipe, written
from swell.containers.engines import (
    BuildFailed,
    Engine,
    NoEngine,
    check_registry,
    check_tag,
    find,
)
from swell.containers.indexes import index_of
from swell.containers.kept import Kept
from swell.core.errors import InvalidRequest

#: Of the option that names a package index.
URL = "index-url"

#: Of a command, such as stand in what engines repeat of it.
WORDS = "unshare timed out ca-certificates SSLError denied the models' files"

RECIPE = Recipe(
    base="docker.io/library/python:3.13-slim",
    release="1.2.3",
    wheel="swell-1.2.3-py3-none-any.whl",
    names=["acme/poster"],
    variables={"PATH": "/opt/swell/venv/bin:$PATH", "SWELL_WORKER__MODELS": "a$b"},
    labels={"dev.swell.models": "acme/poster@1"},
)


def instructions(text: str) -> list[str]:
    """The instructions of a Dockerfile, each in one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def at(text: str, begins: str) -> int:
    return next(n for n, line in enumerate(instructions(text)) if line.startswith(begins))


def test_what_changes_seldom_comes_first() -> None:
    text = written(RECIPE)
    order = ["FROM", "COPY requirements.txt", f"COPY {RECIPE.wheel}", "ENV", "COPY tree"]
    places = [at(text, each) for each in order]
    assert places == sorted(places)
    assert places[-1] == len(instructions(text)) - 1


def test_a_worker_is_nobody_special_and_is_asked_to_end_and_how_it_is() -> None:
    lines = instructions(written(RECIPE))
    assert "USER 10001:10001" in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert 'VOLUME ["/var/lib/swell"]' in lines
    [health] = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert health.endswith('CMD ["swell", "health"]')
    [entry] = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert entry == 'ENTRYPOINT ["tini", "--", "swell", "worker"]'
    assert not [line for line in lines if line.startswith("EXPOSE")]


def test_where_packages_are_is_mounted_and_never_written() -> None:
    text = written(RECIPE)
    for name, path in SECRETS.items():
        assert f"--mount=type=secret,id={name},target={path}" in text
    assert "--mount=type=cache,target=/var/cache/swell-pip" in text
    assert "PIP_CONFIG_FILE" not in "".join(x for x in instructions(text) if x.startswith("ENV"))


def test_a_dollar_in_a_value_is_a_dollar() -> None:
    text = written(RECIPE)
    assert 'PATH="/opt/swell/venv/bin:$PATH"' in text
    assert r'SWELL_WORKER__MODELS="a\$b"' in text


def test_torch_comes_from_the_index_that_is_asked_for() -> None:
    plain = written(RECIPE)
    assert "--extra-index-url" not in plain
    index = "https://download.pytorch.org/whl/cu128"
    told = written(
        Recipe(
            base="nvidia/cuda:12.8.1-base-ubuntu24.04",
            release="1",
            wheel="w.whl",
            names=["a/b"],
            variables={"SWELL_WORKER__DEVICE": "cuda:0"},
            labels={"a": "b"},
            torch_index=index,
        )
    )
    assert f"ARG TORCH_INDEX={index}" in told
    assert "--extra-index-url ${TORCH_INDEX}" in told
    assert "ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04" in told
    assert "apt-get install -y --no-install-recommends" in told


@pytest.mark.parametrize(
    ("there", "installed"),
    [
        ((), "gcc libc6-dev python3-dev"),
        (("gcc",), "python3-dev"),
        (("gcc", "python3"), ""),
    ],
)
def test_images_for_gpus_can_compile_kernels(
    tmp_path: Path, there: tuple[str, ...], installed: str
) -> None:
    """The commands run in a shell whose programs are those of the image."""
    assert "gcc" not in written(RECIPE)
    text = written(dataclasses.replace(RECIPE, is_cuda=True))
    [commands] = re.findall(r"^RUN (missing=.*?)\n(?=\n)", text, re.DOTALL | re.MULTILINE)
    programs = tmp_path / "bin"
    programs.mkdir()
    ends = {"python3": 1, "apt-get": 0, "rm": 0, "tini": 0} | dict.fromkeys(there, 0)
    for name, code in ends.items():
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*"\nexit {code}\n')
        (programs / name).chmod(0o755)
    ran = subprocess.run(
        ["/bin/sh", "-c", commands],
        env={"PATH": str(programs)},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    lines = [line for line in ran.stdout.splitlines() if line.startswith("apt-get install")]
    asked = " ".join(line.partition("recommends ")[2] for line in lines).split()
    # The base of a test may have no certificates.
    others = {"ca-certificates", "python3", "python3-venv"}
    assert [each for each in asked if each not in others] == installed.split()


def test_environments_and_baked_weights_have_layers_of_their_own_before_the_code() -> None:
    text = written(
        Recipe(
            base="b",
            release="1",
            wheel="w.whl",
            names=["a/b"],
            variables={"A": "b"},
            labels={"a": "b"},
            has_needs=True,
            is_baked=True,
        )
    )
    order = ["COPY w.whl", "COPY needs.json", "COPY weights", "COPY tree"]
    places = [at(text, each) for each in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "tag", ["poster", "acme/poster:1", "registry.example:5000/team/poster:v1.2_3", "a__b--c/d"]
)
def test_tags_that_are_tags(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", "Acme/Poster", "poster:", "poster :1", "-poster", "a//b", "--push", "x" * 256]
)
def test_tags_that_are_none_are_refused_before_anything_is_built(tag: str) -> None:
    with pytest.raises(InvalidRequest, match="is no tag of an image"):
        check_tag(tag)


@pytest.mark.parametrize("tag", ["registry.example/a:1", "localhost/a", "box:5000/a", "a.b/c/d"])
def test_a_registry_is_one_that_is_named(tag: str) -> None:
    check_registry(tag)


@pytest.mark.parametrize(
    ("tag", "named"),
    [("poster:1", "docker.io/you/poster:1"), ("acme/poster", "docker.io/acme/poster")],
)
def test_a_push_without_a_registry_is_refused(tag: str, named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"names no registry .* {named}"):
        check_registry(tag)


@pytest.mark.parametrize(("words", "told"), [(["-t", "a/b"], "names no reg"), ([], "needs a reg")])
def test_a_push_without_a_registry_is_refused_before_anything_is_built(
    words: list[str], told: str
) -> None:
    done = CliRunner().invoke(app, ["build", "demo/upper", "--push", *words])
    assert done.exit_code == 2
    assert told in " ".join(done.output.split())


def test_values_of_several_lines_are_of_one_in_the_build(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        f"[global]\nextra-{URL} =\n    https://a.example/simple\n    https://b.example/simple\n"
        "trusted-host = a.example\n    b.example\n"
    )
    index = index_of({"HOME": str(tmp_path / "no"), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")})
    parser = configparser.RawConfigParser()
    parser.read_string(index.config)
    assert parser["global"]["trusted-host"].split() == ["a.example", "b.example"]
    assert parser["global"][f"extra-{URL}"].split() == [
        "https://a.example/simple",
        "https://b.example/simple",
    ]


def test_pips_own_settings_go_to_the_build_without_paths_of_this_machine(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("PEM")
    (tmp_path / "pip.conf").write_text(
        f"[global]\n{URL} = https://me:word@index.example/simple\nfind-links = /opt/wheels\n"
        "timeout = 5\n[install]\ntimeout = 7\n[list]\nformat = json\n"
    )
    index = index_of(
        {
            "HOME": str(tmp_path / "nowhere"),
            "XDG_CONFIG_DIRS": str(tmp_path / "none"),
            "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
            "PIP_CERT": str(ca),
            "PIP_EXTRA_INDEX_URL": "https://more.example",
            "PIP_CONSTRAINT": "/etc/constraints.txt",
            "HTTPS_PROXY": "http://proxy.example:3128",
        }
    )
    assert f"{URL} = https://me:word@index.example/simple\n" in index.config
    assert f"extra-{URL} = https://more.example\n" in index.config
    assert "timeout = 7\n" in index.config
    assert f"cert = {SECRETS['swell-ca']}\n" in index.config
    assert "/opt/wheels" not in index.config
    assert "/etc/constraints.txt" not in index.config
    assert index.ca == ca
    assert dict(index.proxies) == {"HTTPS_PROXY": "http://proxy.example:3128"}


def test_no_engine_says_what_to_do(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    with pytest.raises(NoEngine, match=r"none of docker, podman, buildah.* --dockerfile"):
        find(None, nothing)
    with pytest.raises(NoEngine, match="there is no podman on this machine"):
        find("podman", nothing)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Engine]:
    """Makes an engine of a shell script: what is asked of it, and what it says, is the test's."""

    def make(name: str, script: str) -> Engine:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return find(name, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})

    return make


def test_what_an_engine_is_asked(program: Callable[[str, str], Engine], tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    engine = program(
        "podman",
        f'[ "$1" = build ] && printf "%s\\n" "$@" > {asked} && cp "{tmp_path}/s/pip.conf" '
        f"{tmp_path}/seen && exit 0\n"
        'echo \'[{"size": 7, "CreatedBy": "COPY tree"}, {"size": 0, "CreatedBy": "ENV"},'
        ' {"size": 5}]\'',
    )
    secrets = tmp_path / "s"
    secrets.mkdir()
    index = index_of({"PIP_INDEX_URL": "https://index.example", "HOME": "/nowhere"})
    built = engine.build(tmp_path, "a:1", index, secrets, options=["--network=host"])
    words = asked.read_text().splitlines()
    assert words[:4] == ["build", "--tag", "a:1", "--file"]
    assert words[-2:] == ["--network=host", str(tmp_path)]
    assert "--format" in words
    # Of buildah a build that fails, or is ended, leaves a container with its secrets otherwise.
    assert "--force-rm" in words
    assert f"id=swell-pip,src={secrets}/pip.conf" in words
    assert f"{URL} = https://index.example" in (tmp_path / "seen").read_text()
    assert not [word for word in words if "index.example" in word]
    assert [(layer.size_bytes, layer.made_by) for layer in built.layers] == [
        (5, ""),
        (7, "COPY tree"),
    ]
    assert built.size_bytes == 12


#: A buildah whose images are files: their ids are digests of what they were built of.
BUILDAH = """
cd {place}
if [ "$1" = inspect ]; then
    case "$*" in *FromImageID*) cat "images/$6"; exit;; esac
    echo '{{"Manifest": "{{\\"layers\\": []}}", "Docker": {{"history": []}}}}'; exit
fi
file=$(echo "$@" | sed "s/.*--file \\([^ ]*\\).*/\\1/")
basename "$file" >> built
case "$file" in
    *.before)
        id=$(cat "$file" images/base context/*.txt | sha256sum | cut -c1-64)
        echo "$id" > "images/$id"; echo "sha256:$id" > context/Dockerfile.id;;
    *.code) cp "$file" code; [ ! -e broken ] || exit 1;;
esac
"""


class Built:
    """A context, and an engine that notes what it has built of it."""

    def __init__(self, folder: Path, program: Callable[[str, str], Engine]) -> None:
        self.folder, self.context = folder, folder / "context"
        for each in ("context/tree", "images", "secrets"):
            (folder / each).mkdir(parents=True)
        base = RECIPE.base.rpartition("/")[2]
        self.recipe = dataclasses.replace(RECIPE, base=base)
        (self.context / "Dockerfile").write_text(written(self.recipe))
        (self.context / "requirements.txt").write_text("numpy==2.0\n")
        (self.context / "tree" / "code.py").write_text("one")
        (folder / "images" / base).write_text("a" * 64)
        (folder / "images" / "base").write_text("a" * 64)
        program("buildah", BUILDAH.format(place=folder))
        self.notes = folder / "notes"

    def build(self, *options: str) -> list[str]:
        """Build; return which Dockerfiles were built."""
        (self.folder / "built").write_text("")
        variables = {"PATH": f"{self.folder}:{os.environ['PATH']}"}
        engine = find("buildah", variables, Kept(self.notes))
        index = index_of({"HOME": "/nowhere"})
        engine.build(self.context, "a:1", index, self.folder / "secrets", options=options)
        return (self.folder / "built").read_text().split()

    @property
    def begins_with(self) -> str:
        """What the last build of code began with."""
        return (self.folder / "code").read_text().splitlines()[0]


BOTH = ["Dockerfile.before", "Dockerfile.code"]


@pytest.fixture
def made(program: Callable[[str, str], Engine], tmp_path: Path) -> Built:
    return Built(tmp_path, program)


def test_after_a_change_of_code_a_build_begins_with_what_the_last_one_has_left(made: Built) -> None:
    assert made.build("--network=host") == BOTH
    first = made.begins_with
    (made.context / "tree" / "code.py").write_text("two")
    assert made.build("--network=host") == ["Dockerfile.code"]
    assert made.begins_with == first
    assert (made.folder / "code").read_text().endswith("COPY tree /\n")


@pytest.mark.parametrize("what", ["pins", "base", "wheel", "needs", "settings", "option", "rights"])
def test_a_change_of_anything_else_is_built_anew(made: Built, what: str) -> None:
    made.build("--network=host")
    first, options = made.begins_with, ["--network=host"]
    if what == "pins":
        (made.context / "requirements.txt").write_text("numpy==2.1\n")
    elif what == "base":
        for name in ("base", made.recipe.base):
            (made.folder / "images" / name).write_text("b" * 64)
    elif what == "settings":
        changed = dataclasses.replace(made.recipe, variables={"SWELL_WORKER__MODELS": "other"})
        (made.context / "Dockerfile").write_text(written(changed))
    elif what == "option":
        options = ["--network=none"]
    elif what == "rights":
        (made.context / "requirements.txt").chmod(0o755)
    else:
        (made.context / what).write_text("new")
    assert made.build(*options) == BOTH
    if what in ("pins", "base", "settings"):
        assert made.begins_with != first


def test_baked_weights_are_told_by_their_names(made: Built) -> None:
    weights = made.context / "weights" / "files" / "ab"
    weights.mkdir(parents=True)
    (weights / ("ab" * 32)).write_bytes(b"weights")
    assert made.build() == BOTH
    assert made.build() == ["Dockerfile.code"]
    (weights / ("ac" * 32)).write_bytes(b"weights")
    assert made.build() == BOTH


def test_an_image_that_has_gone_is_made_anew(made: Built) -> None:
    made.build()
    (made.folder / "images" / made.begins_with.removeprefix("FROM ")).unlink()
    assert made.build() == BOTH


def test_an_image_that_goes_while_it_is_begun_with_costs_time_and_no_build(made: Built) -> None:
    made.build()
    image = made.folder / "images" / made.begins_with.removeprefix("FROM ")
    program = made.folder / "buildah"
    pruned = f"*.code) [ ! -e {image} ] || {{ rm {image}; exit 1; }};"
    program.write_text(program.read_text().replace("*.code)", pruned))
    assert made.build() == ["Dockerfile.code", "Dockerfile"]
    assert not list(made.notes.iterdir())


@pytest.mark.parametrize("was_here", [False, True])
def test_a_base_that_came_or_was_replaced_meanwhile_is_noted_as_no_other(
    made: Built, was_here: bool
) -> None:
    """The engine begins with one image; its name leads to another one when the build is over."""
    base = made.folder / "images" / made.recipe.base
    base.write_text("a" * 64 if was_here else "")
    program = made.folder / "buildah"
    replaced = f"[ -e came ] || echo {'b' * 64} > {base}; touch came"
    program.write_text(f"{program.read_text().rstrip()}\n{replaced}\n")
    assert made.build() == BOTH
    first = made.begins_with
    (made.folder / "images" / "base").write_text("b" * 64)
    assert made.build() == BOTH
    assert made.begins_with != first
    assert made.build() == ["Dockerfile.code"]


def test_a_note_that_says_something_else_is_not_used(made: Built) -> None:
    made.build()
    [note] = made.notes.iterdir()
    for text in ("", "alpine:latest", "../x", "A" * 64, "\xff"):
        note.write_text(text)
        assert made.build() == BOTH


def test_after_a_build_that_failed_all_is_looked_at_again(made: Built) -> None:
    made.build()
    (made.folder / "broken").write_text("")
    with pytest.raises(BuildFailed):
        made.build()
    (made.folder / "broken").unlink()
    assert made.build() == BOTH


@pytest.mark.parametrize(
    "option", ["--build-arg=BASE=other", "--no-cache", "--pull=always", "--network host", "-v=/:/x"]
)
def test_with_options_that_may_change_an_image_all_steps_are_the_engines(
    made: Built, option: str
) -> None:
    for _ in range(2):
        assert made.build(*option.split(" ")) == ["Dockerfile"]
    assert not made.notes.exists()


def test_where_no_note_can_be_written_it_is_built_all_the_same(made: Built) -> None:
    made.notes.write_text("a file")
    assert made.build() == BOTH
    assert made.build() == BOTH


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Cannot connect to the Docker daemon at unix:///x", "Docker's daemon does not run"),
        ("Error: initializing source docker://nothing", "the base image cannot be had"),
        ("ERROR: No matching distribution found for numpy==9", "the package index has no such"),
        ("write /x: no space left on device", "the disk is full"),
        ("what on earth", "a build step failed"),
        ("(from versions: 1.0, 2.0)\nERROR: No matching distribution", "no package matches"),
        (
            "SSLError(SSLCertVerificationError(1\nERROR: No matching dist",
            "the package index is not",
        ),
        ("NewConnectionError: x\nERROR: No matching distribution", "the package index cannot be"),
        ("(from versions: none)\nERROR: No matching distribution", "the package index has no such"),
        # Words of the command that failed are not what it said.
        (f"STEP 2/9: RUN {WORDS}", "a build step failed"),
        (f'Error: building at STEP "RUN {WORDS}": exit status 1', "a build step failed"),
        (f'STEP "RUN {WORDS}": no space left on device', "the disk is full"),
        (
            f"#8 [4/9] RUN {WORDS}\n > [4/9] RUN {WORDS}:\n  12 | >>> RUN {WORDS}",
            "a build step failed",
        ),
        (f'ERROR: failed to solve: process "/bin/sh -c {WORDS}" did not', "a build step failed"),
    ],
)
def test_a_build_that_fails_tells_its_last_words_and_what_to_do(
    program: Callable[[str, str], Engine], tmp_path: Path, said: str, told: str
) -> None:
    noise = "i=0; while [ $i -lt 50 ]; do echo noise$i; i=$((i+1)); done"
    (tmp_path / "said").write_text(said)
    engine = program("docker", f"{noise}; cat {tmp_path}/said >&2; exit 3")
    heard: list[str] = []
    with pytest.raises(BuildFailed) as caught:
        engine.build(tmp_path, "a", index_of({"HOME": "/"}), tmp_path, tell=heard.append)
    assert caught.value.detail.startswith(told)
    assert said.splitlines()[-1] in caught.value.detail
    assert "noise49" in caught.value.detail
    assert "noise5\n" not in caught.value.detail
    assert heard[0] == "noise0"


def test_what_an_engine_says_shows_no_passwords(
    program: Callable[[str, str], Engine], tmp_path: Path
) -> None:
    engine = program("docker", "echo Looking in https://me:word@index.example/simple; exit 1")
    heard: list[str] = []
    with pytest.raises(BuildFailed) as caught:
        engine.build(tmp_path, "a", index_of({"HOME": "/"}), tmp_path, tell=heard.append)
    assert "word@" not in caught.value.detail + "".join(heard)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("denied: requested access to the resource is denied", "the registry does not let you in"),
        ("dial tcp: lookup r.example: no such host", "the registry cannot be reached"),
        ("tls: x509: certificate signed by unknown authority", "the registry's certificate"),
    ],
)
def test_a_push_that_fails_says_what_to_do(
    program: Callable[[str, str], Engine], said: str, told: str
) -> None:
    engine = program("docker", f"echo '{said}' >&2; exit 1")
    with pytest.raises(BuildFailed) as caught:
        engine.push("r.example/a:1", lambda line: None)
    assert caught.value.detail.startswith(told)


def test_no_other_frontend_is_fetched_for_the_dockerfile() -> None:
    assert "syntax=" not in written(RECIPE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_build_that_is_ended_leaves_no_secrets_and_no_engine(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The engine is a script that has a child, and would go on for as long as the test may take."""
    (tmp_path / "bin").mkdir()
    docker, pids, temporary = tmp_path / "bin" / "docker", tmp_path / "pids", tmp_path / "tmp"
    temporary.mkdir()
    docker.write_text(
        f"#!/bin/sh\nsleep 600 & echo $$ $! >{pids}.draft; mv {pids}.draft {pids}; wait"
    )
    docker.chmod(0o755)
    building = subprocess.Popen(
        [sys.executable, "-m", "swell", "build", "demo/upper", "--engine", "docker"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PATH": f"{docker.parent}:{os.environ['PATH']}",
            "TMPDIR": str(temporary),
            "PIP_INDEX_URL": "https://me:word@index.example",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # `nohup` would have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    try:
        ends_s = time.monotonic() + 60
        while not pids.exists():
            assert building.poll() is None
            assert time.monotonic() < ends_s
            time.sleep(0.01)
        [config] = temporary.glob("swell-build-*/secrets/pip.conf")
        assert "word" in config.read_text()
        engines = [psutil.Process(int(pid)) for pid in pids.read_text().split()]
        building.send_signal(number)
        assert building.wait(60) == {signal.SIGINT: 130}.get(number, 128 + number)
        _, alive = psutil.wait_procs(engines, 10)
        assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []
        assert list(temporary.iterdir()) == []
    finally:
        building.kill()
        building.wait()
