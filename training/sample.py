"""Cut the portrait that examples and tests use from the wheel of scikit-image.

    python sample.py WORK ../packages/swell-models/src/swell_models/weights

Eileen Collins, from NASA's Great Images: no known copyright, released into the public domain.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import PIL.Image

from register import register
from wheel import fetch

PACKAGE, VERSION = "scikit-image", "0.26.0"
#: Head and shoulders: left, top, right, bottom.
BOX_PX = (96, 0, 352, 256)
SIZE_PX = 160


def main(work: Path, to: Path) -> None:
    with fetch(work, PACKAGE, VERSION) as wheel:
        whole = PIL.Image.open(io.BytesIO(wheel.read("skimage/data/astronaut.png"))).convert("RGB")
    size = (SIZE_PX, SIZE_PX)
    small = whole.crop(BOX_PX).resize(size, PIL.Image.Resampling.LANCZOS)
    path = to / "portrait.webp"
    small.save(path, quality=70, method=6)
    register(
        path,
        "LicenseRef-public-domain",
        f"NASA, public domain; PyPI {PACKAGE} {VERSION}, training/sample.py",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
