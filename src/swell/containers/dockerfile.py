"""The Dockerfile of a worker's image, as text. Pure.

What changes seldom comes first, so that a change of a model's code makes one small layer anew:
base, user, system packages, pinned packages, Swell, the environment of models with needs, weights
if they are baked, settings, code.

Where pip finds packages, and which certificates it trusts, is of the machine that builds: files
that are mounted while one command runs (`RUN --mount=type=secret`), and never part of a layer.
Every engine of today knows these by itself, so no `# syntax` has another frontend fetched from a
registry: Docker since 20.10, where they ceased to be experimental.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

#: The user that a worker runs as in a container.
UID: Final = 10001

#: Mounted while packages are installed: id → where.
SECRETS: Final[Mapping[str, str]] = {
    "swell-pip": "/run/secrets/swell-pip",
    "swell-ca": "/run/secrets/swell-ca",
}

#: Where pip finds what it has fetched for an earlier build; of the engine, and in no layer.
_CACHE: Final = "/var/cache/swell-pip"

_HEAD: Final = """\
# Written by swell build {release}: {names}.
ARG BASE={base}
FROM ${{BASE}}

# One user, who may write in one folder; Python and certificates, where the base has none.
RUN echo 'swell:x:{uid}:{uid}:Swell:{data}:/usr/sbin/nologin' >> /etc/passwd \\
 && echo 'swell:x:{uid}:' >> /etc/group \\
 && mkdir -p {home} {data}/weights && chown -R {uid}:{uid} {data} && chmod -R 700 {data} \\
 && {{ python3 -c 'import ensurepip, venv' && [ -e /etc/ssl/certs/ca-certificates.crt ] \\
  || {{ apt-get update && apt-get install -y --no-install-recommends \\
       python3 python3-venv ca-certificates && rm -rf /var/lib/apt/lists/*; }}; }}
"""

_COMPILER: Final = """
# torch.compile builds the launcher of each kernel with a C compiler and Python's headers.
RUN missing=''; command -v gcc > /dev/null || missing='gcc libc6-dev'; \\
    python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' \\
      2> /dev/null || missing="$missing python3-dev"; \\
    [ -z "$missing" ] || {{ apt-get update \\
      && apt-get install -y --no-install-recommends $missing && rm -rf /var/lib/apt/lists/*; }}
"""

_PACKAGES: Final = """
# Packages, each with its version.
{torch_argument}COPY requirements.txt constraints.txt {home}/
RUN {mounts} \\
    python3 -m venv {home}/venv \\
 && {pip}{torch} -c {home}/constraints.txt -r {home}/requirements.txt
"""

_SWELL: Final = """
# Swell itself.
COPY {wheel} {home}/
RUN {home}/venv/bin/pip install --no-deps --no-index --disable-pip-version-check {home}/{wheel}
"""

_NEEDS: Final = """
# What the models' own files ask for.
COPY needs.json {home}/
RUN {mounts} \\
    {pip_environment} {home}/venv/bin/python -m swell.containers.prepare \\
      {home}/needs.json {home}/environments
"""

_BAKED: Final = """
# Weights.
COPY weights {home}/weights
"""

_SETTINGS: Final = """
ENV {variables}
LABEL {labels}
WORKDIR {data}
USER {uid}:{uid}
VOLUME ["{data}"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["swell", "health"]
ENTRYPOINT ["{home}/venv/bin/python", "-I", "-m", "swell.containers.init", "swell", "worker"]
"""

_CODE: Final = """
# The models' code.
COPY tree /
"""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is to be.

    Args:
        base: Image to begin with.
        release: Of Swell.
        wheel: Name of Swell's wheel in the context.
        names: Models, for people.
        variables: Of the image's environment.
        labels: Of the image.
        torch_index: Where pip finds torch beside its usual index; empty for nowhere.
        has_needs: Whether the models' files ask for an environment of their own.
        is_baked: Whether weights are in it.
        is_cuda: Whether it is for a GPU, for which torch compiles kernels.
    """

    base: str
    release: str
    wheel: str
    names: Sequence[str]
    variables: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    torch_index: str = ""
    has_needs: bool = False
    is_baked: bool = False
    is_cuda: bool = False
    home: str = "/opt/swell"
    data: str = "/var/lib/swell"


def parted(text: str) -> tuple[str, str]:
    """Return a Dockerfile of ours as what comes before the models' code, and that."""
    return text.removesuffix(_CODE), _CODE


def base_of(text: str) -> str:
    """Return the image that a Dockerfile of ours begins with."""
    return next(
        line.removeprefix("ARG BASE=") for line in text.splitlines() if line.startswith("ARG BASE=")
    )


def written(recipe: Recipe) -> str:
    """Return the Dockerfile."""
    pip_environment = f"PIP_CONFIG_FILE={SECRETS['swell-pip']} PIP_CACHE_DIR={_CACHE}"
    pip = f"{pip_environment} {recipe.home}/venv/bin/pip install --disable-pip-version-check"
    parts = [
        _HEAD,
        *([_COMPILER] if recipe.is_cuda else []),
        _PACKAGES,
        _SWELL,
        *([_NEEDS] if recipe.has_needs else []),
        *([_BAKED] if recipe.is_baked else []),
        _SETTINGS,
        _CODE,
    ]
    values = {
        "release": recipe.release,
        "names": ", ".join(recipe.names),
        "base": recipe.base,
        "uid": UID,
        "data": recipe.data,
        "home": recipe.home,
        "torch_argument": f"ARG TORCH_INDEX={recipe.torch_index}\n" if recipe.torch_index else "",
        "torch": " --extra-index-url ${TORCH_INDEX}" if recipe.torch_index else "",
        "mounts": _mounts(),
        "pip": pip,
        "pip_environment": pip_environment,
        "wheel": recipe.wheel,
        "variables": _pairs(recipe.variables),
        "labels": _pairs(recipe.labels),
    }
    return "".join(part.format(**values) for part in parts)


def _mounts() -> str:
    secrets = [f"--mount=type=secret,id={name},target={path}" for name, path in SECRETS.items()]
    return " ".join([f"--mount=type=cache,target={_CACHE}", *secrets])


def _pairs(values: Mapping[str, str]) -> str:
    """Return `name="value"` as Dockerfiles write it, one a line."""
    return " \\\n    ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: str) -> str:
    # A dollar would begin the name of a variable; `$PATH` alone is meant so.
    text = json.dumps(value, ensure_ascii=False)
    return text if "$PATH" in text else text.replace("$", "\\$")
