"""Draws the pictures of the README with the built-in model: `python docs/images/make.py`."""

from pathlib import Path
from typing import Any

import PIL.Image

from swell.sdk.context import Item
from swell.sdk.model_loader import load_models

PROMPTS = ("a red fox in the snow", "a slice of pizza", "a smiling cat face", "a yellow school bus")
SIDE_PX = 256
SEED = 3


def main() -> None:
    """Draw each prompt, and join them in one strip."""
    [definition] = load_models("swell/icons")
    model = definition.make()
    model.load("cpu")
    strip = PIL.Image.new("RGB", (SIDE_PX * len(PROMPTS), SIDE_PX), "white")
    for place, prompt in enumerate(PROMPTS):
        checked: Any = definition.input_type.model_validate({"prompt": prompt})
        [result] = model.run([Item(checked, seed=SEED)])
        picture = getattr(result, "image", result)
        picture = picture[0] if isinstance(picture, list) else picture
        small = picture.pil().convert("RGB").resize((SIDE_PX, SIDE_PX))
        strip.paste(small, (SIDE_PX * place, 0))
    strip.save(Path(__file__).with_name("icons.webp"), quality=88)


if __name__ == "__main__":
    main()
