"""The access file: `swell up` writes its URL and a key to the data folder for other commands.

The key is for commands and the browser of the same user on the same machine. Other users cannot
read the file.
"""

import os
from pathlib import Path

import msgspec

from swell.client.errors import NoServer
from swell.settings.load import Settings

_NAME = "access.json"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """URL of a server, and an API key for it."""

    #: URL for clients; empty while no server runs.
    url: str
    key: str = msgspec.field(name="local_key", default="")
    #: Key id of the workers that `swell up` started; empty if it started none.
    worker_key_id: str = ""
    #: File of the certificate to verify the server with; empty without TLS.
    ca_file: str = ""
    #: URL of the listening socket, which may differ from `url`; empty if unknown.
    local_url: str = ""


def find_access(settings: Settings) -> Access:
    """Return the server that client commands connect to.

    Raises:
        NoServer: Neither a setting nor the data folder names a server.
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
    """Read the file that `swell up` left in a data folder; None if there is none."""
    try:
        return msgspec.json.decode((data_dir / _NAME).read_bytes(), type=Access)
    except (OSError, msgspec.MsgspecError):
        return None


def forget_server(data_dir: Path) -> None:
    """Remove the URL of a stopped server from the file in a data folder, and keep the key."""
    left = read_access(data_dir)
    if left is not None and left.url:
        write_access(data_dir, msgspec.structs.replace(left, url="", local_url=""))


def write_access(data_dir: Path, access: Access) -> None:
    """Write the file; only the same user can read it."""
    # With a shared database, nothing has created the data folder yet.
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / _NAME
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(access), indent=2))
    temporary.replace(path)
