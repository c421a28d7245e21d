"""`swell models add` and `swell models remove`: diffusers models, served without code."""

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer
import uvloop

from swell.cli.fetching import forget_weights, incoming, place, pull_model
from swell.cli.options import Config, Data, Json, places, settings_from
from swell.cli.output import print_json, talk
from swell.cli.pruning import bounded, prune_weights
from swell.core.errors import Conflict, InvalidModel, InvalidRequest
from swell.diffusion.families.adapters import Adapter
from swell.diffusion.families.detect_family import is_vqgan_clip, weight_files
from swell.diffusion.families.family import OTHER
from swell.diffusion.families.model_config import (
    Entry,
    Extra,
    InvalidEntry,
    check_name,
    find,
    locked,
    path_of,
    read,
    remove,
    write,
)
from swell.diffusion.families.model_definition import MOST_ROWS, contents, describe, with_loop
from swell.diffusion.families.offload_plan import CHOICES
from swell.diffusion.families.pipeline_folder import check_text
from swell.diffusion.families.schedulers import FEW_STEPS, SAMPLERS
from swell.sdk.define import Definition
from swell.sdk.media import LoRA
from swell.sdk.model_loader import load_models
from swell.settings.load import Settings
from swell.weights.lora import check_lora

_HUB: Final = re.compile(r"hf:(?://)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<branch>[^/@]+))?")


def add_model(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A diffusers folder, or hf:OWNER/REPO[@BRANCH]."),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Name of the model.")
    ] = None,
    lora: Annotated[
        list[str],
        typer.Option(
            metavar="FILE[:SCALE]", help="A LoRA that is always applied; may be repeated."
        ),
    ] = [],
    steps: Annotated[int | None, typer.Option(min=1, max=150, help="The default.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0.0, max=30.0, help="The default.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help=f"Sampler instead of the default: {', '.join(SAMPLERS)}.")
    ] = None,
    few_step: Annotated[
        str | None,
        typer.Option("--few-step", help=f"Kind of distillation: {', '.join(FEW_STEPS)}."),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="auto, float32, float16 or bfloat16; auto is 16 bits on a GPU."),
    ] = "auto",
    quantize: Annotated[str | None, typer.Option(help="fp8, on GPUs that support it.")] = None,
    offload: Annotated[
        str,
        typer.Option(
            help=f"What to keep in host memory if the GPU has too little: {', '.join(CHOICES)}."
        ),
    ] = "auto",
    bucket: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_ROWS,
            help="Batch size of each step in exact mode; more raises throughput and latency.",
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compile the network on a GPU.")
    ] = True,
    controlnet: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A ControlNet folder, as diffusers saves it."),
    ] = None,
    ip_adapter: Annotated[
        Path | None,
        typer.Option(
            "--ip-adapter",
            metavar="FILE",
            help="An IP-Adapter, with image_encoder/ in its folder or one folder up.",
        ),
    ] = None,
    portraits: Annotated[
        bool,
        typer.Option("--portraits", help="Make portraits of a face; needs --ip-adapter."),
    ] = False,
    scenarios: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Scenarios of the portraits, instead of the built-in ones."
        ),
    ] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Serve a diffusers model (SDXL, SD 3.5, FLUX …) from its weights, without code.

    The next `swell up` or `swell worker` with the same data folder serves it.
    """
    settings = settings_from(config, data).settings
    named = (name or _named(source)).lower()
    check_name(named)
    reference = _reference(source)
    entry = Entry(
        name=named,
        folder="" if reference else str(_own_folder(source)),
        asked=reference,
        sampler=sampler or "",
        few_step=few_step or "",
        steps=steps,
        guidance=guidance,
        dtype=dtype,
        quantize=quantize or "",
        offload=offload,
        bucket=bucket,
        compile=compiled,
        loras=[_lora(each) for each in lora],
        controlnet=_existing(controlnet, "control net"),
        ip_adapter=_existing(ip_adapter, "IP-Adapter"),
        portraits=portraits,
        scenarios=_existing(scenarios, "file of scenarios"),
    )
    with locked(settings.data_dir.resolve(), named, _tell):
        _check_free(settings, entry)
        if reference:
            entry = _fetched(settings, entry)
        try:
            _save(settings, entry, as_json, places(config, data))
        except BaseException:
            if reference and find(settings.data_dir, entry.name) is None:
                forget_weights(settings, entry)
            raise


def write_trial(source: str, name: str | None, folder: Path) -> Path:
    """Write an entry for a folder of weights without adding the model, and return its path.

    Args:
        source: The folder, as diffusers saves it.
        name: Name of the model; None to derive it from the folder's name.
        folder: Folder for the entry.

    Raises:
        InvalidModel: The weights cannot be served.
    """
    named = (name or _named(source)).lower()
    check_name(named)
    entry = Entry(name=named, folder=str(_own_folder(source)))
    described = None
    if not is_vqgan_clip(Path(entry.folder)):
        entry = with_loop(entry)
        described = describe(entry)
    whole = _with_contents(entry, None if described is None else described.adapter)
    path = path_of(folder.resolve(), named)
    _written(path, whole)
    return path


def _tell(line: str) -> None:
    talk.print(line, markup=False)


def _check_free(settings: Settings, entry: Entry) -> None:
    """Check that a new model's name is free, or has the same weights and options.

    Raises:
        Conflict: The name has other weights or options.
    """
    path = find(settings.data_dir, entry.name)
    if path is None:
        return
    try:
        is_same = _said(read(path)) == _said(entry)
    except InvalidEntry:
        is_same = False
    if not is_same:
        raise Conflict(
            f"{entry.name} exists with other weights or options: run "
            f"`swell models remove {entry.name}` first, or choose another --name"
        )


def _said(entry: Entry) -> Entry:
    """Return the user's options of an entry, without derived fields."""
    folder = "" if entry.asked else entry.folder
    return msgspec.structs.replace(entry, folder=folder, source="", loop=None, weights={})


