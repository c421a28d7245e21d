"""Device memory: leaving and returning, peaks, lack of memory, offload, float8."""

from typing import Any

import torch

from gpu.rig import Rig, label
from gpu.swell_engine import ask, digest, draw, load, psnr, shared_model
from gpu.true_size import sdxl_inputs, sdxl_unet
from swell.diffusion.families.offload_plan import DRAWS, working


def swap(rig: Rig) -> None:
    """Move the model to the host's memory and back, twice."""
    model = shared_model(rig).model
    size = model.memory_bytes

    def seconds(move: Any) -> float:
        return round(rig.timed(move, runs=1, warm=0), 3)

    rig.fact("weights of the model", rig.gib(size), "GiB")
    rig.fact("leave the GPU for the first time", seconds(model.offload), "s")
    rig.fact("memory that is still used then", rig.gib(rig.used_bytes()), "GiB")
    rig.fact("return", seconds(model.onload), "s")
    rig.fact("leave again", seconds(model.offload), "s")
    back = max(seconds(model.onload), 1e-3)
    rig.fact("return again", back, "s")
    rig.fact("return again", round(size / 1e9 / back, 1), "GB/s")
    if rig.is_cuda:
        source = torch.empty(2**30, dtype=torch.uint8).pin_memory()
        copied = rig.timed(lambda: source.to(rig.device, non_blocking=True))
        rig.fact("a copy of 1 GiB from pinned memory", round(2**30 / 1e9 / copied, 1), "GB/s")
    [result] = draw(rig, shared_model(rig), [ask(rig, 1, rig.short_steps)]).results
    rig.fact("a picture after that", type(result).__name__)


def memory(rig: Rig) -> None:
    """Compare peaks of steps and of decoding with what Swell's offload plan assumes."""
    model = shared_model(rig).model
    network, vae, facts = model.parts.network, model.parts.vae, model.facts
    sides = [64, 96] if rig.tiny else [512, 1024, 1536, 2048]
    for side in sides:
        if not rig.has_time(10):
            return
        size = (side, side)
        for rows in (2, 8, 16):
            arguments = sdxl_inputs(rig, network, rows, size)
            plan = working(side, facts.vae, vae.dtype.itemsize, facts.family.row_gib, rows)
            rig.row(
                f"a step of {rows} rows, {label(size)}",
                measured_GiB=rig.peak_of(lambda: network(**arguments)),  # noqa: B023
                planned_GiB=rig.gib(plan[DRAWS]),
            )
        latents = torch.randn(1, 4, side // 8, side // 8, device=rig.device, dtype=vae.dtype)
        plan = working(side, facts.vae, vae.dtype.itemsize, facts.family.row_gib)
        for is_tiled in (False, True):
            vae.use_tiling = is_tiled
            rig.row(
                f"decoding{' in tiles' if is_tiled else ''}, {label(size)}",
                measured_GiB=rig.peak_of(lambda: vae.decode(latents)),  # noqa: B023
                planned_GiB=None if is_tiled else rig.gib(plan["vae"]),
            )
    if rig.is_cuda:
        free, total = torch.cuda.mem_get_info()
        context = rig.gib(total - free - torch.cuda.memory_reserved())
        rig.row("the driver, torch and other processes", measured_GiB=context, planned_GiB=0.5)


def out_of_memory(rig: Rig) -> None:
    """Draw eight pictures with little free memory."""
    rig.require_cuda()
    loaded, short = shared_model(rig), rig.short_steps
    reference = digest(draw(rig, loaded, [ask(rig, 5, short)]).results[0])
    for spare_gib in (12, 6, 3, 1.5):
        if not rig.has_time(15):
            return
        rig.clear()
        free = torch.cuda.mem_get_info()[0]
        size = max(0, int(free - spare_gib * 2**30))
        ballast = torch.empty(size, dtype=torch.uint8, device=rig.device)
        try:
            asked = [ask(rig, 5 + number, short) for number in range(8)]
            drawing = draw(rig, loaded, asked, bucket=16)
            seconds = round(drawing.seconds, 2)
            done = sum(not isinstance(each, Exception) for each in drawing.results)
            errors = sorted(set(drawing.failures))
        except Exception as error:
            seconds, done, errors = None, 0, [f"the engine stopped: {error!r}"[:120]]
        del ballast
        rig.row(f"{spare_gib:g} GiB free", pictures=done, s=seconds, errors="; ".join(errors))
    rig.clear()
    after = digest(draw(rig, loaded, [ask(rig, 5, short)]).results[0])
    same = "yes" if after == reference else "no"
    rig.row("with all memory again, the same bits as before", pictures=1, same_bits=same)


def offload(rig: Rig) -> None:
    """Compare the ways of `--offload`, and diffusers' group offload."""
    for choice in ("never", "always", "turns", "blocks"):
        if not rig.has_time(30):
            return
        loaded = load(rig, f"gpu/{choice}", "--offload", choice, "--no-compile")
        draw(rig, loaded, [ask(rig, 0, rig.short_steps)])
        rig.clear()
        drawing = draw(rig, loaded, [ask(rig, number) for number in (1, 2)])
        rig.row(
            f"Swell, `--offload {choice}`, {rig.long_steps} steps",
            s_per_picture=round(drawing.seconds / 2, 3),
            peak_GiB=rig.peak_gib(),
            failed="; ".join(drawing.failures) or 0,
        )
        del loaded
        rig.clear()
    ways: tuple[tuple[str, dict[str, Any]], ...] = (
        ("block_level", {"num_blocks_per_group": 1}),
        ("leaf_level", {}),
    )
    for kind, options in ways:
        for stream in (False, True) if rig.is_cuda else (False,):
            if not rig.has_time(20):
                return
            _group_offload(rig, offload_type=kind, use_stream=stream, **options)


def _group_offload(rig: Rig, **options: Any) -> None:
    """Time a step of diffusers' group offload."""
    unet = sdxl_unet(rig).to("cpu")
    arguments = sdxl_inputs(rig, unet, 2, rig.sizes[0])
    unet.enable_group_offload(
        onload_device=torch.device(rig.device), offload_device=torch.device("cpu"), **options
    )
    rig.clear()
    step = rig.milliseconds(lambda: unet(**arguments))
    stream = "with" if options["use_stream"] else "without"
    what = f"diffusers, {options['offload_type']}, {stream} a stream, 2 rows"
    rig.row(what, ms_per_step=step, peak_GiB=rig.peak_gib())


def float8(rig: Rig) -> None:
    """Draw the same picture in half precision and in float8."""
    rig.require_cuda()
    asked, half = [ask(rig, 9)], None
    for what, options in (("half precision", []), ("float8", ["--quantize", "fp8"])):
        if not rig.has_time(40):
            return
        loaded = load(rig, "gpu/sdxl" if half is None else "gpu/fp8", *options)
        draw(rig, loaded, asked)
        rig.clear()
        drawing = draw(rig, loaded, asked)
        [result] = drawing.results
        if isinstance(result, Exception):
            raise result
        warm_up = {name: value for name, value, _ in loaded.facts}
        rig.row(
            what,
            s_per_picture=round(drawing.seconds, 3),
            warm_up_s=warm_up["warm-up, with compilation"],
            used_GiB=rig.gib(rig.used_bytes()),
            peak_GiB=rig.peak_gib(),
            PSNR_to_half_dB=None if half is None else psnr(result, half),
        )
        half = half or result
        del loaded
        rig.clear()
