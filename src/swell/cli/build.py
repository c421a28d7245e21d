"""`swell build`: builds a worker's image, with models but without their weights."""

import contextlib
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from swell.cli.added import ref_of
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import data as stdout
from swell.cli.output import print_json, talk
from swell.containers.engines import ENGINES, Engine, check_registry, find
from swell.core.errors import InvalidRequest
from swell.settings.environment import configure_libraries, process_environment

if TYPE_CHECKING:
    from swell.containers.packing import Packed


def build(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="A built-in or added model, FILE.py, FILE.py:NAME or package.module:NAME.",
        ),
    ],
    tag: Annotated[
        str | None,
        typer.Option("--tag", "-t", help="Name of the image; default from its first model."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ENGINES), help="Build engine; default the first that is installed."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="Base image; default the slim image of Python."),
    ] = None,
    cuda: Annotated[
        bool, typer.Option("--cuda", help="For NVIDIA GPUs: torch with CUDA, device cuda:0.")
    ] = False,
    torch_index: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Package index of torch, such as …/whl/cu128."),
    ] = None,
    bake: Annotated[bool, typer.Option("--bake", help="Put the weights into the image.")] = False,
    include: Annotated[
        list[Path],
        typer.Option(
            metavar="PATH",
            help="File or folder to add to the models' code; may be repeated.",
        ),
    ] = [],
    extra: Annotated[
        list[str],
        typer.Option(
            metavar="NAME", help="Extra of Swell, such as telemetry or nats; may be repeated."
        ),
    ] = [],
    constraints: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Constraints file for pip instead of the versions installed here."
        ),
    ] = None,
    option: Annotated[
        list[str],
        typer.Option(metavar="OPTION", help="Option passed to the engine, such as --network=host."),
    ] = [],
    context: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write the Dockerfile and its context to this folder, and build nothing.",
        ),
    ] = None,
    push: Annotated[
        bool, typer.Option("--push", help="Push the image to the registry of its tag.")
    ] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Build a container image of a worker with these models, without their weights.

    To run, it needs a URL and a key: SWELL_WORKER__URL and SWELL_WORKER__TOKEN. It contains only
    Swell, packages with the versions installed here, the models' code and the files they declare.
    """
    if push:
        _check_pushed(tag)
    settings = settings_from(config, data).settings
    configure_libraries()
    # Find modules in the current folder, as a model process does.
    sys.path.insert(0, str(Path.cwd()))
    builder = None if context else find(engine, process_environment())
    # Imported here because `swell --help` does not need them.
    from swell.bootstrap.environments import model_home  # noqa: PLC0415
    from swell.containers.building import Wanted, contents_of, tag_of  # noqa: PLC0415

    refs = [ref_of(model, settings) for model in models]
    packed = contents_of(
        Wanted(
            refs,
            model_home(settings, refs, _say),
            base=base or "",
            is_cuda=cuda,
            torch_index=torch_index or "",
            extras=extra,
            include=include,
            constraints=constraints,
            is_baked=bake,
            cache_dir=settings.worker.cache_dir or settings.data_dir / "weights",
        )
    )
    for note in packed.notes:
        talk.print(f"[yellow]note[/] {escape(note)}")
    if context is not None:
        _write_out(packed, context)
    elif builder is not None:
        name = tag or tag_of(packed)
        size_bytes = _built(builder, packed, name, option, push=push)
        _tell(name, size_bytes, packed, as_json=as_json)


def _built(
    builder: Engine, packed: "Packed", name: str, options: Sequence[str], *, push: bool
) -> int:
    """Build the image, and push it if that was asked for; return its size in bytes."""
    from swell.containers.context import write_context  # noqa: PLC0415
    from swell.containers.indexes import index_of  # noqa: PLC0415

    with _tidied(), tempfile.TemporaryDirectory(prefix="swell-build-") as folder:
        place, secrets = Path(folder, "context"), Path(folder, "secrets")
        place.mkdir()
        secrets.mkdir(mode=0o700)
        write_context(place, packed)
        index = index_of(process_environment())
        built = builder.build(place, name, index, secrets, options=options, tell=_say)
        if push:
            builder.push(name, _say)
    return built


def _check_pushed(tag: str | None) -> None:
    if tag is None:
        raise InvalidRequest("--push needs a registry: name it with --tag, registry.example/poster")
    check_registry(tag)


@contextlib.contextmanager
def _tidied() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `SystemExit`, so that temporary files are removed."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    talk.print(line, markup=False)


def _write_out(packed: "Packed", context: Path) -> None:
    from swell.containers.context import write_context  # noqa: PLC0415

    if context.exists() and any(context.iterdir()):
        raise InvalidRequest(f"{context} is not empty: name a new folder with --context")
    context.mkdir(parents=True, exist_ok=True)
    write_context(context, packed)
    _say(f"written; build it with: docker build -t TAG {context}")


def _tell(tag: str, size_bytes: int, packed: "Packed", *, as_json: bool) -> None:
    weights = packed.weight_bytes
    if as_json:
        told: dict[str, Any] = {
            "tag": tag,
            "bytes": size_bytes,
            "models": packed.versions,
            "files": sorted(map(str, packed.files)),
            "weights_bytes": weights,
            "is_baked": packed.is_baked,
        }
        print_json(told)
        return
    apart = "" if packed.is_baked or not weights else f"; {weights / 1e6:,.1f} MB of weights apart"
    stdout.print(f"{tag}: {size_bytes / 1e6:,.1f} MB{apart}", markup=False)
