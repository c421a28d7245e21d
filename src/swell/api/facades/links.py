"""URLs that clients of other APIs can follow: files without a detour, and pages of lists.

Their clients read files with the key of the API in a header and follow no redirect, and a bucket
answers 400 to two kinds of credentials. So what a façade tells of a file always comes from the
backend itself, whatever `objects.serve` says.
"""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from swell.api.call import Call
from swell.api.facades.inputs import data_uri
from swell.api.files import plain_type, read_file
from swell.api.service import Service
from swell.api.views import UrlMaker, resolve_files
from swell.errors import NotFound
from swell.task import Artifact, Task

#: How the address begins of a Swell that is asked on its own machine, and not over TLS.
_ON_THIS_MACHINE: Final = ("http://127.0.0.1", "http://localhost", "http://[::1]")

#: Files of a task that are given inside an answer take at most so much.
_MOST_INLINE_BYTES: Final = 4 * 1024 * 1024


def file_url(service: Service, call: Call, key: str, size_bytes: int | None = None) -> str:
    """Return where to GET a file: absolute, signed, answered with 200 and nothing else."""
    return direct_url(service.urls(call), key, size_bytes)


def direct_url(urls: UrlMaker, key: str, size_bytes: int | None = None) -> str:
    """Return where to GET a file: as `file_url`, for whoever the URLs are made for."""
    return f"{urls.file(key, size_bytes)}&redirect=no"


def output_of(service: Service, call: Call, task: Task) -> Any:
    """Return a task's output as a JSON value with its files as URLs; None where it has none."""
    if task.output is None:
        return None
    urls = [file_url(service, call, each.key, each.bytes) for each in task.artifacts]
    return msgspec.json.decode(resolve_files(task.output, urls))


async def file_links(service: Service, call: Call, task: Task) -> list[str]:
    """Return where each file of a task can be read, by whoever asks.

    Replicate's clients take a string for a file only where it begins with `https:` or `data:`. So a
    Swell that is tried out on one machine, without TLS, gives small files as data URIs.

    Raises:
        Unavailable: A file cannot be read now.
    """
    return await links_to(service, call, task.artifacts)


async def links_to(service: Service, call: Call, files: Sequence[Artifact]) -> list[str]:
    """Return where files of one task can be read, as `file_links`."""
    urls = service.urls(call)
    is_inline = urls.base.startswith(_ON_THIS_MACHINE)
    is_inline = is_inline and sum(each.bytes for each in files) <= _MOST_INLINE_BYTES
    links = []
    for each in files:
        url = direct_url(urls, each.key, each.bytes)
        try:
            links.append(await _inlined(service, each) if is_inline else url)
        except NotFound:
            # Removed or damaged, as its URL will tell.
            links.append(url)
    return links


async def _inlined(service: Service, artifact: Artifact) -> str:
    data = await read_file(service.objects, artifact)
    return data_uri(data, plain_type(artifact.content_type))


def page_url(service: Service, call: Call, path: str, **query: str) -> str:
    """Return the absolute URL of a page of a list.

    Args:
        service: Whose.
        call: Who asks, by the name that the service is to be called by.
        path: Such as `/replicate/v1/predictions`.
        query: Its query.
    """
    return f"{service.base_url(call)}{path}?{urlencode(query)}"
