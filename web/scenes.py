"""Makes the pictures of the portraits' scenarios: `python web/scenes.py`.

Each is what `swell/portraits` makes of its own sample in that scene, small.
"""

from pathlib import Path
from typing import Final

import numpy as np
import PIL.Image

from swell.models.onnx_sessions import weights
from swell_models.portraits import Studio
from swell_models.scenes import SCENES

_SIDE_PX: Final = 192
_FOLDER: Final = Path(__file__).parent / "src" / "pages" / "portraits" / "scenes"


def main() -> None:
    """Write one WebP for each scene, under its name."""
    studio = Studio()
    sitter = studio.sitter(np.asarray(PIL.Image.open(weights("portrait.webp")).convert("RGB")))
    assert sitter is not None
    _FOLDER.mkdir(exist_ok=True)
    for name, scene in SCENES.items():
        composed, likeness = studio.compose(sitter, scene)
        strength, keeps = scene.strength, scene.keep_colours
        painted = studio.paint(composed, likeness, scene.style, strength, keeps)
        small = PIL.Image.fromarray(painted).resize((_SIDE_PX, _SIDE_PX))
        small.save(_FOLDER / f"{name}.webp", quality=72, method=6)


if __name__ == "__main__":
    main()
