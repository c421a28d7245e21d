"""Results and webhooks of requests, and the signatures of webhooks."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from swell.compat.fal.fal_facade import failure, failure_body
from swell.compat.request_inputs import data_uri
from swell.compat.result_files import file_url, picture_bytes, pictures_of
from swell.core.outbox import Delivery
from swell.core.task import Artifact, Task, TaskState
from swell.db.registry import Registry
from swell.server.request import Call
from swell.server.serializers import UrlMaker, resolve_files
from swell.server.service import Service

if TYPE_CHECKING:
    from swell.compat.fal.fal_signing import FalKey

#: The name of fal's format of webhooks.
FORMAT: Final = "fal"

#: Name of the secret in the registry.
_SECRET: Final = "fal-webhooks"


async def result_of(service: Service, call: Call, task: Task) -> dict[str, Any]:
    """Return a result; with `sync_mode`, its pictures are data URIs."""
    inline: dict[str, str] = {}
    if task.metadata is not None and b'"sync_mode"' in bytes(task.metadata):
        for each in task.artifacts:
            data, _ = await picture_bytes(service, each)
            inline[each.key] = data_uri(data, each.content_type)
    return result_body(task, service.urls(call), inline)


def result_body(task: Task, urls: UrlMaker, inline: Mapping[str, str]) -> dict[str, Any]:
    """Return a result in the shape of fal's models of pictures, sound and video.

    Args:
        task: A task that has succeeded.
        urls: Makes URLs of files.
        inline: Data URIs in place of URLs, by the file's key.
    """
    links = {
        each.key: inline.get(each.key) or file_url(urls, each.key, each.bytes)
        for each in task.artifacts
    }
    output = None
    if task.output is not None:
        output = msgspec.json.decode(resolve_files(task.output, list(links.values())))
    body = output if isinstance(output, dict) else {}
    if pictures := pictures_of(task):
        body["images"] = [file_view(each, links[each.key]) for each in pictures]
        body["has_nsfw_concepts"] = [False] * len(pictures)
    elif task.artifacts:
        first = task.artifacts[0]
        kind = first.content_type.partition("/")[0]
        body[kind if kind in ("audio", "video") else "file"] = file_view(first, links[first.key])
    elif not isinstance(output, dict):
        body["output"] = output
    if task.artifacts:
        given = msgspec.json.decode(task.input)
        prompt = given.get("prompt", "") if isinstance(given, dict) else ""
        timings = {} if task.timings is None else {"inference": task.timings.run_s}
        body = {"seed": task.seed, "timings": timings, "prompt": str(prompt), **body}
    return body


def file_view(file: Artifact, url: str) -> dict[str, Any]:
    """Return a file in fal's shape."""
    view = {
        "url": url,
        "content_type": file.content_type,
        "file_name": file.key.rpartition("/")[2],
        "file_size": file.bytes,
    }
    return {**view, "width": file.width, "height": file.height} if file.width else view


def hook_body(delivery: Delivery, task: Task, urls: UrlMaker) -> dict[str, Any]:
    """Return the body of a webhook: the result of a request, or its error."""
    body = {"request_id": task.id, "gateway_request_id": task.id}
    if task.state is TaskState.SUCCEEDED:
        return {**body, "status": "OK", "payload": result_body(task, urls, {})}
    _, text, _ = failure(task)
    return {**body, "status": "ERROR", "error": text, "payload": failure_body(task)}


# --- signatures


async def signing_key(registry: Registry) -> "FalKey | None":
    """Return the key, derived from a shared secret; None if the library is not installed."""
    try:
        from swell.compat.fal.fal_signing import FalKey  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return FalKey(await registry.secret(_SECRET))


async def hook_headers(
    registry: Registry, delivery: Delivery, task: Task, body: bytes, now: datetime
) -> Mapping[str, str]:
    """Return the headers with fal's signature; none without the library."""
    key = await signing_key(registry)
    if key is None:
        return {}
    return key.headers(task.id, delivery.key_id, int(now.timestamp()), body)
