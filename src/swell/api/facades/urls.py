"""URLs of files for clients that send their key along and follow no redirect.

A bucket refuses a request with two kinds of credentials, so these URLs always lead to the backend,
even if `objects.serve` names the bucket.
"""

from collections.abc import Sequence
from typing import Final

from swell.api.call import Call
from swell.api.facades.inputs import data_uri
from swell.api.files import plain_type, read_file
from swell.api.service import Service
from swell.api.views import UrlMaker
from swell.errors import NotFound
from swell.task import Artifact

#: Base URLs of a backend that is used on its own machine without TLS.
_LOCAL: Final = ("http://127.0.0.1", "http://localhost", "http://[::1]")

#: Most bytes of a task's files that become data URIs.
_MOST_INLINE_BYTES: Final = 4 * 1024 * 1024


def file_url(urls: UrlMaker, key: str, size_bytes: int | None = None) -> str:
    """Return the signed URL of a file, which never redirects."""
    return f"{urls.file(key, size_bytes)}&redirect=no"


async def file_links(service: Service, call: Call, files: Sequence[Artifact]) -> list[str]:
    """Return a URL for each file of a task; small files become data URIs without TLS.

    Replicate's clients recognize a file only by `https:` or `data:`.

    Raises:
        Unavailable: A file cannot be read now.
    """
    urls = service.urls(call)
    is_inline = (
        urls.base.startswith(_LOCAL) and sum(each.bytes for each in files) <= _MOST_INLINE_BYTES
    )
    links = []
    for file in files:
        link = file_url(urls, file.key, file.bytes)
        if is_inline:
            try:
                data = await read_file(service.objects, file)
                link = data_uri(data, plain_type(file.content_type))
            except NotFound:
                pass  # The file is removed or damaged: its URL reports it.
        links.append(link)
    return links
