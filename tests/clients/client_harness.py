"""A Swell that clients are pointed at, and a server that takes its webhooks."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commandline import Swell

__all__ = ["Receiver", "Served"]


@dataclass(frozen=True)
class Served:
    """Where a Swell runs, with everything that clients need to know of it."""

    swell: Swell
    url: str
    key: str
    cert: Path

    @property
    def host(self) -> str:
        return self.url.removeprefix("https://")

    @property
    def trusted(self) -> dict[str, str]:
        """What makes clients trust its certificate."""
        return {"SSL_CERT_FILE": str(self.cert), "NODE_EXTRA_CA_CERTS": str(self.cert)}


@dataclass
class Receiver:
    """Takes webhooks."""

    url: str
    #: (headers, body) of each, in the order in which they came.
    came: list[tuple[dict[str, str], str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, is_enough: Callable[[list[Any]], bool], timeout_s: float = 60.0) -> None:
        """Wait until what has come, as JSON, is enough."""
        with self.changed:
            enough = self.changed.wait_for(lambda: is_enough(self.bodies()), timeout_s)
        assert enough, f"only {self.bodies()} has come"

    def bodies(self) -> list[Any]:
        return [json.loads(body) for _, body in self.came]
