"""Names of layers in files of LoRAs that have those of the first code (`sgm`). Pure.

Source: the order of blocks in Stability AI's generative-models (`openaimodel.py`), and of the same
blocks in diffusers: a level has two residual blocks and then one that halves, on the way back three
and one that doubles.
"""

import re
from collections.abc import Mapping
from typing import Final

#: A layer of a CLIP that encodes words, with and without the level that some have.
_CLIP: Final = re.compile(
    r"(text_encoder(?:_\d)?)([._])(?:text_model\2)?((?:encoder|embeddings|final_layer_norm)[._].+)"
)
_BLOCK: Final = re.compile(r"(input|output)_blocks[._](\d+)[._](\d+)[._](.+)")
_MIDDLE: Final = re.compile(r"middle_block[._](\d)[._](.+)")

#: What the parts of a residual block are called in diffusers.
_RESNET: Final = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}


def encoder_layer(name: str, encoders: Mapping[str, object]) -> str:
    """Return the name in this model of a layer of a text encoder; others as they are.

    Files may count text encoders. Layers of a CLIP are in a level of their own, `text_model`, in
    nearly all files; `CLIPTextModel` of transformers has it no longer since version 5, and
    `CLIPTextModelWithProjection` still does.

    Args:
        name: Of a file of LoRAs.
        encoders: The model's parts that encode words, by name and in order.
    """
    names = list(encoders)
    for prefix, part in (("lora_te1_", 0), ("lora_te2_", 1), ("lora_te_", 0)):
        if name.startswith(prefix) and part < len(names):
            name = f"{names[part]}_{name.removeprefix(prefix)}"
            break
    clip = _CLIP.fullmatch(name)
    if clip is None or clip[1] not in encoders:
        return name
    level = f"text_model{clip[2]}" if hasattr(encoders[clip[1]], "text_model") else ""
    return f"{clip[1]}{clip[2]}{level}{clip[3]}"


def sgm_layer(name: str) -> str:
    """Return a layer's name in diffusers, with `_` for dots; others as they are."""
    middle = _MIDDLE.fullmatch(name)
    if middle is not None:
        block, inner = int(middle[1]), middle[2]
        if block == 1:
            return f"mid_block_attentions_0_{inner}"
        return f"mid_block_resnets_{block // 2}_{_inner(inner)}"
    found = _BLOCK.fullmatch(name)
    if found is None:
        return name
    number, part, inner = int(found[2]), int(found[3]), found[4]
    if found[1] == "input":
        return _down(number, part, inner)
    return _up(number, part, inner)


def _down(number: int, part: int, inner: str) -> str:
    if number == 0:
        return "conv_in"
    level, place = divmod(number - 1, 3)
    if place == 2:
        return f"down_blocks_{level}_downsamplers_0_conv"
    if part == 1:
        return f"down_blocks_{level}_attentions_{place}_{inner}"
    return f"down_blocks_{level}_resnets_{place}_{_inner(inner)}"


def _up(number: int, part: int, inner: str) -> str:
    level, place = divmod(number, 3)
    if inner in ("conv", "conv.weight"):
        return f"up_blocks_{level}_upsamplers_0_conv"
    if part == 1:
        return f"up_blocks_{level}_attentions_{place}_{inner}"
    return f"up_blocks_{level}_resnets_{place}_{_inner(inner)}"


def _inner(name: str) -> str:
    return _RESNET.get(name.replace(".", "_"), name)
