"""Where the server is and which key opens it: what `swell up` leaves for other commands.

The key in the file is for commands and the browser of the same user on the same machine. Users who
may not read the data folder cannot read it.
"""

import os
from pathlib import Path

import msgspec

from swell.client.errors import NoServer
from swell.settings.load import Settings

_NAME = "access.json"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """A server and a key to it."""

    #: Where clients reach it; empty while none runs.
    url: str
    key: str = msgspec.field(name="local_key", default="")
    #: Id of the key of the workers that were started with it; empty if there were none.
    worker_key_id: str = ""
    #: File of the certificate that the server is trusted by; empty where it speaks no TLS.
    ca_file: str = ""
    #: Where it listens, whatever `url` says it is called; empty if that is not known.
    local_url: str = ""


def find_access(settings: Settings) -> Access:
    """Return the server that client commands talk to.

    Raises:
        NoServer: Neither a setting nor the data folder names one.
    """
    url, key = settings.client.url, settings.client.key.get_secret_value()
    ca_file = str(settings.client.ca_file or "")
    left = read_access(settings.data_dir)
    if not url and (left is None or not left.url):
        raise NoServer(
            f"Swell is not running in {settings.data_dir}: start it with `swell up`, or name a "
            "server with --url and --key (SWELL_URL, SWELL_KEY)"
        )
    url = url.rstrip("/")
    if left is not None and url in ("", left.url, left.local_url):
        return Access(url=url or left.url, key=key or left.key, ca_file=ca_file or left.ca_file)
    return Access(url=url, key=key, ca_file=ca_file)


def read_access(data_dir: Path) -> Access | None:
    """Return what `swell up` left in a data folder, or None."""
    try:
        return msgspec.json.decode((data_dir / _NAME).read_bytes(), type=Access)
    except (OSError, msgspec.MsgspecError):
        return None


def forget_server(data_dir: Path) -> None:
    """Keep the key of a data folder, and forget where its server was: none listens there now."""
    left = read_access(data_dir)
    if left is not None and left.url:
        write_access(data_dir, msgspec.structs.replace(left, url="", local_url=""))


def write_access(data_dir: Path, access: Access) -> None:
    """Leave it for other commands of the same user, and for nobody else."""
    # A backend that shares its store has made no folder of its own yet.
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / _NAME
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(access), indent=2))
    temporary.replace(path)
