"""A Swell that is asked for pictures."""

from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Page

__all__ = ["Served"]


@dataclass(frozen=True)
class Served:
    """Where a Swell runs."""

    url: str
    key: str

    def ask(self, page: Page, **values: Any) -> Any:
        """Ask for a picture from a browser, as programs do; return the task or the problem."""
        answer = page.request.post(
            "/v1/tasks",
            headers={"authorization": f"Bearer {self.key}", "prefer": "wait=60"},
            data={"model": "swell/icons", "input": values},
        )
        return answer.json()
