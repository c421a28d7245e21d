"""Pictures by Swell's step engine in one process: times, bits, checkpoints, LoRAs, failures."""

import hashlib
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.profiler import ProfilerActivity, profile

from gpu.rig import Rig, label
from gpu.swell_engine import (
    SHARED,
    Drawing,
    PreviewCounter,
    ask,
    checkpoint_after,
    digest,
    draw,
    load,
    pixels,
    psnr,
    shared_model,
)
from gpu.true_size import write_flux
from swell.diffusion.torch_arrays import inference
from swell.sdk.media import LoRA

#: Least standard deviation of a picture's pixels that is not one flat colour.
_FLAT = 1.0

#: Waits of the host for the device, as torch's profiler names them.
_WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::item",
)


def _row(rig: Rig, what: str, drawing: Drawing) -> None:
    """Report pictures that were drawn together."""
    done = [each for each in drawing.results if not isinstance(each, Exception)]
    rig.row(
        what,
        pictures=len(drawing.results),
        s_per_picture=round(drawing.seconds / len(drawing.results), 3),
        CPU_share_of_the_engine=round(drawing.host_cpu_s / drawing.seconds, 3),
        peak_GiB=rig.peak_gib(),
        flat=sum(int(pixels(each).std() < _FLAT) for each in done),
        failed="; ".join(drawing.failures) or 0,
    )


def pictures(rig: Rig) -> None:
    """Time pictures with eager and with compiled blocks."""
    small, short = rig.sizes[-1], rig.short_steps
    long = [ask(rig, number) for number in range(4)]
    quick = [ask(rig, number, short, guidance=0.0) for number in range(8)]
    mixed = [ask(rig, number, size=rig.sizes[number % len(rig.sizes)]) for number in range(6)]
    little = [ask(rig, number, size=small) for number in range(8)]
    main = label(rig.sizes[0])
    cases: Sequence[tuple[str, list[dict[str, Any]], dict[str, Any]]] = (
        (f"one of {rig.long_steps} steps, {main}", long[:1], {}),
        (f"four of {rig.long_steps} steps, {main}", long, {}),
        (f"one of {short} steps without guidance, {main}", quick[:1], {}),
        (f"eight of {short} steps without guidance, {main}", quick, {}),
        ("six of all sizes", mixed, {}),
        (f"eight, {label(small)}, exact mode", little, {}),
        (f"eight, {label(small)}, fast mode", little, {"exact": False}),
        (f"eight, {label(small)}, exact mode with 8 rows a step", little, {"bucket": 8}),
    )
    for blocks, options in (("eager", ["--no-compile"]), ("compiled", [])):
        if not rig.has_time(60):
            return
        loaded = load(rig, SHARED if not options else "gpu/eager", *options)
        for what, value, unit in loaded.facts:
            rig.row(f"{blocks}: {what}", value=value, unit=unit)
        for what, asked, how in cases:
            if not rig.has_time(15):
                break
            rig.clear()
            _row(rig, f"{blocks}: {what}", draw(rig, loaded, asked, **how))
        del loaded
        rig.clear()


def restart(rig: Rig) -> None:
    """Load the model in a new process."""
    for what, value, unit in shared_model(rig).facts:
        rig.fact(what, value, unit)


def bits(rig: Rig) -> None:
    """Compare the bits of pictures in other company with those of the same pictures alone."""
    loaded, count = shared_model(rig), 5
    asked = [
        ask(
            rig,
            number,
            2 + number % 3 * 2,
            rig.sizes[number % 2],
            guidance=0.0 if number == count - 1 else 5.0,
        )
        for number in range(count)
    ]
    alone = [draw(rig, loaded, [each]).results[0] for each in asked]
    first = [digest(each) for each in alone]
    again = [draw(rig, loaded, [each]).results[0] for each in asked]
    fast = draw(rig, loaded, asked, exact=False).results
    compared = {
        "drawn alone a second time": again,
        "drawn together": draw(rig, loaded, asked).results,
        "drawn together, arriving one by one": draw(rig, loaded, asked, arrive_every=2).results,
        "drawn together in fast mode": fast,
    }
    for what, results in compared.items():
        same = sum(digest(each) == known for each, known in zip(results, first, strict=True))
        rig.row(
            what,
            pictures=count,
            same_bits=same,
            lowest_PSNR_dB=min(psnr(each, one) for each, one in zip(results, alone, strict=True)),
        )


