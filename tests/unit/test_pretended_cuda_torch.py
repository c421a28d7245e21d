"""How the four step-batched families use a GPU, on a pretended one (`pretended_cuda`)."""

import contextlib
import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import family_cases as cases  # noqa: E402
import tiny_pipelines as tiny  # noqa: E402
from pretended_cuda import PretendCuda, Taken  # noqa: E402
from swell.core.clock import SystemClock  # noqa: E402
from swell.core.errors import InvalidModel  # noqa: E402
from swell.diffusion.step_engine import Request, StepEngine  # noqa: E402
from swell.diffusion.torch_arrays import device_error  # noqa: E402
from swell.runtime import model_residency as worker_device  # noqa: E402
from swell.runtime.ipc import Pipe  # noqa: E402
from swell.runtime.ipc_messages import Load  # noqa: E402
from swell.runtime.model_residency import Device, check_device  # noqa: E402
from swell.sdk.context import Item  # noqa: E402
from swell.sdk.media import Image  # noqa: E402
from swell.sdk.model import DeviceBroken  # noqa: E402
from swell.sdk.model_loader import load_models  # noqa: E402
from swell.sdk.step_model import whole  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

FAMILIES = ("stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3", "flux")
STEPS, SIDE = 5, 64
ILLEGAL = "CUDA error: an illegal memory access was encountered"


class Made:
    """A small random model of one family, in a folder and added to Swell."""

    def __init__(self, family: str, place: Path) -> None:
        self.family, self.place = family, place
        self.files: dict[tuple[str, ...], Path] = {}
        self.on_cpu: list[Any] = []
        is_xl_or_older = family in ("stable_diffusion", "stable_diffusion_xl")
        self.half = torch.float16 if is_xl_or_older else torch.bfloat16
        with contextlib.redirect_stderr(io.StringIO()):
            self.folder = getattr(tiny, family)(place / "weights")

    def loaded(self, device: str, *options: str) -> tuple[Any, Any]:
        if options not in self.files:
            name, data = f"test/it-{len(self.files)}", self.place / "data"
            self.files[options] = cases.add(self.folder, data, name, "--no-compile", *options)
        [definition] = load_models(str(self.files[options]))
        model: Any = definition.make()
        with contextlib.redirect_stderr(io.StringIO()):
            model.load(device)
        return definition, model

    def asks(self, definition: Any, count: int) -> list[Any]:
        sides = {"width": SIDE, "height": SIDE}
        return [
            definition.input_type(prompt=f"a fox {n}", steps=STEPS - n % 3, **sides)
            for n in range(count)
        ]


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made("stable_diffusion", tmp_path_factory.mktemp("sd"))


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    with PretendCuda() as pretence:
        yield pretence


class Shown:
    """A listener that takes previews as the worker does: another thread waits for them."""

    def __init__(self) -> None:
        self.made: list[Any] = []

    def preview(self, make: Callable[[], Any]) -> None:
        self.made.append(make())

    def is_cancelled(self) -> bool:
        return False

    def progress(self, *_: Any) -> None:
        pass


def draw(
    cuda: PretendCuda,
    model: Any,
    inputs: list[Any],
    *,
    every: int = 0,
    shown: Shown | None = None,
    **options: Any,
) -> tuple[list[Taken], dict[str, Any]]:
    """Draw with the step engine; return what each boundary took, and results by number.

    Args:
        cuda: The device that is entered now.
        model: Loaded on it.
        inputs: One for each sample.
        every: Adds a sample each so many boundaries; 0 adds all at first.
        shown: Receives previews.
        options: Of `StepEngine`.
    """
    results: dict[str, Any] = options.pop("into", {})
    denoiser = StepEngine(SystemClock(), results.__setitem__, **options)
    listener = {} if shown is None else {"listener": shown}
    coming = [
        Request(id=str(n), model=model, item=Item(asked, seed=n, **listener))
        for n, asked in enumerate(inputs)
    ]
    if not every:
        denoiser.add(coming)
        coming = []
    cuda.taken()
    taken: list[Taken] = []
    is_busy = True
    while is_busy or coming:
        if coming and len(taken) % every == 0:
            denoiser.add([coming.pop(0)])
        is_busy = denoiser.boundary()
        taken.append(cuda.taken())
    return taken, {name: whole(result) for name, result in results.items()}


