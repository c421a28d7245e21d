"""Networks and diffusers' own pipelines, without Swell."""

import importlib
import time
from typing import Any

import diffusers
import torch

from gpu import true_size
from gpu.rig import NotPossible, Rig, Size, drop_from_page_cache, label


def step_times(rig: Rig) -> None:
    """Time a step of SDXL by rows and size: eager, channels last, and with compiled blocks."""
    unet = true_size.sdxl_unet(rig)
    for way in ("eager", "channels last", "compiled blocks"):
        if way == "channels last":
            unet = unet.to(memory_format=torch.channels_last)
        if way == "compiled blocks":
            if not rig.has_time(60):
                return
            unet = unet.to(memory_format=torch.contiguous_format)
            rig.compile_blocks(unet)
        for size in rig.sizes:
            _steps(rig, unet, way, size)


def _steps(rig: Rig, unet: Any, way: str, size: Size) -> None:
    taken = {}
    for rows in (1, 2, 4, 8, 16):
        if not rig.has_time(10):
            return
        arguments = true_size.sdxl_inputs(rig, unet, rows, size)
        first, taken[rows] = _timed_step(rig, unet, arguments)
        rig.row(
            f"{way}, {label(size)}, {rows} {'row' if rows == 1 else 'rows'}",
            ms_per_step=taken[rows],
            ms_per_row=round(taken[rows] / rows, 2),
            first_call_s=first,
            peak_GiB=rig.peak_gib(),
        )
    rig.row(
        f"{way}, {label(size)}: 16 rows instead of 8 steps of 2 rows",
        times_faster=round(8 * taken[2] / max(taken[16], 1e-3), 2),
    )


