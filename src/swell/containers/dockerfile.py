"""Writes the Dockerfile of a worker's image. Pure.

Layers that seldom change come first, so that a change of a model's code replaces one small layer:
base, user, system packages, pinned packages, Swell, the models' environment, baked weights,
settings, code. uv installs packages; its cache is a mount that the engine keeps between builds.

The index and its certificates come from the building machine. They are mounted while one command
runs (`RUN --mount=type=secret`) and are in no layer. All current engines support this (Docker since
20.10) without a `# syntax` line, which would download a frontend from a registry.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

#: The user that a worker runs as in a container.
UID: Final = 10001

#: Folder of Swell, and the only folder that a worker writes in.
HOME: Final = PurePosixPath("/opt/swell")
DATA: Final = PurePosixPath("/var/lib/swell")

#: Secrets that are mounted while packages are installed: id → path.
SECRETS: Final[Mapping[str, str]] = {
    "swell-index": "/run/secrets/swell-index",
    "swell-ca": "/run/secrets/swell-ca",
}

#: Mounts uv's cache, which the engine keeps between builds, and the secrets.
_MOUNTS: Final = (
    "--mount=type=cache,target=/var/cache/swell-uv "
    + " ".join(f"--mount=type=secret,id={name},target={path}" for name, path in SECRETS.items())
    + " \\\n    export UV_CACHE_DIR=/var/cache/swell-uv; "
    + "[ ! -e {0} ] || . {0};".format(SECRETS["swell-index"])
)

#: Installs packages. Pip's order of indexes: the best version of all of them.
_UV: Final = (
    f"{HOME}/venv/bin/uv pip install --quiet --python {HOME}/venv --compile-bytecode"
    " --link-mode=copy --index-strategy=unsafe-best-match"
)

#: torch.compile builds the launcher of each kernel with a C compiler and Python's headers.
_COMPILER: Final = """\
    command -v gcc > /dev/null || missing="$missing gcc libc6-dev"; \\
    python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \\
      2> /dev/null || missing="$missing python3-dev"; \\
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Values of a Dockerfile.

    Args:
        base: Base image.
        wheel: Name of Swell's wheel in the context.
        names: Names of the models, for a comment.
        variables: Environment variables of the image.
        requirements: Packages to install.
        constraints: Lines of pip's constraints file.
        torch_index: Additional index with torch; empty for none.
        needs: Python and requirements of the models' separate environment; empty for none.
        is_baked: Whether the image contains weights.
        is_cuda: Whether torch compiles kernels for a GPU, which needs a C compiler.
    """

    base: str
    wheel: str
    names: Sequence[str]
    variables: Mapping[str, str]
    requirements: Sequence[str] = ()
    constraints: Sequence[str] = ()
    torch_index: str = ""
    needs: Sequence[str] = ()
    is_baked: bool = False
    is_cuda: bool = False


def written(recipe: Recipe) -> str:
    """Return the Dockerfile."""
    names, compiler = ", ".join(recipe.names), _COMPILER if recipe.is_cuda else ""
    baked = f"\n# Weights.\nCOPY weights {HOME}/weights\n" if recipe.is_baked else ""
    argument = f"ARG TORCH_INDEX={recipe.torch_index}\n" if recipe.torch_index else ""
    torch = " --index ${TORCH_INDEX}" if recipe.torch_index else ""
    needs = (
        f"""
# What the models' own files ask for.
RUN {_MOUNTS} {HOME}/venv/bin/python -m swell.containers.prepare {HOME}/environments \\
    {_words(recipe.needs)}
"""
        if recipe.needs
        else ""
    )
    # uv leaves a lock file that everyone may write. buildah takes six times as long for each step
    # after VOLUME and WORKDIR, even if it is cached.
    return f"""\
# Written by swell build: {names}.
ARG BASE={recipe.base}
FROM ${{BASE}}

# One user, who may write in one folder; system packages that the base does not have.
RUN echo 'swell:x:{UID}:{UID}:Swell:{DATA}:/usr/sbin/nologin' >> /etc/passwd \\
 && echo 'swell:x:{UID}:' >> /etc/group \\
 && mkdir -p {HOME} {DATA}/weights && chown -R {UID}:{UID} {DATA} && chmod -R 700 {DATA}
RUN missing=''; command -v tini > /dev/null || missing=tini; \\
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"; \\
    python3 -c 'import ensurepip, venv' || missing="$missing python3 python3-venv"; \\
{compiler}    [ -z "$missing" ] || {{ apt-get update \\
      && apt-get install -y --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*; }}

# Packages, each with its version.
{argument}RUN {_MOUNTS} \\
    printf '%s\\n' {_words(recipe.constraints)} \\
    > {HOME}/constraints.txt && python3 -m venv {HOME}/venv \\
 && {HOME}/venv/bin/pip install -q --disable-pip-version-check -c {HOME}/constraints.txt uv \\
 && {_UV}{torch} -c {HOME}/constraints.txt \\
    {_words(recipe.requirements)} \\
 && rm -f {HOME}/venv/.lock

# Swell itself.
COPY {recipe.wheel} {HOME}/
RUN {_UV} --no-deps --no-index --no-cache {HOME}/{recipe.wheel} && rm -f {HOME}/venv/.lock
{needs}{baked}
ENV {_pairs(recipe.variables)}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["swell", "health"]
ENTRYPOINT ["tini", "--", "swell", "worker"]
USER {UID}:{UID}
VOLUME ["{DATA}"]
WORKDIR {DATA}

# The models' code.
COPY tree /
"""


def _words(values: Sequence[str]) -> str:
    """Return words of a shell command, one per line."""
    return " \\\n    ".join(map(shlex.quote, values))


def _pairs(values: Mapping[str, str]) -> str:
    """Return `name="value"` pairs for a Dockerfile, one per line."""
    return " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: str) -> str:
    # Escape dollars, which start a variable; only `$PATH` is meant as one.
    text = json.dumps(value, ensure_ascii=False)
    return text if "$PATH" in text else text.replace("$", "\\$")
