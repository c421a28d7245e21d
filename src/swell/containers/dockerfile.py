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

#: uv's cache. The engine keeps it between builds; it is in no layer.
_CACHE: Final = "/var/cache/swell-uv"

#: Installs packages. Pip's order of indexes: the best version of all of them.
_UV: Final = (
    "{home}/venv/bin/uv pip install --quiet --python {home}/venv --compile-bytecode"
    " --link-mode=copy --index-strategy=unsafe-best-match"
)

_HEAD: Final = """\
# Written by swell build {release}: {names}.
ARG BASE={base}
FROM ${{BASE}}

# One user, who may write in one folder; system packages that the base does not have.
RUN echo 'swell:x:{uid}:{uid}:Swell:{data}:/usr/sbin/nologin' >> /etc/passwd \\
 && echo 'swell:x:{uid}:' >> /etc/group \\
 && mkdir -p {home} {data}/weights && chown -R {uid}:{uid} {data} && chmod -R 700 {data}
RUN missing=''; command -v tini > /dev/null || missing=tini; \\
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing="$missing ca-certificates"; \\
    python3 -c 'import ensurepip, venv' || missing="$missing python3 python3-venv"; \\
{compiler}    [ -z "$missing" ] || {{ apt-get update \\
      && apt-get install -y --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*; }}
"""

#: torch.compile builds the launcher of each kernel with a C compiler and Python's headers.
_COMPILER: Final = """\
    command -v gcc > /dev/null || missing="$missing gcc libc6-dev"; \\
    python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \\
      2> /dev/null || missing="$missing python3-dev"; \\
"""

_PACKAGES: Final = """
# Packages, each with its version.
{torch_argument}RUN {mounts} \\
    {index} printf '%s\\n' {constraints} \\
    > {home}/constraints.txt && python3 -m venv {home}/venv \\
 && {home}/venv/bin/pip install -q --disable-pip-version-check -c {home}/constraints.txt uv \\
 && {uv}{torch} -c {home}/constraints.txt {requirements} \\
 && {unlock}
"""

_SWELL: Final = """
# Swell itself.
COPY {wheel} {home}/
RUN {uv} --no-deps --no-index --no-cache {home}/{wheel} && {unlock}
"""

_NEEDS: Final = """
# What the models' own files ask for.
RUN {mounts} \\
    {index} {home}/venv/bin/python -m swell.containers.prepare {home}/environments \\
    {needs}
"""

_BAKED: Final = """
# Weights.
COPY weights {home}/weights
"""

#: buildah takes six times as long for each step after VOLUME and WORKDIR, even if it is cached.
_SETTINGS: Final = """
ENV {variables}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["swell", "health"]
ENTRYPOINT ["tini", "--", "swell", "worker"]
USER {uid}:{uid}
VOLUME ["{data}"]
WORKDIR {data}
"""

_CODE: Final = """
# The models' code.
COPY tree /
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Values of a Dockerfile.

    Args:
        base: Base image.
        release: Release of Swell.
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
    release: str
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
    index = SECRETS["swell-index"]
    parts = [
        _HEAD,
        _PACKAGES,
        _SWELL,
        *([_NEEDS] if recipe.needs else []),
        *([_BAKED] if recipe.is_baked else []),
        _SETTINGS,
        _CODE,
    ]
    values = {
        "release": recipe.release,
        "names": ", ".join(recipe.names),
        "base": recipe.base,
        "uid": UID,
        "data": DATA,
        "home": HOME,
        "torch_argument": f"ARG TORCH_INDEX={recipe.torch_index}\n" if recipe.torch_index else "",
        "torch": " --index ${TORCH_INDEX}" if recipe.torch_index else "",
        "mounts": _mounts(),
        "constraints": _words(recipe.constraints),
        "requirements": _words(recipe.requirements),
        "needs": _words(recipe.needs),
        "compiler": _COMPILER if recipe.is_cuda else "",
        "index": f"export UV_CACHE_DIR={_CACHE}; [ ! -e {index} ] || . {index};",
        "uv": _UV.format(home=HOME),
        # uv leaves a lock file that everyone may write.
        "unlock": f"rm -f {HOME}/venv/.lock",
        "wheel": recipe.wheel,
        "variables": _pairs(recipe.variables),
    }
    return "".join(part.format(**values) for part in parts)


def _mounts() -> str:
    secrets = [f"--mount=type=secret,id={name},target={path}" for name, path in SECRETS.items()]
    return " ".join([f"--mount=type=cache,target={_CACHE}", *secrets])


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
