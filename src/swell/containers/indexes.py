"""Reads pip's settings on this machine, for the build but not for the image.

The build gets indexes with their passwords, proxies and certificates as secrets: files that are
mounted while one command runs.

Source:
    pip's documentation, "Configuration": files, their order, and environment variables.
"""

import configparser
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.containers.dockerfile import SECRETS

#: Options of pip that are valid in a container; paths of this machine are not.
_PORTABLE: Final = frozenset(
    {
        "index-url",
        "extra-index-url",
        "trusted-host",
        "proxy",
        "timeout",
        "default-timeout",
        "retries",
        "no-index",
        "pre",
    }
)

#: Sections of pip's files that apply to `pip install`; a later one overrides an earlier one.
_SECTIONS: Final = ("global", "install")

#: Variables of proxies; engines pass them to a build and do not store them in the image.
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Index:
    """Settings of pip for a build; the image does not contain them.

    Args:
        config: Text of a configuration file of pip.
        ca: File of certificates that pip trusts; None for pip's default.
        proxies: Variables of the process environment.
    """

    config: str
    ca: Path | None
    proxies: Mapping[str, str]


def index_of(variables: Mapping[str, str]) -> Index:
    """Read pip's settings from its files and the process environment."""
    options: dict[str, str] = {}
    for path in _files(variables):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip reports the error during the build
        for section in _SECTIONS:
            if parser.has_section(section):
                options |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    options |= {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in variables.items()
        if name.startswith("PIP_")
    }
    told = {name: value for name, value in options.items() if name in _PORTABLE and value}
    ca = Path(options["cert"]) if options.get("cert") else None
    if ca is not None and ca.is_file():
        told["cert"] = SECRETS["swell-ca"]
    else:
        ca = None
    # A value may span several lines of a file.
    lines = [f"{name} = {' '.join(value.split())}" for name, value in sorted(told.items())]
    proxies = {name: value for name, value in variables.items() if name.lower() in _PROXIES}
    return Index("\n".join(["[global]", *lines]) + "\n", ca, proxies)


def _files(variables: Mapping[str, str]) -> Iterator[Path]:
    """Yield pip's files; a later one overrides an earlier one."""
    home = Path(variables.get("HOME") or "/")
    for folder in reversed((variables.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if named := variables.get("PIP_CONFIG_FILE"):
        yield Path(named)
