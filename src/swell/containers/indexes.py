"""The package index of this machine, for the build but not for the image.

A build gets indexes with their passwords, and certificates, as secrets: files that are mounted
while one command runs.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from swell.containers.dockerfile import SECRETS
from swell.runtime.venvs import uv_variables

#: Variables of uv that are valid in a container → the same of pip, which installs uv.
_PORTABLE: Final = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_INSECURE_HOST": "PIP_TRUSTED_HOST",
    "ALL_PROXY": "PIP_PROXY",
}


class Index(NamedTuple):
    """Package index of a build; the image does not contain it."""

    #: Shell commands that set the variables of uv and pip.
    script: str
    #: File of trusted certificates; None for the default.
    ca: Path | None


def index_of(variables: Mapping[str, str]) -> Index:
    """Read the index from pip's files and the variables of pip and uv."""
    found = uv_variables(variables)
    told = {uv: found[uv] for uv in _PORTABLE if found.get(uv)}
    told |= {_PORTABLE[uv]: value for uv, value in told.items()}
    ca = Path(found.get("SSL_CERT_FILE") or "/")
    if ca.is_file():
        told |= dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT"), SECRETS["swell-ca"])
    script = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in told.items())
    return Index(script, ca if ca.is_file() else None)