def _fetched(settings: Settings, entry: Entry) -> Entry:
    """Download the weights of an entry from a hub into the model's folder."""
    with incoming(settings, entry.name) as fresh:
        with talk.status(f"{entry.asked} is fetched"):
            _, listing = uvloop.run(pull_model(entry.asked, fresh, settings, entry.dtype))
        # Check the model before it replaces the old weights.
        described = msgspec.structs.replace(entry, folder=str(fresh))
        if not is_vqgan_clip(fresh):
            describe(with_loop(described))
        folder = place(settings, entry.name, fresh)
    source = f"hf://{listing.model}@{listing.version}"
    return msgspec.structs.replace(entry, folder=str(folder), source=source)


def _save(settings: Settings, entry: Entry, as_json: bool, found_by: str) -> None:
    folder = Path(entry.folder)
    is_search = is_vqgan_clip(folder)
    if is_search:
        _check_plain(entry)
    else:
        entry = with_loop(entry)
    described = None if is_search else describe(entry)
    facts = None if described is None else described.facts
    with talk.status("reading files for the version"):
        whole = _with_contents(entry, None if described is None else described.adapter)
    path = path_of(settings.data_dir.resolve(), entry.name)
    older = find(settings.data_dir.resolve(), entry.name)
    definition = _written(path, whole)
    if older not in (None, path):
        older.unlink()
    told = {
        "model": entry.name,
        "version": definition.version(),
        "family": "vqgan-clip" if facts is None else facts.family.name,
        "in_steps": definition.facts.step_rows > 0,
        "file": str(path),
    }
    if as_json:
        print_json(told)
        return
    talk.print(f"{entry.name} {told['version']} is a {told['family']} model: {path}", markup=False)
    if facts is not None and facts.family is OTHER:
        talk.print(
            "diffusers' own loop draws one picture after another; tasks share steps with "
            f"--sampler, if its family allows: {', '.join(SAMPLERS)}",
            markup=False,
        )
    talk.print("read the licence of the weights before you serve them")
    talk.print(f"Check it: swell models check {entry.name}{found_by}", markup=False)


def _check_plain(entry: Entry) -> None:
    """Check that a model that takes no options has none.

    Raises:
        InvalidModel: An option is set.
    """
    plain = Entry(name=entry.name, folder=entry.folder, asked=entry.asked)
    said, least = _said(entry), _said(plain)
    more = [name for name in said.__struct_fields__ if getattr(said, name) != getattr(least, name)]
    if more:
        raise InvalidModel(
            f"{', '.join(more)}: a VQGAN and a CLIP take no options but --name, so leave these out"
        )


def _written(path: Path, entry: Entry) -> Definition:
    """Write an entry and load its definition; restore the old file if that fails."""
    before = path.read_bytes() if path.is_file() else None
    write(path, entry)
    try:
        [definition] = load_models(str(path))
        return definition
    except BaseException:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
        raise


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
    name: Annotated[
        str | None, typer.Argument(metavar="[OWNER/NAME]", help="Name of an added model.")
    ] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Delete unused weights from the cache.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --unused: only list what would be deleted.")
    ] = False,
    idle_s: Annotated[
        float,
        typer.Option(
            "--idle-s",
            min=0,
            callback=bounded,
            help="With --unused: seconds without use before a file is deleted.",
        ),
    ] = 3600,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Stop serving an added model, or delete unused weights from the cache.

    Weights in your own folders stay; weights downloaded from a hub are deleted. --unused deletes
    weights that no added model and no `swell models pull` names: the rest of removed and replaced
    models, LoRAs that tasks named by URL, and interrupted pulls.
    """
    settings = settings_from(config, data).settings
    if unused is (name is not None):
        raise InvalidRequest("name a model, or give --unused")
    if name is None:
        prune_weights(settings, idle_s, is_dry_run=dry_run, as_json=as_json)
        return
    name = name.lower()
    if find(settings.data_dir, name) is None:
        remove(settings.data_dir, name)  # raises NotFound
    with locked(settings.data_dir.resolve(), name, _tell):
        path = find(settings.data_dir, name)
        entry = None
        if path is not None:
            with suppress(InvalidEntry):
                entry = read(path)
        remove(settings.data_dir, name)
        others = forget_weights(settings, entry) if entry is not None else []
    talk.print(f"{name} is removed; running workers serve it until they restart", markup=False)
    if others:
        talk.print(f"its weights stay: {', '.join(others)} uses them too", markup=False)


# --- sources of weights --------------------------------------------------------------------------


def _reference(source: str) -> str:
    """Return the reference of a hub's repository; empty for a folder."""
    found = _HUB.fullmatch(source)
    return "" if found is None else f"hf://{found['name']}@{found['branch'] or 'main'}"


def _own_folder(source: str) -> Path:
    folder = Path(source).expanduser().resolve()
    if not folder.is_dir():
        raise InvalidModel(f"there is no folder {source!r}: give one, or hf:OWNER/REPO")
    check_text(str(folder))
    return folder


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
    check_text(str(path))
    check_lora(path, path.name)
    return Extra(str(path), number, LoRA(path).digest)


def _existing(path: Path | None, what: str) -> str:
    if path is None:
        return ""
    found = path.expanduser().resolve()
    if not found.exists():
        raise InvalidModel(f"there is no {what} at {str(path)!r}")
    check_text(str(found))
    return str(found)
