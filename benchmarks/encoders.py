"""What does it cost to turn a picture into a file, in a process of its own?

    formats    milliseconds and bytes of each format, one thread
    start      time from asking for a process to its first file, and its memory
    small      pictures of so many pixels a side, in a thread of the worker and in a process

Prints tables; these numbers stand beside the code that was chosen by them.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL.AvifImagePlugin
import PIL.Image
import PIL.WebPImagePlugin

from machine import describe
from swell.runtime.ipc_messages import Pixels
from swell.worker.encode_outputs import FileNote
from swell.worker.encoder_pool import Encoders

NOTE = FileNote("demo/x", "1", msgspec.Raw(b'{"prompt":"a red fox in the snow","steps":30}'))
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


def formats() -> None:
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


def pixels_of(side: int, kind: str = "jpeg") -> Pixels:
    return Pixels("RGB", side, side, grain(side).tobytes(), kind, b"{}", 1)


async def start() -> None:
    picture = pixels_of(64)
    for _ in range(5):
        encoders = Encoders(1, tiny_px=0)
        begun = time.perf_counter()
        await encoders.encode(picture, 0, "png", NOTE)
        first_s = time.perf_counter() - begun
        begun = time.perf_counter()
        await encoders.encode(picture, 0, "png", NOTE)
        second_s = time.perf_counter() - begun
        rollup = Path(f"/proc/{encoders.pids[0]}/smaps_rollup").read_text().split()
        own_kib = int(rollup[rollup.index("Private_Dirty:") + 1])
        print(
            f"first file after {first_s * 1e3:.0f} ms, second takes {second_s * 1e3:.1f} ms; "
            f"resident {int(rollup[rollup.index('Rss:') + 1]) / 1024:.0f} MiB, "
            f"its own {own_kib / 1024:.0f} MiB"
        )
        await encoders.close()


async def small() -> None:
    thread, process = Encoders(1, tiny_px=10**9), Encoders(1, tiny_px=0)
    for kind in ("png", "webp", "jpeg"):
        for side in (8, 32, 64, 96, 128, 256):
            picture = pixels_of(side, kind)
            ways = [await _median_ms(encoders, picture) for encoders in (thread, process)]
            print(f"{kind:5} {side:4} px: thread {ways[0]:.2f} ms, process {ways[1]:.2f} ms")
    await thread.close()
    await process.close()


async def _median_ms(encoders: Encoders, picture: Pixels) -> float:
    took = []
    for _ in range(60):
        begun = time.perf_counter()
        await encoders.encode(picture, 0, "png", NOTE)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=["formats", "start", "small"])
    question = globals()[parser.parse_args().question]
    print(describe())
    if asyncio.iscoroutinefunction(question):
        asyncio.run(question())
    else:
        question()


if __name__ == "__main__":
    main()