def checkpoint(rig: Rig) -> None:
    """Resume a picture from a checkpoint."""
    loaded, asked = shared_model(rig), ask(rig, 7, 2 * rig.short_steps)
    whole = digest(draw(rig, loaded, [asked]).results[0])
    begin_s = time.perf_counter()
    taken = checkpoint_after(loaded, asked, rig.short_steps)
    seconds = time.perf_counter() - begin_s
    resumed = digest(draw(rig, loaded, [asked], checkpoint=taken).results[0])
    rig.fact(f"size of a checkpoint, {label(rig.sizes[0])}", len(taken), "bytes")
    rig.fact(f"{rig.short_steps} steps and the checkpoint", round(seconds, 3), "s")
    rig.fact("the resumed picture has the same bits", _yes(resumed == whole))


def previews(rig: Rig) -> None:
    """Time a picture with and without previews."""
    loaded, asked = shared_model(rig), [ask(rig, 1)]
    width, height = rig.sizes[0]
    latents = torch.randn(4, height // 8, width // 8, device=rig.device)
    without = min(draw(rig, loaded, asked).seconds for _ in range(2))
    counter = PreviewCounter()
    with_previews = min(draw(rig, loaded, asked, listener=counter).seconds for _ in range(2))
    one = rig.milliseconds(lambda: loaded.model.preview(latents, None))
    rig.fact("one preview", one, "ms")
    rig.fact("a picture without previews", round(without, 3), "s")
    rig.fact("a picture with previews", round(with_previews, 3), "s")
    rig.fact("previews of two pictures", counter.count)


def _fingerprint(network: Any) -> str:
    """Return a hash of the first numbers of each weight."""
    found = hashlib.sha256()
    for each in network.parameters():
        found.update(each.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return found.hexdigest()


def _write_lora(network: Any, rank: int, path: Path) -> int:
    """Write a random LoRA of all attention layers, and return how many layers it changes."""
    torch.manual_seed(rank)
    changed = ("to_q", "to_k", "to_v", "to_out.0")
    state = {}
    for name, weight in network.named_parameters():
        if weight.ndim == 2 and any(f".{each}.weight" in name for each in changed):
            layer = "unet." + name.removesuffix(".weight")
            down = torch.randn(rank, weight.shape[1]).half() * 0.02
            up = torch.randn(weight.shape[0], rank).half() * 0.02
            state |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    save_file(state, path)
    return len(state) // 2


def loras(rig: Rig) -> None:
    """Put LoRAs on and take them off."""
    loaded, asked = shared_model(rig), [ask(rig, 3, rig.short_steps)]
    model, network = loaded.model, loaded.model.parts.network
    before, plain = _fingerprint(network), digest(draw(rig, loaded, asked).results[0])

    def apply(*given: LoRA) -> float:
        return round(rig.timed(lambda: model.adapt(given), runs=1, warm=0), 3)

    files = {rank: rig.work / f"lora-{rank}.safetensors" for rank in (16, 64)}
    for rank, file in files.items():
        layers = _write_lora(network, rank, file)
        one, other = LoRA(file, scale=0.8), LoRA(file, scale=0.3)
        rig.row(
            f"rank {rank}",
            MiB=round(file.stat().st_size / 2**20),
            layers=layers,
            on_s=apply(one),
            other_scale_s=apply(other),
            first_scale_again_s=apply(one),
            off_s=apply(),
        )
    changed = draw(rig, loaded, [{**asked[0], "loras": [LoRA(files[16])]}])
    # Each engine here is a new one, and expects a model without LoRAs.
    model.adapt(())
    again = digest(draw(rig, loaded, asked).results[0])
    rig.row("a LoRA changes the picture", result=_yes(digest(changed.results[0]) != plain))
    rig.row("without it, weights have their bits", result=_yes(_fingerprint(network) == before))
    rig.row("without it, the picture has its bits", result=_yes(again == plain))


def busy(rig: Rig) -> None:
    """Profile pictures: share of the time with a kernel on the device, launches, waits."""
    loaded, steps = shared_model(rig), 2 * rig.short_steps
    device = "CUDA" if rig.is_cuda else "CPU"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if rig.is_cuda else [])
    four = [ask(rig, number, steps) for number in range(4)]
    cases: Sequence[tuple[str, list[dict[str, Any]], dict[str, Any]]] = (
        (f"one, {label(rig.sizes[0])}", four[:1], {}),
        (f"four, {label(rig.sizes[0])}, 8 rows a step", four, {"bucket": 8}),
        (f"one, {label(rig.sizes[-1])}", [ask(rig, 0, steps, rig.sizes[-1])], {}),
    )
    for what, asked, how in cases:
        if not rig.has_time(15):
            return
        draw(rig, loaded, asked, **how)
        with profile(activities=activities) as profiler:
            drawing = draw(rig, loaded, asked, **how)
        events = list(profiler.events())
        names = [each.name for each in events]
        spans = [
            (each.time_range.start, each.time_range.end)
            for each in events
            if str(each.device_type).endswith(device)
        ]
        rig.row(
            what,
            s_with_profiler=round(drawing.seconds, 3),
            busy_share=round(_covered(spans) / 1e6 / drawing.seconds, 3),
            kernels=len(spans) if rig.is_cuda else None,
            launches=sum("LaunchKernel" in name for name in names),
            host_waits=sum(any(wait in name for wait in _WAITS) for name in names),
        )


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total = end = 0.0
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def poison(rig: Rig) -> None:
    """Break the device in the second step of four pictures. On a CPU it is an ordinary error."""
    loaded = load(rig, "gpu/eager", "--no-compile")
    model, real, calls = loaded.model, loaded.model.denoise, 0

    @inference
    def broken(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= 2:
            # An index out of range: a device assertion on a GPU, an IndexError on a CPU.
            _ = torch.zeros(1, device=rig.device)[torch.tensor([9], device=rig.device)]
            rig.wait()
        return real(*arguments)

    for what, count, network in (("four pictures", 4, broken), ("the next picture", 1, real)):
        model.denoise = network
        asked = [ask(rig, number, rig.short_steps) for number in range(count)]
        try:
            results = draw(rig, loaded, asked, bucket=8).results
        except BaseException as error:
            rig.row(what, result=f"{type(error).__name__} ends the model process, by design")
            return
        rig.row(what, result="; ".join(sorted({_outcome(each) for each in results})))
    rig.row("calls of the network while it failed", result=calls)


def flux_pictures(rig: Rig) -> None:
    """Write FLUX.1 dev with its text encoders, and draw with it."""
    rig.require(gpu_gib=45, disk_gib=40)
    folder, begin_s = rig.work / "flux", time.perf_counter()
    try:
        write_flux(rig, folder)
        rig.clear()
        seconds = round(time.perf_counter() - begin_s, 1)
        rig.row("make all parts and write them to disk", value=seconds, unit="s")
        loaded = load(rig, "gpu/flux", folder=folder, warms_up=rig.has_time(120))
        for what, value, unit in loaded.facts:
            rig.row(what, value=value, unit=unit)
        four = [ask(rig, number, guidance=3.5) for number in range(4)]
        for what, asked, how in (
            ("one", four[:1], {}),
            ("four, 4 rows a step", four, {"bucket": 4}),
        ):
            if rig.has_time(40):
                rig.clear()
                _row(rig, what, draw(rig, loaded, asked, **how))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(result: Any) -> str:
    text = f": {result}"[:80] if isinstance(result, Exception) else ""
    return type(result).__name__ + text


def _yes(value: bool) -> str:
    return "yes" if value else "no"
