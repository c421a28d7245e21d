"""Settings of commands that talk to a server."""

from pathlib import Path

from pydantic import Field, SecretStr

from swell.settings.group import Group


class ClientSettings(Group):
    """Commands that talk to a server.

    Attributes:
        url: URL of the server; empty for the one in the data folder.
        key: API key; empty for the local key that `swell up` keeps in the data folder.
        ca_file: CA certificates (PEM) to trust for the server in addition to the system's; unset
            for the certificate that `swell up` keeps in the data folder.
        timeout_s: Longest wait for a response, in seconds.
        browser: `swell up`, `swell demo` and `swell open` open a browser where they run in a
            terminal of a desktop.
    """

    url: str = ""
    key: SecretStr = SecretStr("")
    ca_file: Path | None = None
    timeout_s: float = Field(default=60.0, gt=0)
    browser: bool = True
