"""What is said to engines and to pip; the engines themselves are in tests/containers."""

import dataclasses
import os
import re
import shlex
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
    find,
)
from swell.containers.indexes import index_of
from swell.core.errors import InvalidRequest

#: Of the option that names a package index.
URL = "index-url"

#: Of a command, such as stand in what engines repeat of it.
WORDS = "unshare timed out ca-certificates SSLError denied the models' files"

RECIPE = Recipe(
    base="docker.io/library/python:3.13-slim",
    wheel="swell-1.2.3-py3-none-any.whl",
    names=["acme/poster"],
    variables={"PATH": "/opt/swell/venv/bin:$PATH", "SWELL_WORKER__MODELS": "a$b"},
    requirements=["numpy>=2", "uv"],
    constraints=["# it's mine", "numpy==2.1", "", "uv @ https://$HOST/uv.whl"],
)


def instructions(text: str) -> list[str]:
    """The instructions of a Dockerfile, each in one line."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def at(text: str, part: str) -> int:
    return next(n for n, line in enumerate(instructions(text)) if part in line)


def test_what_changes_seldom_comes_first() -> None:
    text = written(RECIPE)
    order = ["FROM", "> /opt/swell/constraints.txt", f"COPY {RECIPE.wheel}", "ENV", "COPY tree"]
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
    assert "--mount=type=cache,target=/var/cache/swell-uv" in text
    assert "UV_" not in "".join(x for x in instructions(text) if x.startswith("ENV"))


def test_the_build_reads_the_constraints_as_they_are() -> None:
    [line] = [line for line in written(RECIPE).splitlines() if "constraints.txt &&" in line]
    rest = written(RECIPE).partition("printf")[2]
    command = f"printf{rest.partition(line)[0]}".replace("\\\n", " ")
    ran = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == list(RECIPE.constraints)
    assert "'numpy>=2'" in rest


def test_a_dollar_in_a_value_is_a_dollar() -> None:
    text = written(RECIPE)
    assert 'PATH="/opt/swell/venv/bin:$PATH"' in text
    assert r'SWELL_WORKER__MODELS="a\$b"' in text


def test_torch_comes_from_the_index_that_is_asked_for() -> None:
    plain = written(RECIPE)
    assert "--index $" not in plain
    index = "https://download.pytorch.org/whl/cu128"
    told = written(
        Recipe(
            base="nvidia/cuda:12.8.1-base-ubuntu24.04",
            wheel="w.whl",
            names=["a/b"],
            variables={"SWELL_WORKER__DEVICE": "cuda:0"},
            torch_index=index,
        )
    )
    assert f"ARG TORCH_INDEX={index}" in told
    assert "--index ${TORCH_INDEX}" in told
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
            wheel="w.whl",
            names=["a/b"],
            variables={"A": "b"},
            needs=["", "einops>=0.8"],
            is_baked=True,
        )
    )
    order = ["COPY w.whl", "'einops>=0.8'", "COPY weights", "COPY tree"]
    places = [at(text, each) for each in order]
    assert places == sorted(places)


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
    lines = index.script.splitlines()
    assert "export UV_INSECURE_HOST='a.example b.example'" in lines
    both = "='https://a.example/simple https://b.example/simple'"
    assert {f"export UV_INDEX{both}", f"export PIP_EXTRA_INDEX_URL{both}"} <= set(lines)


def test_pips_own_settings_go_to_the_build_without_paths_of_this_machine(tmp_path: Path) -> None:
    ca = tmp_path / "ca.crt"
    ca.write_text("PEM")
    (tmp_path / "pip.conf").write_text(
        f"[global]\n{URL} = https://other.example/simple\nfind-links = /opt/wheels\n"
        f"[install]\n{URL} = https://me:wo$rd@index.example/simple\n[list]\nformat = json\n"
    )
    index = index_of(
        {
            "HOME": str(tmp_path / "nowhere"),
            "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
            "PIP_CERT": str(ca),
            "PIP_EXTRA_INDEX_URL": "https://more.example",
            "PIP_CONSTRAINT": "/etc/constraints.txt",
        }
    )
    told = dict(shlex.split(line)[1].split("=", 1) for line in index.script.splitlines())
    assert told == {
        "UV_DEFAULT_INDEX": "https://me:wo$rd@index.example/simple",
        "PIP_INDEX_URL": "https://me:wo$rd@index.example/simple",
        "UV_INDEX": "https://more.example",
        "PIP_EXTRA_INDEX_URL": "https://more.example",
        "SSL_CERT_FILE": SECRETS["swell-ca"],
        "PIP_CERT": SECRETS["swell-ca"],
    }
    assert index.ca == ca


def test_no_engine_says_what_to_do(tmp_path: Path) -> None:
    nothing = {"PATH": str(tmp_path)}
    with pytest.raises(NoEngine, match=r"none of docker, podman, buildah.* --context"):
        find(None, nothing)
    with pytest.raises(NoEngine, match=r"none of podman: .* --engine"):
        find("podman", nothing)


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], Engine]:
    """Makes an engine of a shell script: what is asked of it, and what it says, is the test's."""

    def make(name: str, script: str) -> Engine:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return find(name, {"PATH": path, "HTTPS_PROXY": "http://proxy.example:3128"})

    return make


def test_what_an_engine_is_asked(program: Callable[[str, str], Engine], tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    engine = program(
        "podman",
        f'[ "$1" = build ] && printf "%s\\n" "$@" > {asked} && cp "{tmp_path}/s/index.sh" '
        f"{tmp_path}/seen && exit 0\n"
        "echo 12",
    )
    secrets = tmp_path / "s"
    secrets.mkdir()
    index = index_of({"PIP_INDEX_URL": "https://index.example", "HOME": "/nowhere"})
    built = engine.build(tmp_path, "a:1", index, secrets, options=["--network=host"])
    words = asked.read_text().splitlines()
    assert words[:3] == ["build", "--tag", "a:1"]
    assert words[-2:] == ["--network=host", str(tmp_path)]
    assert "--format" in words
    # Of buildah a build that fails, or is ended, leaves a container with its secrets otherwise.
    assert "--force-rm" in words
    assert f"id=swell-index,src={secrets}/index.sh" in words
    assert "UV_DEFAULT_INDEX=https://index.example" in (tmp_path / "seen").read_text()
    assert not [word for word in words if "index.example" in word]
    assert words[words.index("--build-arg") + 1] == "HTTPS_PROXY"
    assert built == 12


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Cannot connect to the Docker daemon at unix:///x", "Docker's daemon does not run"),
        ("Error: initializing source docker://nothing", "the base image cannot be had"),
        ("ERROR: No matching distribution found for numpy==9", "the package index has no such"),
        ("write /x: no space left on device", "the disk is full"),
        ("Error: tag A/B: invalid reference format: repository", "--tag is no tag of an image"),
        ("what on earth", "a build step failed"),
        ("No solution found when resolving dependencies:\n╰─▶ no version", "the package index has"),
        ("Caused by: invalid peer certificate: UnknownIssuer", "the package index is not"),
        ("Caused by: dns error\nNo solution found", "the package index cannot be"),
        (
            "SSLError(SSLCertVerificationError(1\nERROR: No matching dist",
            "the package index is not",
        ),
        ("NewConnectionError: x\nERROR: No matching distribution", "the package index cannot be"),
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
        [config] = temporary.glob("swell-build-*/secrets/index.sh")
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
