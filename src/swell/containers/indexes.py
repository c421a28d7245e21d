"""Where pip finds packages on this machine, for the build alone.

Indexes, proxies, names and passwords in their URLs, and certificates are read from pip's own
settings here, and given to the commands of a build as secrets: files that are mounted while one
command runs.

Source:
    pip's documentation, "Configuration": which files it reads, in which order, and how variables
    name options.
"""

import configparser
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from swell.containers.dockerfile import SECRETS

#: What means the same anywhere. Paths of this machine mean nothing in a container.
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

#: Sections of pip's files that hold for `pip install`, the later one before the earlier.
_SECTIONS: Final = ("global", "install")

#: Variables of a proxy, which engines hand to a build without keeping them.
_PROXIES: Final = ("http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Index:
    """What the build of an image is told, and the image is not.

    Args:
        config: A configuration file of pip.
        ca: File of certificates that pip trusts; None for its own.
        proxies: Variables of the process environment.
    """

    config: str
    ca: Path | None
    proxies: Mapping[str, str]


def index_of(variables: Mapping[str, str]) -> Index:
    """Return what pip is told on this machine.

    Args:
        variables: The process environment.
    """
    options: dict[str, str] = {}
    for path in _files(variables):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip itself will say what is wrong with it
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
    # Values may stand in several lines of a file.
    lines = [f"{name} = {' '.join(value.split())}" for name, value in sorted(told.items())]
    proxies = {name: value for name, value in variables.items() if name.lower() in _PROXIES}
    return Index("\n".join(["[global]", *lines]) + "\n", ca, proxies)


def _files(variables: Mapping[str, str]) -> Iterator[Path]:
    """Yield pip's files, those that count more after those that count less."""
    home = Path(variables.get("HOME") or "/")
    for folder in reversed((variables.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder, "pip", "pip.conf")
    yield Path("/etc/pip.conf")
    yield home / ".pip" / "pip.conf"
    yield Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if named := variables.get("PIP_CONFIG_FILE"):
        yield Path(named)
