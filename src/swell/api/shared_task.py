"""The public part of a shared task. Pure."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from swell.api.share_messages import SharedPictureView, SharedView
from swell.api.thumbnails import has_thumbnail
from swell.sharing import ShareLink
from swell.task import SHOWN_LARGE_PX, Artifact, Task

#: The input field with the text of a picture.
_PROMPT: Final = "prompt"


def pictures_of(task: Task) -> list[Artifact]:
    """Return the files of a task that a share link shows."""
    return [each for each in task.artifacts if has_thumbnail(each.key, each.content_type)]


def shared_view(
    link: ShareLink, task: Task, input_schema: Mapping[str, Any], base: str, guest_tasks: int
) -> SharedView:
    """Return what visitors of a share link may know.

    Args:
        link: The share link.
        task: The shared task.
        input_schema: Input schema of its model; distinguishes choices from free text.
        base: Start of URLs, without a slash at its end.
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
    """Return the public settings of an input: numbers, switches and choices.

    Free text may contain anything, such as a URL, so it is left out.
    """
    properties = schema.get("properties") or {}
    return {
        name: value
        for name, value in given.items()
        if name != _PROMPT and _is_public(value, _choices(properties.get(name), schema))
    }


def _is_public(value: Any, choices: list[Any]) -> bool:
    if isinstance(value, list):
        return all(not isinstance(each, list) and _is_public(each, choices) for each in value)
    return isinstance(value, bool | int | float) or (isinstance(value, str) and value in choices)


def _choices(prop: Any, schema: Mapping[str, Any], depth: int = 0) -> list[Any]:
    """Return the values that a schema lists for a field, or for each element of a list."""
    if not isinstance(prop, Mapping) or depth > 4:
        return []
    found = [*prop.get("enum", ()), *([prop["const"]] if "const" in prop else [])]
    parts = [each for name in ("anyOf", "oneOf", "allOf") for each in prop.get(name, ())]
    parts.append(prop.get("items"))
    if isinstance(reference := prop.get("$ref"), str):
        definitions = schema.get("$defs")
        name = reference.rpartition("/")[2]
        parts.append(definitions.get(name) if isinstance(definitions, Mapping) else None)
    for part in parts:
        found += _choices(part, schema, depth + 1)
    return found


def _picture(artifact: Artifact, url: str) -> SharedPictureView:
    width, height = artifact.width, artifact.height
    if width and height:
        # The limits of thumbnails.
        scale = min(1.0, SHOWN_LARGE_PX / width, 4 * SHOWN_LARGE_PX / height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    return SharedPictureView(url=url, thumbnail_url=f"{url}?w=512", width=width, height=height)


def _object(raw: msgspec.Raw) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
