"""What of a task whoever has a link to it may know: pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from swell.api.share_messages import SharedPictureView, SharedView
from swell.api.thumbnails import has_thumbnail
from swell.sharing import ShareLink
from swell.task import SHOWN_LARGE_PX, Artifact, Task

#: A field of a model whose text is what a picture was asked for by.
_PROMPT = "prompt"


def pictures_of(task: Task) -> list[Artifact]:
    """Return the files of a task that can be shown to everybody."""
    return [each for each in task.artifacts if has_thumbnail(each.key, each.content_type)]


def shared_view(
    link: ShareLink, task: Task, input_schema: Mapping[str, Any], base: str, guest_tasks: int
) -> SharedView:
    """Return what may be known.

    Args:
        link: How it is shared.
        task: What is shared.
        input_schema: Of its model; tells choices from texts.
        base: Before the path of URLs, without a slash at its end.
        guest_tasks: Tasks that a visitor may run without a key.
    """
    given = _object(task.input)
    prompt = given.get(_PROMPT)
    home = f"{base}/v1/shares/{link.token}/pictures"
    return SharedView(
        model=task.model,
        prompt=prompt if link.has_prompt and isinstance(prompt, str) else None,
        seed=task.seed,
        settings=settings_of(given, input_schema),
        made_at=task.created_at,
        expires_at=link.expires_at,
        pictures=[
            _picture(each, f"{home}/{number}") for number, each in enumerate(pictures_of(task))
        ],
        guest_tasks=guest_tasks,
    )


def settings_of(given: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an input says nothing but which of its model's ways was taken.

    A text may be anything, a URL among it; so only those stay that the model lets one choose from.
    """
    properties = schema.get("properties")
    known = properties if isinstance(properties, Mapping) else {}
    return {
        name: value
        for name, value in given.items()
        if name != _PROMPT and _is_plain(value, known.get(name), schema)
    }


def _is_plain(value: Any, prop: Any, schema: Mapping[str, Any]) -> bool:
    if isinstance(value, (bool, int, float)):
        return True
    choices = _choices(prop, schema)
    if isinstance(value, list):
        return all(isinstance(each, (bool, int, float)) or each in choices for each in value)
    return isinstance(value, str) and value in choices


def _choices(prop: Any, schema: Mapping[str, Any], depth: int = 0) -> list[Any]:
    """Return what a field, or each element of a list, may be chosen from."""
    if not isinstance(prop, Mapping) or depth > 4:
        return []
    found = list(prop.get("enum", ()))
    if "const" in prop:
        found.append(prop["const"])
    within = [*prop.get("anyOf", ()), *prop.get("oneOf", ()), *prop.get("allOf", ())]
    within.append(prop.get("items"))
    told = prop.get("$ref")
    if isinstance(told, str):
        definitions = schema.get("$defs")
        name = told.rpartition("/")[2]
        within.append(definitions.get(name) if isinstance(definitions, Mapping) else None)
    for each in within:
        found += _choices(each, schema, depth + 1)
    return found


def _picture(artifact: Artifact, url: str) -> SharedPictureView:
    width, height = artifact.width, artifact.height
    if width and height:
        # As thumbnails are made: no wider, and at most four times as high as that.
        scale = min(1.0, SHOWN_LARGE_PX / width, 4 * SHOWN_LARGE_PX / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return SharedPictureView(url=url, thumbnail_url=f"{url}?w=512", width=width, height=height)


def _object(raw: msgspec.Raw) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
