"""Arguments and headers of a request, from fal's names to a task. Pure."""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from swell.compat import image_fields
from swell.compat.request_inputs import take_count, take_seed, whole_number
from swell.core.fair_queueing import USUAL_PRIORITY
from swell.server.models.model_cards import Target
from swell.server.problem_details import field_error
from swell.server.request import Call
from swell.server.serializers import encode
from swell.server.tasks.task_schemas import TaskRequest

#: fal's names of sizes, in px.
SIZES: Final[Mapping[str, tuple[int, int]]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}

#: Arguments for fal's own models, dropped unless the model has such an input.
_FAL_ONLY: Final = ("enable_safety_checker", "sync_mode", "output_format", "acceleration")

_SECONDS: Final = re.compile(r"\d{1,7}(\.\d{1,6})?", re.ASCII)
_MOST_SECONDS: Final = 2_592_000


def app_names(owner: str, alias: str, path: str) -> list[str]:
    """Return the names of an app, the most specific first."""
    app = f"{owner}/{alias}"
    rest = path.strip("/").removesuffix("stream").strip("/")
    return [f"{app}/{rest}", app] if rest else [app]


def task_request(arguments: Mapping[str, Any], target: Target) -> TaskRequest:
    """Return the task that a request asks for.

    Raises:
        InvalidInput: The model cannot do it.
    """
    schema = target.card.input_schema
    known = image_fields.properties_of(schema)
    given = {name: value for name, value in arguments.items() if value is not None}
    if type(given.get("seed")) is int and given["seed"] < 0:
        # For many models it means any seed.
        del given["seed"]
    count = take_count(given, known, "num_images")
    seed = take_seed(given, known)
    fields: dict[str, Any] = {}
    if "image_size" not in known and "image_size" in given:
        fields = image_fields.sized(schema, _size(given.pop("image_size")), "image_size")
    metadata = {"sync_mode": True} if given.get("sync_mode") is True else None
    kind = given.get("output_format")
    given = {name: value for name, value in given.items() if name in known or name not in _FAL_ONLY}
    is_free = "output_format" not in given and image_fields.takes_any_field(schema)
    if isinstance(kind, str) and is_free:
        # Workers encode in this format, even if the model does not know the field.
        fields["output_format"] = kind
    fields |= image_fields.renamed(given, schema)
    if image_fields.picture_fields(schema):
        urls: list[Any] = []
        for name in ("image_urls", "images", "image_url"):
            if name in fields and name not in known:
                value = fields.pop(name)
                urls += value if isinstance(value, list) else [value]
        fields |= image_fields.placed_files(schema, target.model, urls, None)
    return TaskRequest(
        model=target.queue,
        input=msgspec.Raw(encode(fields)),
        count=count,
        seed=seed,
        metadata=msgspec.Raw(encode(metadata)),
    )


def task_options(call: Call, usual_priority: int) -> dict[str, Any]:
    """Return the fields of a task that the headers of a request set.

    Args:
        call: The request.
        usual_priority: Priority of the key's tasks: `low` is never more urgent.

    Raises:
        InvalidInput: A header has an unknown value.
    """
    options: dict[str, Any] = {}
    priority = (call.headers.get(b"x-fal-queue-priority") or b"").strip().lower()
    if priority not in (b"", b"normal", b"low"):
        raise field_error("X-Fal-Queue-Priority", "it is normal or low")
    if priority == b"low":
        options["priority"] = max(USUAL_PRIORITY + 1, usual_priority)
    timeout = call.headers.get(b"x-fal-request-timeout")
    if timeout is not None:
        text = timeout.strip().decode("latin-1")
        if not _SECONDS.fullmatch(text) or not 0 < float(text) <= _MOST_SECONDS:
            raise field_error("X-Fal-Request-Timeout", "it is a number of seconds, 30 days at most")
        options["start_by_s"] = float(text)
    if (call.headers.get(b"x-fal-no-retry") or b"").strip().lower() in (b"1", b"true", b"yes"):
        options["max_attempts"] = 1
    return options


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, Mapping):
        sides = (value.get("width"), value.get("height"))
        width, height = (whole_number(each, "image_size", 1, 65_536) for each in sides)
        return width, height
    if isinstance(value, str):
        size = SIZES.get(value) or image_fields.size_of(value, "image_size")
        if size is not None:
            return size
    raise field_error("image_size", f"use {', '.join(SIZES)}, or {{width, height}} in px")
