"""Text-to-image pipelines of diffusers and the arguments of their `__call__`.

The table is data rather than a call to diffusers, because models are added on machines without
diffusers and torch. A pipeline that needs other inputs (a depth map, a length in seconds) is not in
it. A test compares it with diffusers.
"""

from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

#: More are never better.
MOST_STEPS: Final = 150
MOST_GUIDANCE: Final = 30.0

#: What pipelines call guidance; empty where they take none.
GuidedBy: TypeAlias = Literal["", "guidance_scale", "true_cfg_scale"]

#: What a picture is for: to start from, or to change under a mask.
Use: TypeAlias = Literal["image", "mask"]

#: The name of a pipeline; empty for none.
_Pipeline: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9]{1,72}Pipeline)?\Z")]


class Loop(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The arguments of a pipeline in addition to prompt and seed."""

    #: Whether it takes sides.
    is_sized: bool = True
    #: Its default; 0 where it takes none.
    steps: Annotated[int, msgspec.Meta(ge=0, le=MOST_STEPS)] = 50
    #: The argument for guidance; empty where it takes none. Its default, if it has one.
    guided_by: GuidedBy = "guidance_scale"
    guidance: Annotated[float, msgspec.Meta(ge=0, le=MOST_GUIDANCE)] | None = None
    #: Whether it takes a negative prompt.
    hears_unwanted: bool = True
    #: Pipelines that draw with the same parts from a picture, and under a mask; empty for none.
    image: _Pipeline = ""
    mask: _Pipeline = ""
    #: Which of them, `image` and `mask`, take a strength.
    strength: list[Use] = []


#: Pipelines of diffusers 0.42 by name, as `loop_of` in `diffusers_pipeline_torch.py` reads them.
LOOPS: Final = msgspec.json.decode(
    Path(__file__).with_suffix(".json").read_bytes(), type=dict[str, Loop]
)

#: Pipelines that draw from pictures → the one that draws by words with the same parts.
_WORDS: Final = {
    other: name for name, loop in LOOPS.items() for other in (loop.image, loop.mask) if other
}


def words_of(pipeline: str) -> str:
    """Return the pipeline that draws by words with the parts of this one; itself if none does."""
    return _WORDS.get(pipeline, pipeline)
