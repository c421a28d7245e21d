"""What does it cost to turn a picture into a file: milliseconds and bytes, in one thread?

Prints a table; its numbers stand beside the code that was chosen by them.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.AvifImagePlugin
import PIL.Image
import PIL.WebPImagePlugin

from machine import describe

DRAWINGS = Path(__file__).parent.parent / "docs/images/icons.webp"

FORMATS: list[tuple[str, dict[str, Any]]] = [
    *(("PNG", {"compress_level": level}) for level in (1, 2, 6)),
    *(("WEBP", {"quality": 90, "method": method}) for method in (0, 2, 4)),
    ("JPEG", {"quality": 90}),
    *(
        ("AVIF", {"quality": q, "speed": s, "max_threads": 1})
        for q, s in ((75, 8), (80, 8), (75, 6))
    ),
]


def grain(side: int) -> PIL.Image.Image:
    """Soft colours with a little noise, as models draw them."""
    rng = np.random.default_rng(0)
    values = np.full((side, side, 3), 128, np.float32)
    for cells, weight in ((4, 60), (16, 40), (64, 20), (256, 8)):
        coarse = (rng.standard_normal((cells, cells, 3)) * 64 + 128).clip(0, 255).astype(np.uint8)
        fine = PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC)
        values += (np.asarray(fine, np.float32) / 127.5 - 1) * weight
    values += rng.standard_normal(values.shape) * 2
    return PIL.Image.fromarray(values.clip(0, 255).astype(np.uint8))


def main() -> None:
    print(describe())
    drawings = PIL.Image.open(DRAWINGS).convert("RGB").resize((1024, 1024))
    for name, picture in (("grain", grain(1024)), ("drawings", drawings)):
        pixels = np.asarray(picture, np.float64)
        for kind, options in FORMATS:
            took = []
            for _ in range(5):
                begun = time.perf_counter()
                picture.save(file := io.BytesIO(), kind, **options)
                took.append(time.perf_counter() - begun)
            again = np.asarray(PIL.Image.open(file).convert("RGB"), np.float64)
            error = ((again - pixels) ** 2).mean()
            psnr = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "exact"
            ms, kib = min(took) * 1e3, len(file.getvalue()) / 1024
            print(f"{name:9} {kind:5} {options!s:52} {ms:7.1f} ms {kib:7.0f} KiB  {psnr}")


if __name__ == "__main__":
    main()
