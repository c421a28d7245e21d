"""`swell models add` and `swell models remove`: models of diffusers, served without code."""

import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Final

import typer
import uvloop

from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import print_json, talk
from swell.config import Settings
from swell.families.adapters import Adapter
from swell.families.description import contents, definition_of, describe
from swell.families.entries import Entry, Extra, path_of, remove, write
from swell.families.placement import CHOICES
from swell.families.read_me import README
from swell.families.recognise import OTHER, UNUSED, is_vqgan_clip, read_json, weight_files
from swell.families.schedulers import FEW_STEPS, SAMPLERS
from swell.media import LoRA
from swell.model import InvalidModel
from swell.weights import Listing, WeightCache
from swell.weights.lora import check_lora
from swell.weights.pull import HUB, Hub, pull

__all__ = ["add_model", "hub_of", "pull_model", "remove_model"]

_HUB: Final = re.compile(r"hf:(?://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<branch>[^/@]+))?")

#: What a part of a model is made of, in one precision of those that it may be there in.
_FILES: Final = (
    "*.json",
    "*.txt",
    "*.model",
    *(
        f"{name}{end}"
        for name in ("model", "diffusion_pytorch_model")
        for end in (".safetensors", "-0*.safetensors")
    ),
)


def add_model(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder as diffusers saves it, or hf:OWNER/REPO[@BRANCH]."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="What it is called here.")
    ] = None,
    lora: Annotated[
        list[str],
        typer.Option(metavar="FILE[:SCALE]", help="A LoRA that is always on; may be repeated."),
    ] = [],
    steps: Annotated[int | None, typer.Option(min=1, max=150, help="The default.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0.0, max=30.0, help="The default.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help=f"Instead of its own: {', '.join(SAMPLERS)}.")
    ] = None,
    few_step: Annotated[
        str | None,
        typer.Option("--few-step", help=f"Distilled to few steps: {', '.join(FEW_STEPS)}."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="auto, float32, float16 or bfloat16; auto has 16 bits on a GPU."),
    ] = "auto",
    quantize: Annotated[
        str | None, typer.Option(help="fp8, on a GPU that computes with it.")
    ] = None,
    offload: Annotated[
        str,
        typer.Option(
            help=f"What is in the host's memory where a GPU has too little: {', '.join(CHOICES)}."
        ),
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile its blocks on a GPU.")
    ] = True,
    controlnet: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A control net, as diffusers saves it.")
    ] = None,
    ip_adapter: Annotated[
        Path | None,
        typer.Option(
            "--ip-adapter",
            metavar="FILE",
            help="An IP-Adapter, with image_encoder/ beside it or one folder up.",
        ),
    ] = None,
    portraits: Annotated[
        bool,
        typer.Option("--portraits", help="Make portraits of a face; needs --ip-adapter."),
    ] = False,
    scenarios: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Scenarios of the portraits, instead of Swell's own."),
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Serve a model of diffusers from its weights, without code.

    It is served by the next `swell up` or `swell worker` with the same data folder.
    """
    settings = settings_from(config, data).settings
    folder, origin = _folder(source, settings)
    entry = Entry(
        name=(name or _named(source)).lower(),
        folder=str(folder),
        source=origin,
        sampler=sampler or "",
        few_step=few_step or "",
        steps=steps,
        guidance=guidance,
        dtype=dtype,
        quantize=quantize or "",
        offload=offload,
        compile=compiled,
        loras=[_lora(each) for each in lora],
        controlnet=_existing(controlnet, "control net"),
        ip_adapter=_existing(ip_adapter, "IP-Adapter"),
        portraits=portraits,
        scenarios=_existing(scenarios, "file of scenarios"),
    )
    _save(settings, entry, as_json)


def _save(settings: Settings, entry: Entry, as_json: bool) -> None:
    folder = Path(entry.folder)
    is_search = is_vqgan_clip(folder)
    described = None if is_search else describe(entry)
    facts = None if described is None else described.facts
    with talk.status("its files are read, for the version"):
        whole = _with_contents(entry, None if described is None else described.adapter)
    path = path_of(settings.data_dir.resolve(), entry.name)
    write(path, whole)
    definition = definition_of(path)
    told = {
        "model": entry.name,
        "version": definition.version(),
        "family": "vqgan-clip" if facts is None else facts.family.name,
        "in_steps": definition.step_rows > 0,
        "file": str(path),
    }
    if as_json:
        print_json(told)
        return
    talk.print(f"{entry.name} {told['version']} is a {told['family']} model: {path}", markup=False)
    if facts is not None and facts.family is OTHER:
        talk.print(
            "it is drawn by diffusers' own loop, one picture after another; tasks share steps "
            f"with --sampler, if its family allows: {', '.join(SAMPLERS)}",
            markup=False,
        )
    talk.print("the weights' licence is their makers': read it before you serve them")
    talk.print(f"look at it: swell models check {path}", markup=False)


def _with_contents(entry: Entry, adapter: Adapter | None) -> Entry:
    folder = Path(entry.folder)
    told = {name: getattr(entry, name) for name in entry.__struct_fields__}
    weights = contents(folder, weight_files(folder))
    encoder = "" if adapter is None else str(adapter.encoder)
    for extra in (entry.controlnet, entry.ip_adapter, encoder):
        path = Path(extra)
        if extra and path.parent != folder:
            names = weight_files(path) if path.is_dir() else [path.name]
            inside = contents(path if path.is_dir() else path.parent, names)
            weights |= {str(path / each if path.is_dir() else path): inside[each] for each in names}
    return Entry(**told | {"weights": weights})


def remove_model(
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="As it was added.")],
    data: Data = None,
    config: Config = None,
) -> None:
    """Serve an added model no more; its weights stay where they are, those of a hub are removed."""
    settings = settings_from(config, data).settings
    remove(settings.data_dir, name)
    shutil.rmtree(_pulled(settings, name), ignore_errors=True)
    talk.print(f"{name} is not served from the next start on", markup=False)


# --- where weights come from ---------------------------------------------------------------------


def hub_of(settings: Settings) -> Hub:
    """Return the hub that `hf:` means."""
    token = settings.worker.hub_token.get_secret_value()
    return Hub(settings.worker.hub_url.rstrip("/") or HUB.endpoint, token or None)


def _folder(source: str, settings: Settings) -> tuple[Path, str]:
    """Return where the weights are, and what people are told of where they came from."""
    found = _HUB.fullmatch(source)
    if found is None:
        folder = Path(source).expanduser().resolve()
        if not folder.is_dir():
            raise InvalidModel(f"there is no folder {source!r}: give one, or hf:OWNER/REPO")
        return folder, ""
    reference = f"hf://{found['name']}@{found['branch'] or 'main'}"
    with talk.status(f"{reference} is fetched"):
        folder, listing = uvloop.run(
            pull_model(reference, _pulled(settings, _named(source)), settings)
        )
    return folder, f"hf://{listing.model}@{listing.version}"


async def pull_model(reference: str, folder: Path, settings: Settings) -> tuple[Path, Listing]:
    """Fetch what a model is made of, and no more of its repository, into a folder of its own.

    Raises:
        InvalidModel: The repository is none of a model of diffusers.
        PullFailed, RefusedFormat, CacheFull: As `swell.weights.pull.pull`.
    """
    hub = hub_of(settings)
    cache = WeightCache(
        settings.worker.cache_dir or settings.data_dir / "weights", settings.worker.cache_bytes
    )
    first = await pull(reference, cache, include=["model_index.json"], hub=hub)
    _unfold(cache, first, folder)
    index = read_json(folder, "model_index.json")
    parts = [part for part, told in index.items() if isinstance(told, list) and told[0]]
    include = [f"{part}/{each}" for part in parts if part not in UNUSED for each in _FILES]
    include += ["model_index.json", README]
    listing = await pull(reference, cache, include=include, hub=hub)
    _unfold(cache, listing, folder)
    bare = [part for part in parts if part not in UNUSED and _has_no_weights(folder / part)]
    if bare:
        # Those are there in half precision alone, or have names of their own.
        include += [f"{part}/*.safetensors" for part in bare]
        listing = await pull(reference, cache, include=include, hub=hub)
        _unfold(cache, listing, folder)
    return folder, listing


def _has_no_weights(part: Path) -> bool:
    return (part / "config.json").is_file() and not any(part.glob("*.safetensors"))


def _unfold(cache: WeightCache, listing: Listing, folder: Path) -> None:
    """Give files their names, in a folder that no eviction touches."""
    with cache.use(listing) as held:
        for name, path in held.paths.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(path, target)
            except OSError:  # another disk
                shutil.copyfile(path, target)


def _pulled(settings: Settings, name: str) -> Path:
    return settings.data_dir.resolve() / "models" / name.lower().replace("/", "--")


def _named(source: str) -> str:
    found = _HUB.fullmatch(source)
    if found is not None:
        return found["name"]
    plain = re.sub(r"[^a-z0-9_.-]+", "-", Path(source).expanduser().resolve().name.lower())
    return f"local/{plain.strip('._-') or 'model'}"


def _lora(told: str) -> Extra:
    name, _, scale = told.rpartition(":")
    try:
        file, number = (name, float(scale)) if name else (told, 1.0)
    except ValueError:
        file, number = told, 1.0
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise InvalidModel(f"there is no LoRA {file!r}: give a .safetensors file")
    check_lora(path, path.name)
    return Extra(str(path), number, LoRA(path).digest)


def _existing(path: Path | None, what: str) -> str:
    if path is None:
        return ""
    found = path.expanduser().resolve()
    if not found.exists():
        raise InvalidModel(f"there is no {what} at {str(path)!r}")
    return str(found)
