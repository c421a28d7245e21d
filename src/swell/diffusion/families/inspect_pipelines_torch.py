"""What a pipeline of diffusers takes in its own loop, by its signature; needs diffusers.

The table of `pipeline_signatures.py` holds the result for diffusers 0.42. A pipeline that is not in
it, such as one of a newer diffusers, is inspected here when it is added.

Source: `diffusers.pipelines.auto_pipeline`, which tells which pipelines draw from pictures with the
parts of another; where it says nothing, those that have the pipeline's name with `Img2Img` or
`Inpaint` in it.
"""

import inspect
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final, TypeAlias, get_args

import diffusers
from diffusers.pipelines import auto_pipeline
from diffusers.utils import BaseOutput

from swell.core.errors import InvalidModel
from swell.diffusion.families.components_torch import class_of, is_part
from swell.diffusion.families.pipeline_folder import UNUSED, used_parts
from swell.diffusion.families.pipeline_signatures import (
    MOST_GUIDANCE,
    MOST_STEPS,
    GuidedBy,
    Loop,
    Use,
)

#: Pipelines that fail whatever they are given: this one reads `guidance_embeds` in the settings of
#: its transformer, which have none (diffusers 0.42.1).
_BROKEN: Final = frozenset({"ChromaInpaintPipeline"})

_Signature: TypeAlias = Mapping[str, inspect.Parameter]

#: What a loop may want beside what it is given here.
_FREE: Final = frozenset({"self", "args", "kwargs"})

#: Words in the names of inputs that a picture made of words alone has no use for.
_OTHER_INPUTS: Final = ("audio", "control", "frame", "gligen", "image", "mask", "source", "video")

#: Inputs that have such a word in them and may be left out of any picture.
_LEFT_OUT: Final = ("attention_mask", "embeds_mask", "ip_adapter", "num_images_per_prompt")


def loop_of(kind: Any) -> Loop:
    """Return what the loop of a pipeline's class takes."""
    told = _call(kind)
    guided_by = _guided_by(told)
    guidance = _default(told, guided_by)
    siblings: dict[Use, Any] = {
        "image": _sibling(kind, "Img2Img", auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING),
        "mask": _sibling(kind, "Inpaint", auto_pipeline.AUTO_INPAINT_PIPELINES_MAPPING),
    }
    return Loop(
        is_sized={"width", "height"} <= set(told),
        steps=min(int(_default(told, "num_inference_steps") or 0), MOST_STEPS),
        guided_by=guided_by,
        guidance=None if guidance is None else min(guidance, MOST_GUIDANCE),
        # Where the second row has a scale of its own that is off, nothing unwanted is heard.
        hears_unwanted="negative_prompt" in told and _default(told, "true_cfg_scale") != 1,
        **{name: "" if each is None else each.__name__ for name, each in siblings.items()},
        strength=[
            name
            for name, found in siblings.items()
            if found is not None and "strength" in _call(found)
        ],
    )


def new_loop(index: Mapping[str, Any]) -> Loop:
    """Return what the loop of a pipeline takes that no table knows.

    Args:
        index: What `model_index.json` says.

    Raises:
        InvalidModel: This diffusers has no such pipeline, or it does not make pictures of words
            alone, or a part is nothing that may be read.
    """
    name = str(index.get("_class_name", ""))
    kind = getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline)):
        raise InvalidModel(
            f"diffusers {diffusers.__version__} has no {name[:80]}: a newer one may, "
            "pip install --upgrade diffusers"
        )
    why = _why_not(kind)
    if why:
        raise InvalidModel(
            f"{name} does not make pictures of words alone: {why}; write a model with code for it"
        )
    for part, (library, class_name) in used_parts(index).items():
        class_of(part, library, class_name)
    missing = _made_of(kind) - {*index, *UNUSED}
    if missing:
        raise InvalidModel(
            f"model_index.json does not name {', '.join(sorted(missing))}, which "
            f"{name} needs: give a folder in diffusers' format"
        )
    return loop_of(kind)


def _why_not(kind: Any) -> str:
    """Return what speaks against drawing by words alone; nothing if all is well."""
    told = _call(kind)
    if "prompt" not in told:
        return "it takes no prompt"
    needed = _needed(told) - {"prompt"}
    if needed:
        return f"it needs {', '.join(sorted(needed))}"
    others = [
        name
        for name in told
        if any(word in name for word in _OTHER_INPUTS)
        and not any(word in name for word in _LEFT_OUT)
    ]
    if others:
        return f"it takes {', '.join(others[:3])}, which it may need"
    checker = _own_checker(kind)
    if checker:
        return f"it draws nothing without its own {checker}, and no such part is loaded here"
    if _default(told, "output_type") != "pil" or not _makes_pictures(kind):
        return "it makes something else than pictures"
    return ""


def _made_of(kind: Any) -> set[str]:
    """Return what a pipeline cannot be made without."""
    needed = _needed(inspect.signature(kind.__init__).parameters)
    return needed - set(kind._optional_components)


def _own_checker(kind: Any) -> str:
    """Return the class of what checks pictures, where diffusers itself has none such; else empty.

    A pipeline with one makes it where it is given none, of a package of others.
    """
    told = inspect.signature(kind.__init__).parameters
    for name in UNUSED & told.keys():
        noted = told[name].annotation
        for each in get_args(noted) or (noted,):
            if isinstance(each, type) and each is not NoneType and not is_part(each):
                return each.__name__
    return ""


def _makes_pictures(kind: Any) -> bool:
    """Whether what its module returns has pictures."""
    known = vars(inspect.getmodule(kind)).values()
    outputs = [each for each in known if isinstance(each, type) and issubclass(each, BaseOutput)]
    return any({"image", "images"} & set(inspect.get_annotations(each)) for each in outputs)


def _sibling(kind: Any, infix: str, known: Mapping[str, Any]) -> Any:
    """Return the pipeline that draws from pictures with the same parts; None if there is none."""
    keys = auto_pipeline.AUTO_TEXT2IMAGE_PIPELINES_MAPPING
    key = next((key for key, each in keys.items() if each is kind), "")
    name = f"{kind.__name__.removesuffix('Pipeline')}{infix}Pipeline"
    found = known.get(key) or getattr(diffusers, name, None)
    if found is None or found.__name__ in _BROKEN:
        return None
    pictures = {"Img2Img": {"image"}, "Inpaint": {"image", "mask_image"}}[infix]
    told = _call(found)
    is_fed = pictures <= set(told) and _needed(told) <= {"prompt", *pictures}
    has_parts = _needed(inspect.signature(found.__init__).parameters) <= set(
        inspect.signature(kind.__init__).parameters
    )
    return found if is_fed and has_parts else None


def _guided_by(told: _Signature) -> GuidedBy:
    """Return the argument that says how strictly words are taken; nothing if there is none."""
    # A scale of the second row that is on by default is the one that people mean.
    if (_default(told, "true_cfg_scale") or 1) > 1:
        return "true_cfg_scale"
    return "guidance_scale" if "guidance_scale" in told else ""


def _call(kind: Any) -> _Signature:
    return inspect.signature(kind.__call__).parameters


def _needed(told: _Signature) -> set[str]:
    return {name for name, each in told.items() if each.default is each.empty} - _FREE


def _default(told: _Signature, name: str) -> Any:
    """Return a number or a word that stands where nothing is given; None if there is none."""
    found = told[name].default if name in told else None
    return found if isinstance(found, int | float | str) else None
