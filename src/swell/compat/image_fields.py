"""Size, steps and files of pictures, from the names of other APIs to a model's own. Pure.

Every model has its own input schema: one calls `steps` what another calls `num_inference_steps`. A
value goes to the property with the same meaning. A value without one keeps its name, and the check
of the input reports it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from swell.server.problem_details import field_error

Schema = Mapping[str, Any]

#: Names with the same meaning; those of Swell's own models come first.
_SYNONYMS: Final = (
    ("prompt", "text"),
    ("negative_prompt", "negative"),
    ("steps", "num_inference_steps", "num_steps"),
    ("guidance", "guidance_scale", "cfg_scale", "cfg"),
    ("strength", "prompt_strength", "denoising_strength"),
    ("output_format", "format"),
    ("image", "image_url", "input_image", "init_image", "picture", "photo"),
    ("images", "image_urls", "input_images"),
    ("mask", "mask_url", "mask_image"),
    ("loras", "lora"),
)
_SYNONYMS_OF: Final = {name: group for group in _SYNONYMS for name in group}

_SIZE: Final = re.compile(r"([1-9]\d{0,4})\s*[xX]\s*([1-9]\d{0,4})", re.ASCII)
_RATIO: Final = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})", re.ASCII)

#: Weight of a wrong shape against a wrong size when a model offers a choice.
_SHAPE_WEIGHT: Final = 2.0


def properties_of(schema: Schema) -> dict[str, Any]:
    """Return the properties of an input schema."""
    return dict(schema.get("properties", {}))


def takes_any_field(schema: Schema) -> bool:
    """Whether a model's input may have fields that its schema does not name."""
    return schema.get("additionalProperties", True) is not False


def property_for(schema: Schema, name: str) -> str | None:
    """Return the model's property with the meaning of a name; None without one."""
    known = properties_of(schema)
    return next((each for each in (name, *_SYNONYMS_OF.get(name, ())) if each in known), None)


