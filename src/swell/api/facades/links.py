"""URLs that clients of other APIs can follow: files without a detour, and pages of lists.

Their clients read files with the key of the API in a header and follow no redirect, and a bucket
answers 400 to two kinds of credentials. So what a façade tells of a file always comes from the
backend itself, whatever `objects.serve` says.
"""

from typing import Any
from urllib.parse import urlencode

import msgspec

from swell.api.call import Call
from swell.api.service import Service
from swell.api.views import UrlMaker, resolve_files
from swell.task import Task

__all__ = ["direct_url", "file_url", "output_of", "page_url"]


def file_url(service: Service, call: Call, key: str) -> str:
    """Return where to GET a file: absolute, signed, answered with 200 and nothing else."""
    return direct_url(service.urls(call), key)


def direct_url(urls: UrlMaker, key: str) -> str:
    """Return where to GET a file: as `file_url`, for whoever the URLs are made for."""
    return f"{urls.file(key)}&redirect=no"


def output_of(service: Service, call: Call, task: Task) -> Any:
    """Return a task's output as a JSON value with its files as URLs; None where it has none."""
    if task.output is None:
        return None
    urls = [file_url(service, call, each.key) for each in task.artifacts]
    return msgspec.json.decode(resolve_files(task.output, urls))


def page_url(service: Service, call: Call, path: str, **query: str) -> str:
    """Return the absolute URL of a page of a list.

    Args:
        service: Whose.
        call: Who asks, by the name that the service is to be called by.
        path: Such as `/replicate/v1/predictions`.
        query: Its query.
    """
    return f"{service.base_url(call)}{path}?{urlencode(query)}"