def _timed_step(rig: Rig, network: Any, arguments: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds of a first call, and the milliseconds of later ones."""
    rig.clear()
    begin_s = time.perf_counter()
    network(**arguments)
    rig.wait()
    first = round(time.perf_counter() - begin_s, 2)
    return first, rig.milliseconds(lambda: network(**arguments), 1 if rig.tiny else 3)


def cuda_graphs(rig: Rig) -> None:
    """Compare steps with the same steps as CUDA graphs."""
    rig.require_cuda()
    unet = true_size.sdxl_unet(rig)
    for way in ("eager", "compiled blocks"):
        if way == "compiled blocks":
            if not rig.has_time(40):
                return
            rig.compile_blocks(unet)
        for size in (rig.sizes[0], rig.sizes[-1]):
            for rows in (1, 2, 4, 8):
                if not rig.has_time(10):
                    return
                rig.clear()
                arguments = true_size.sdxl_inputs(rig, unet, rows, size)
                rig.row(f"{way}, {label(size)}, {rows} rows", **_graph(rig, unet, arguments))


def _graph(rig: Rig, unet: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Capture one step as a CUDA graph and compare it with the step itself."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            wanted = unet(**arguments)[0]
    torch.cuda.current_stream().wait_stream(side)
    plain = rig.milliseconds(lambda: unet(**arguments), 5)
    before, graph = rig.used_bytes(), torch.cuda.CUDAGraph()
    begin_s = time.perf_counter()
    with torch.cuda.graph(graph):
        found = unet(**arguments)[0]
    capture_s = time.perf_counter() - begin_s
    replayed = rig.milliseconds(graph.replay, 5)
    begin_s = time.perf_counter()
    graph.replay()
    host_s = time.perf_counter() - begin_s
    rig.wait()
    return {
        "ms_per_step": plain,
        "ms_per_replay": replayed,
        "times_faster": round(plain / max(replayed, 1e-3), 2),
        "host_ms_per_replay": round(1000 * host_s, 3),
        "capture_s": round(capture_s, 2),
        "GiB_of_the_graph": rig.gib(rig.used_bytes() - before),
        "largest_difference": float((found - wanted).abs().max()),
    }


def diffusers_alone(rig: Rig) -> None:
    """Draw with diffusers' own pipeline."""
    drop_from_page_cache(rig.sdxl)
    begin_s = time.perf_counter()
    pipeline = diffusers.StableDiffusionXLPipeline.from_pretrained(rig.sdxl, torch_dtype=rig.half)
    pipeline = pipeline.to(rig.device)
    rig.wait()
    rig.row("`from_pretrained` from a cold disk", s=round(time.perf_counter() - begin_s, 2))
    pipeline.set_progress_bar_config(disable=True)
    for size in rig.sizes:
        for steps, guidance in ((rig.long_steps, 5.0), (rig.short_steps, 0.0)):
            if not rig.has_time(15):
                return
            rig.clear()
            seconds = rig.timed(lambda: _draw(pipeline, size, steps, guidance), 2)  # noqa: B023
            what = f"one of {steps} steps, {label(size)}, guidance {guidance:g}"
            rig.row(what, s_per_picture=round(seconds, 3), peak_GiB=rig.peak_gib())
    main = rig.sizes[0]
    seconds = rig.timed(lambda: _draw(pipeline, main, rig.long_steps, 5.0, 4), 1) / 4
    what = f"a batch of four of {rig.long_steps} steps, {label(main)}"
    rig.row(what, s_per_picture=round(seconds, 3))
    pipeline.vae.to(torch.float32)
    latents = torch.randn(1, 4, main[1] // 8, main[0] // 8, device=rig.device)
    rig.clear()
    seconds = rig.timed(lambda: pipeline.vae.decode(latents))
    rig.row(f"decoding in float32, {label(main)}", s=round(seconds, 4), peak_GiB=rig.peak_gib())


def _draw(pipeline: Any, size: Size, steps: int, guidance: float, count: int = 1) -> Any:
    return pipeline(
        prompt=["a fox"] * count,
        num_inference_steps=steps,
        guidance_scale=guidance,
        width=size[0],
        height=size[1],
        generator=[torch.Generator("cpu").manual_seed(1 + number) for number in range(count)],
    )


def large_networks(rig: Rig) -> None:
    """Time steps of SD 3.5 Large and FLUX.1 dev, each as far as memory and time allow."""
    networks = (
        ("SD 3.5 Large", 22, true_size.sd35_network, true_size.sd35_inputs),
        ("FLUX.1 dev", 30, true_size.flux_network, true_size.flux_inputs),
    )
    for name, gpu_gib, make, inputs in networks:
        if not rig.has_time(40):
            return
        rig.clear()
        try:
            rig.require(gpu_gib=gpu_gib)
        except NotPossible as error:
            rig.row(f"{name} is not measured: {error}")
            continue
        begin_s = time.perf_counter()
        network = make(rig)
        rig.wait()
        billions = sum(each.numel() for each in network.parameters()) / 1e9
        rig.row(
            f"{name}: {billions:.2f} billion parameters made",
            s=round(time.perf_counter() - begin_s, 1),
            peak_GiB=rig.peak_gib(),
        )
        for way in ("eager", "compiled blocks", "float8"):
            if not _prepared(rig, network, way):
                break
            _large_steps(rig, network, f"{name}, {way}", inputs)
        del network


def _prepared(rig: Rig, network: Any, way: str) -> bool:
    """Compile or quantise a network; say whether it can be measured that way."""
    if way == "compiled blocks":
        if not rig.has_time(50):
            return False
        rig.compile_blocks(network)
    if way == "float8":
        if not (rig.is_cuda and rig.has_time(50)):
            return False
        quantization = importlib.import_module("torchao.quantization")
        kind = quantization.Float8DynamicActivationFloat8WeightConfig()
        quantization.quantize_(network, kind)
    return True


def _large_steps(rig: Rig, network: Any, what: str, inputs: Any) -> None:
    for size in rig.sizes:
        for rows in (1, 2, 4, 8):
            if not rig.has_time(15):
                return
            first, later = _timed_step(rig, network, inputs(rig, network, rows, size))
            rig.row(
                f"{what}, {label(size)}, {rows} {'row' if rows == 1 else 'rows'}",
                ms_per_step=later,
                ms_per_row=round(later / rows, 2),
                first_call_s=first,
                peak_GiB=rig.peak_gib(),
            )