def renamed(fields: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Return fields under the model's own names; an exact name wins over a synonym."""
    known = properties_of(schema)
    found = {name: value for name, value in fields.items() if name in known}
    for name, value in fields.items():
        if name not in known:
            found.setdefault(property_for(schema, name) or name, value)
    return found


def size_of(text: str, param: str = "size") -> tuple[int, int] | None:
    """Return width and height of `1024x768` in px; None for `auto`.

    Raises:
        InvalidInput: The text is neither.
    """
    if text.strip().lower() == "auto":
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise field_error(param, f"{text[:40]!r} is no size: give auto, or WIDTHxHEIGHT in pixels")
    return int(found[1]), int(found[2])


def sized(schema: Schema, size: tuple[int, int], param: str = "size") -> dict[str, Any]:
    """Return the fields that ask a model for pictures of a size.

    Width and height are rounded to the model's multiples. A model with a choice of sizes or shapes
    gets the closest. Other models use their own size.

    Args:
        schema: Input schema of the model.
        size: Width and height in px.
        param: Field that held the size, for errors.

    Raises:
        InvalidInput: Width or height is outside the model's bounds.
    """
    known = properties_of(schema)
    if "width" in known and "height" in known:
        sides = zip(("width", "height"), size, strict=True)
        return {name: _side(_plain(known[name], schema), name, px, param) for name, px in sides}
    for name in ("size", "image_size", "resolution", "aspect_ratio"):
        if name in known:
            choices = choices_of(schema, name) or ()
            shapes = {choice: shape for choice in choices if (shape := _shape(choice)) is not None}
            best = min(shapes, key=lambda choice: _distance(shapes[choice], size), default=None)
            return {} if best is None else {name: best}
    return {}


def stepped(schema: Schema, factor: float) -> dict[str, Any]:
    """Return the field that multiplies a model's default steps; none without a default."""
    name = property_for(schema, "steps")
    prop = _plain(properties_of(schema).get(name or ""), schema)
    default = prop.get("default")
    if name is None or factor == 1 or type(default) is not int:
        return {}
    least, most = prop.get("minimum", 1), prop.get("maximum", math.inf)
    return {name: int(min(max(round(default * factor), least), most))}


def picture_fields(schema: Schema) -> dict[str, bool]:
    """Return the picture properties of a schema, each with whether it is a list."""
    found = {}
    for name, prop in properties_of(schema).items():
        plain = _plain(prop, schema)
        if plain.get("x-file") == "image":
            found[name] = False
        elif _plain(plain.get("items"), schema).get("x-file") == "image":
            found[name] = True
    return found


def placed_files(
    schema: Schema, model: str, images: Sequence[str], mask: str | None
) -> dict[str, Any]:
    """Return the fields that give a model its input pictures.

    Args:
        schema: Input schema of the model.
        model: Name of the model, for errors.
        images: URLs or data URIs.
        mask: URL or data URI of the mask.

    Raises:
        InvalidInput: The model takes no pictures, fewer pictures, or no mask.
    """
    pictures = picture_fields(schema)
    fields: dict[str, Any] = {}
    if mask is not None:
        name = property_for(schema, "mask")
        if name not in pictures:
            raise field_error("mask", f"{model} takes no mask: leave it out, or name another model")
        fields[name] = mask
    if not images:
        return fields
    homes = {name: many for name, many in pictures.items() if name not in _SYNONYMS_OF["mask"]}
    if not homes:
        raise field_error("image", f"{model} takes no pictures: name a model that edits some")
    singles = [name for name, many in homes.items() if not many]
    if len(images) == 1 and singles:
        usual = [name for name in _SYNONYMS_OF["image"] if name in singles]
        return {**fields, [*usual, *singles][0]: images[0]}
    several = next((name for name, many in homes.items() if many), None)
    if several is None:
        detail = f"{model} takes one picture, and here are {len(images)}: send one at a time"
        raise field_error("image", detail)
    return {**fields, several: list(images)}


def choices_of(schema: Schema, name: str) -> Sequence[Any] | None:
    """Return the allowed values of a property; None for any."""
    found: Sequence[Any] | None = _plain(properties_of(schema).get(name), schema).get("enum")
    return found


def _plain(prop: Any, schema: Schema) -> Mapping[str, Any]:
    """Return a property with its reference resolved and without the option null."""
    if not isinstance(prop, Mapping):
        return {}
    if "$ref" in prop:
        name = str(prop["$ref"]).removeprefix("#/$defs/")
        return {**schema.get("$defs", {}).get(name, {}), **prop, "$ref": None}
    for choice in (*prop.get("anyOf", ()), *prop.get("oneOf", ())):
        if isinstance(choice, Mapping) and choice.get("type") != "null":
            around = {name: value for name, value in prop.items() if name not in ("anyOf", "oneOf")}
            return {**_plain(choice, schema), **around}
    return prop


def _side(prop: Mapping[str, Any], name: str, px: int, param: str) -> int:
    step = max(1, int(prop.get("multipleOf", 1)))
    side = max(step, round(px / step) * step)
    least, most = prop.get("minimum", 1), prop.get("maximum", math.inf)
    if not least <= side <= most:
        detail = f"{name} {px} is not drawn here: give {least:g} to {most:g} px, or auto"
        raise field_error(param, detail)
    return side


def _shape(choice: Any) -> tuple[float, float | None] | None:
    """Return width divided by height of a choice, and its pixels if it has some."""
    if type(choice) is int:
        return 1.0, float(choice * choice)
    if not isinstance(choice, str):
        return None
    if found := _SIZE.fullmatch(choice):
        width, height = int(found[1]), int(found[2])
        return width / height, float(width * height)
    if found := _RATIO.fullmatch(choice):
        return int(found[1]) / int(found[2]), None
    return None


def _distance(shape: tuple[float, float | None], size: tuple[int, int]) -> float:
    ratio, pixels = shape
    far = _SHAPE_WEIGHT * abs(math.log(ratio * size[1] / size[0]))
    return far if pixels is None else far + abs(math.log(pixels / (size[0] * size[1])))