def middle(taken: list[Taken], steps: int = STEPS) -> Taken:
    """Return a step that is neither the first, which encodes texts, nor near the last."""
    return taken[max(1, min(steps // 2, len(taken) - 2))]


def picture(mode: str) -> Image:
    gradient = PIL.Image.linear_gradient("L").resize((SIDE, SIDE))
    return Image(gradient.convert(mode))


def pixels(results: dict[str, Any]) -> list[Any]:
    bad = [each for each in results.values() if isinstance(each, Exception)]
    assert not bad, bad
    return [np.asarray(results[name].pil()).astype(int) for name in sorted(results)]


def cpu_crowd(made: Made) -> list[Any]:
    made.on_cpu = made.on_cpu or crowd(made, "cpu")
    return made.on_cpu


def crowd(made: Made, device: str, *options: str) -> list[Any]:
    with PretendCuda() as cuda:
        definition, model = made.loaded(device, "--dtype", "float32", *options)
        taken, results = draw(cuda, model, made.asks(definition, 4), every=2, bucket=4)
        assert not [fault for each in [*taken, cuda.now] for fault in each.faults]
        return pixels(results)


def furthest(some: list[Any], others: list[Any]) -> int:
    """Return the largest difference of two lists of pictures, in levels of 255.

    The addresses of weights decide in which order the CPU adds, so one level may differ.
    """
    return max(int(abs(a - b).max()) for a, b in zip(some, others, strict=True))


# The engine


def test_a_crowd_gets_the_pictures_of_the_cpu(made: Made) -> None:
    assert furthest(cpu_crowd(made), crowd(made, "cuda:0")) <= 1


@pytest.mark.parametrize("choice", ["always", "turns", "blocks"])
def test_offloaded_models_draw_the_pictures_of_the_cpu(sd: Made, choice: str) -> None:
    assert furthest(cpu_crowd(sd), crowd(sd, "cuda:0", "--offload", choice)) <= 1


def everything(made: Made, cuda: PretendCuda) -> list[Taken]:
    """Draw four pictures from prompts and one under a mask, with previews.

    Return what each boundary took.
    """
    definition, model = made.loaded("cuda:0")
    masked = made.asks(definition, 1)[0].model_copy(
        update={"image": picture("RGB"), "mask": picture("L"), "strength": 0.8}
    )
    shown = Shown()
    inputs = [*made.asks(definition, 4), masked]
    taken, results = draw(cuda, model, inputs, bucket=8, shown=shown, preview_every_s=0.0)
    pixels(results)
    previews = [np.asarray(whole(each).pil()) for each in shown.made]
    assert len(previews) > len(inputs)
    assert max(each.std() for each in previews) > 0
    return taken


def test_the_host_never_waits_for_the_device(made: Made, cuda: PretendCuda) -> None:
    """In steps, for prompts, masks and previews, and to read finished pictures."""
    taken = everything(made, cuda)
    assert [each.summary() for each in taken if each.host_waits] == []
    copies = {key for each in taken for key in each.copies}
    assert copies == {("h2d", "pinned", "async"), ("d2h", "pinned", "async")}


def test_a_step_copies_a_few_numbers(sd: Made, cuda: PretendCuda) -> None:
    definition, model = sd.loaded("cuda:0")
    taken, _ = draw(cuda, model, sd.asks(definition, 4), bucket=8)
    step = middle(taken, STEPS - 2)
    assert step.copied("d2h") == (0, 0)
    assert step.copied("h2d")[1] <= 256 * 4


def test_a_step_launches_about_as_much_as_diffusers(made: Made, cuda: PretendCuda) -> None:
    diffusers = pytest.importorskip("diffusers")
    definition, model = made.loaded("cuda:0")
    own, _ = draw(cuda, model, made.asks(definition, 1))
    del model
    theirs: list[Taken] = []

    def note(*_: Any) -> dict[str, Any]:
        theirs.append(cuda.taken())
        return {}

    pipe = diffusers.DiffusionPipeline.from_pretrained(made.folder, torch_dtype=made.half)
    pipe.to("cuda:0").set_progress_bar_config(disable=True)
    sides = {"width": SIDE, "height": SIDE}
    pipe("a fox", num_inference_steps=STEPS, callback_on_step_end=note, **sides)
    assert middle(own).launches <= 1.08 * middle(theirs).launches


def test_a_model_leaves_the_device_and_comes_back(sd: Made, cuda: PretendCuda) -> None:
    definition, model = sd.loaded("cuda:0", "--dtype", "float32")
    before = pixels(draw(cuda, model, sd.asks(definition, 1))[1])
    model.offload()
    modules = model.parts.modules.items()
    assert not [name for name, part in modules for value in part.parameters() if value.is_cuda]
    model.onload()
    assert furthest(before, pixels(draw(cuda, model, sd.asks(definition, 1))[1])) <= 1


def test_a_model_of_the_second_gpu_has_no_context_on_the_first(sd: Made, cuda: PretendCuda) -> None:
    definition, model = sd.loaded("cuda:1")
    draw(cuda, model, sd.asks(definition, 1))
    assert 0 not in cuda.contexts, cuda.contexts


def test_models_that_do_not_fit_together_take_turns(
    sd: Made, cuda: PretendCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a setting, their budget is a share of the memory that other processes leave."""
    size = sd.loaded("cuda:0")[1].memory_bytes
    free = torch.cuda.mem_get_info()[0]
    files = [cases.add(sd.folder, tmp_path, f"test/{name}", "--no-compile") for name in "ab"]
    definitions = [definition for file in files for definition in load_models(str(file))]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for share, there in ((2.5, 2), (1.5, 1)):
            monkeypatch.setattr(worker_device, "_BUDGET", share * size / free)
            clock = SystemClock()
            load = Load([str(file) for file in files], "cuda:0")
            device = Device(definitions, load, Pipe(theirs, clock), clock)
            device.start()
            assert len(device.residents) == there
            device.bring("test/b", ())
            assert "test/b" in device.residents
            assert len(device.residents) == there


# Errors of the device


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_a_broken_device_ends_the_loop_and_fails_no_sample(
    sd: Made, cuda: PretendCuda, stage: str
) -> None:
    definition, model = sd.loaded("cuda:0")
    real: Callable[..., Any] = getattr(model, stage)

    def breaks(*args: Any) -> Any:
        cuda.broken = cuda.broken or torch.AcceleratorError(ILLEGAL)
        return real(*args)

    setattr(model, stage, breaks)
    results: dict[str, Any] = {}
    try:
        with pytest.raises(DeviceBroken, match="illegal memory access"):
            draw(cuda, model, sd.asks(definition, 4), bucket=8, into=results)
    finally:
        cuda.broken = None
    assert not results


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
    ids=["allocator", "cublas", "cudnn"],
)
def test_a_lack_of_memory_costs_no_picture(
    sd: Made,
    cuda: PretendCuda,
    stage: str,
    error: RuntimeError,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    definition, model = sd.loaded("cuda:0", "--dtype", "float32")
    before = pixels(draw(cuda, model, sd.asks(definition, 4), bucket=8)[1])
    owner, name = {
        "encode": (model.parts, "ids"),
        "denoise": (model.family, "predict"),
        "decode": (model.autoencoder, "_decoded"),
    }[stage]
    lacks = getattr(owner, name)
    calls = 0

    def once(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise error
        return lacks(*args, **kwargs)

    monkeypatch.setattr(owner, name, once)
    assert furthest(before, pixels(draw(cuda, model, sd.asks(definition, 4), bucket=8)[1])) <= 1
    assert calls > 3


def test_what_a_broken_device_has_caused_means_the_same() -> None:
    error = InvalidModel("unet/ cannot be read")
    error.__cause__ = torch.AcceleratorError(ILLEGAL)
    with pytest.raises(DeviceBroken):
        check_device(error)


@pytest.mark.parametrize(
    "text",
    ["CUDA error: invalid configuration argument", "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when"],
)
def test_errors_that_one_input_causes_leave_the_device_usable(text: str) -> None:
    check_device(RuntimeError(text))


def test_other_errors_of_torch_mean_nothing_for_the_device() -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert device_error(error) is error


# The pretence itself


def test_devices_do_not_mix(cuda: PretendCuda) -> None:
    x = torch.ones(2, device="cuda:0")
    with pytest.raises(RuntimeError, match="same device"):
        x + torch.ones(2)
    assert (x + torch.tensor(1.0)).device == torch.device("cuda:0")
    with pytest.raises(TypeError, match="numpy"):
        x.numpy()
    assert x.cpu().numpy().tolist() == [1.0, 1.0]


def test_an_asynchronous_copy_arrives_with_its_event(cuda: PretendCuda) -> None:
    host = torch.empty(4, pin_memory=True)
    host.copy_(torch.ones(4, device="cuda:0"), non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    assert host.tolist() != [1.0] * 4
    event.synchronize()
    assert host.tolist() == [1.0] * 4


def test_host_memory_that_changes_under_a_copy_is_a_fault(cuda: PretendCuda) -> None:
    host = torch.zeros(4).pin_memory()
    host.to("cuda:0", non_blocking=True)
    host.fill_(1.0)
    torch.cuda.synchronize()
    assert "changed while" in cuda.taken().faults[0]


def test_waits_of_the_host_are_counted(cuda: PretendCuda) -> None:
    x = torch.ones(4, device="cuda:0")
    cuda.taken()
    x.sum().item()
    x[x > 0]
    x.nonzero()
    x.to("cpu")
    torch.ones(4).to("cuda:0")
    assert cuda.taken().host_waits == 5
