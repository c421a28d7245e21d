"""What clients of others call a picture's size, its steps and its files, in a model's own words.

Every model has a schema of its own, and every vendor its own names: what one calls
`num_inference_steps` another calls `steps`. A value goes to the property that means the same; what
a model has no property for stays under its own name, where the check of the input tells that there
is no such field. Pure.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from swell.errors import FieldError, InvalidInput

Schema = Mapping[str, Any]

#: Names that mean the same; those that Swell's own models use come first.
_SAME: Final = (
    ("prompt", "text"),
    ("negative_prompt", "negative"),
    ("steps", "num_inference_steps", "num_steps"),
    ("guidance", "guidance_scale", "cfg_scale", "cfg"),
    ("seed",),
    ("strength", "prompt_strength", "denoising_strength"),
    ("output_format", "format"),
    ("image", "image_url", "input_image", "init_image", "picture", "photo"),
    ("images", "image_urls", "input_images"),
    ("mask", "mask_url", "mask_image"),
    ("loras", "lora"),
)
_ALIKE: Final = {name: group for group in _SAME for name in group}

_SIZE: Final = re.compile(r"([1-9]\d{0,4})\s*[xX]\s*([1-9]\d{0,4})", re.ASCII)
_RATIO: Final = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})", re.ASCII)

#: How much a wrong shape counts against a wrong size where neither fits.
_SHAPE: Final = 2.0


def first_of(schema: Schema, name: str) -> str | None:
    """Return what a model calls a field of this name; None where it has nothing like it."""
    known = schema.get("properties", {})
    return next((each for each in (name, *_ALIKE.get(name, ())) if each in known), None)


def renamed(fields: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """Return fields under the model's own names; those that it does not have stay as they are.

    A field that is given under its own name comes before one that means the same.
    """
    known = schema.get("properties", {})
    found = {name: value for name, value in fields.items() if name in known}
    for name, value in fields.items():
        if name not in known:
            found.setdefault(first_of(schema, name) or name, value)
    return found


def size_of(text: str, param: str = "size") -> tuple[int, int] | None:
    """Return width and height in px that `1024x768` asks for; None for `auto`.

    Raises:
        InvalidInput: It is neither.
    """
    if text.strip().lower() == "auto":
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise refused(param, f"{text[:40]!r} is no size: give auto, or WIDTHxHEIGHT in pixels")
    return int(found[1]), int(found[2])


def sized(schema: Schema, size: tuple[int, int], param: str = "size") -> dict[str, Any]:
    """Return the fields that ask a model for pictures of a size.

    A model that takes width and height gets both, rounded to what they must be multiples of. One
    that has a choice of sizes, or of shapes, gets the one that is closest; one that has neither
    draws its own size.

    Args:
        schema: Of the model's input.
        size: Width and height in px.
        param: What the caller named the size by, for errors.

    Raises:
        InvalidInput: Width or height lies outside of what the model draws.
    """
    known = schema.get("properties", {})
    if "width" in known and "height" in known:
        sides = zip(("width", "height"), size, strict=True)
        return {name: _side(_bare(known[name], schema), name, px, param) for name, px in sides}
    for name in ("size", "image_size", "resolution", "aspect_ratio"):
        if name in known:
            chosen = _closest(_bare(known[name], schema), size)
            return {} if chosen is None else {name: chosen}
    return {}


def stepped(schema: Schema, factor: float) -> dict[str, Any]:
    """Return the field that asks for so many times a model's usual steps; none if it has no steps.

    Where the schema names no usual number, nothing is asked for.
    """
    name = first_of(schema, "steps")
    if name is None or factor == 1:
        return {}
    prop = _bare(schema["properties"][name], schema)
    usual = prop.get("default")
    if not isinstance(usual, int) or isinstance(usual, bool):
        return {}
    least, most = prop.get("minimum", 1), prop.get("maximum", math.inf)
    return {name: int(min(max(round(usual * factor), least), most))}


def picture_fields(schema: Schema) -> dict[str, bool]:
    """Return the properties that are pictures, each with whether it takes several of them."""
    found = {}
    for name, prop in schema.get("properties", {}).items():
        bare = _bare(prop, schema)
        if bare.get("x-file") == "image":
            found[name] = False
        elif _bare(bare.get("items", {}), schema).get("x-file") == "image":
            found[name] = True
    return found


def placed_files(
    schema: Schema, model: str, images: Sequence[str], mask: str | None
) -> dict[str, Any]:
    """Return the fields that give a model pictures to work on.

    Args:
        schema: Of its input.
        model: Its name, for errors.
        images: URLs or data URIs.
        mask: The same, of where to paint.

    Raises:
        InvalidInput: The model takes no pictures, or fewer of them, or no mask.
    """
    pictures = picture_fields(schema)
    fields: dict[str, Any] = {}
    if mask is not None:
        name = first_of(schema, "mask")
        if name not in pictures:
            raise refused("mask", f"{model} takes no mask: leave it out, or name another model")
        fields[name] = mask
    masks = _ALIKE["mask"]
    homes = {name: many for name, many in pictures.items() if name not in masks}
    if not images:
        return fields
    if not homes:
        raise refused("image", f"{model} takes no pictures: name a model that edits some")
    several = next((name for name, many in homes.items() if many), None)
    single = _single(homes)
    if len(images) == 1 and single is not None:
        return {**fields, single: images[0]}
    if several is None:
        raise refused(
            "image", f"{model} takes one picture, and here are {len(images)}: send one at a time"
        )
    return {**fields, several: list(images)}


def choices_of(schema: Schema, name: str) -> Sequence[Any] | None:
    """Return what a property may be, also where that lies behind a reference; None for anything."""
    found: Sequence[Any] | None = _bare(schema.get("properties", {}).get(name), schema).get("enum")
    return found


def refused(param: str, detail: str, code: str = "unsupported_value") -> InvalidInput:
    """Return the error of a field that a façade does not take as it is."""
    where = FieldError(pointer=f"/{param}", detail=detail, code=code)
    return InvalidInput(f"{param}: {detail}", errors=[where])


def _single(homes: Mapping[str, bool]) -> str | None:
    named = [name for name in _ALIKE["image"] if homes.get(name) is False]
    return next(iter([*named, *(name for name, many in homes.items() if not many)]), None)


def _bare(prop: Any, schema: Schema) -> Mapping[str, Any]:
    """Return a property without references, and without that it may be null."""
    if not isinstance(prop, Mapping):
        return {}
    if "$ref" in prop:
        name = str(prop["$ref"]).removeprefix("#/$defs/")
        return {**schema.get("$defs", {}).get(name, {}), **prop, "$ref": None}
    for choice in (*prop.get("anyOf", ()), *prop.get("oneOf", ())):
        if isinstance(choice, Mapping) and choice.get("type") != "null":
            around = {name: value for name, value in prop.items() if name not in ("anyOf", "oneOf")}
            return {**_bare(choice, schema), **around}
    return prop


def _side(prop: Mapping[str, Any], name: str, px: int, param: str) -> int:
    step = max(1, int(prop.get("multipleOf", 1)))
    side = max(step, round(px / step) * step)
    least, most = prop.get("minimum", 1), prop.get("maximum", math.inf)
    if not least <= side <= most:
        raise refused(
            param, f"{name} {px} is not drawn here: give {least:g} to {most:g} px, or auto"
        )
    return side


def _closest(prop: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """Return the choice that comes closest to a size; None where there is nothing to choose."""
    choices = {
        choice: shape for choice in prop.get("enum", ()) if (shape := _shape(choice)) is not None
    }
    if not choices:
        return None
    return min(choices, key=lambda choice: _distance(choices[choice], size))


def _shape(choice: Any) -> tuple[float, float | None] | None:
    """Return width through height of a choice, and its pixels where it tells them."""
    if isinstance(choice, int) and not isinstance(choice, bool):
        return 1.0, float(choice * choice)
    if isinstance(choice, str):
        if found := _SIZE.fullmatch(choice):
            width, height = int(found[1]), int(found[2])
            return width / height, float(width * height)
        if found := _RATIO.fullmatch(choice):
            return int(found[1]) / int(found[2]), None
    return None


def _distance(shape: tuple[float, float | None], size: tuple[int, int]) -> float:
    ratio, pixels = shape
    far = _SHAPE * abs(math.log(ratio * size[1] / size[0]))
    return far if pixels is None else far + abs(math.log(pixels / (size[0] * size[1])))
