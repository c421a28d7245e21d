"""`swell run`: a model in this process, without a server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from swell.cli.inputs import parse_inputs
from swell.cli.local import check_input, load_model, run_local, save_files
from swell.cli.options import Config, Data, Inputs, Json, settings_from
from swell.cli.output import data as stdout
from swell.cli.output import print_json, seconds, talk
from swell.cli.pictures import slug
from swell.cli.redirect import stdout_for_data
from swell.clock import SystemClock
from swell.errors import InvalidRequest
from swell.model import Definition, load_models

__all__ = ["one_model", "run_model"]


def one_model(ref: str) -> Definition:
    """Return the one model that a reference names.

    Raises:
        InvalidRequest: It names several.
    """
    found = load_models(ref)
    if len(found) > 1:
        names = ", ".join(definition.name for definition in found)
        raise InvalidRequest(f"{ref} holds several models ({names}): add :NAME of one of them")
    return found[0]


def run_model(
    model: Annotated[
        str, typer.Argument(help="A built-in model, FILE.py, FILE.py:name or package.module:name.")
    ],
    inputs: Inputs = [],
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**53 - 1, help="For the same result again.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("pictures"),
    device: Annotated[str | None, typer.Option(help="Such as cpu or cuda:0.")] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Run a model here, without a server, and save what it makes."""
    clock = SystemClock()
    settings = settings_from(config, data, worker__device=device).settings
    with stdout_for_data():
        definition = one_model(model)
        version = definition.version()
        checked = check_input(definition, parse_inputs(inputs, definition.input_schema))
        with Progress(console=talk, transient=True, disable=not talk.is_terminal) as progress:
            bar = progress.add_task(f"{definition.name} loads", total=None)
            loaded = load_model(definition, settings.worker.device, clock)
            progress.update(bar, description=f"{definition.name} runs")
            result = run_local(
                loaded,
                checked,
                clock,
                seed=seed,
                tell=lambda done, total: progress.update(bar, completed=done, total=total),
            )
        texts = [value for value in checked.model_dump().values() if isinstance(value, str)]
        stem = slug(texts[0] if texts else definition.name.rpartition("/")[2])
        output, paths = save_files(result, stem, out)
    talk.print(
        f"load {seconds(loaded.load_s)} · warm up {seconds(loaded.warmup_s)} · "
        f"run {seconds(result.run_s)} · seed {result.seed}"
    )
    if as_json:
        print_json(
            {
                "model": definition.name,
                "version": version,
                "output": output,
                "files": [str(path) for path in paths],
                "seed": result.seed,
                "timings": {
                    "load_s": loaded.load_s,
                    "warmup_s": loaded.warmup_s,
                    "run_s": result.run_s,
                },
            }
        )
    elif paths:
        for path in paths:
            stdout.print(str(path))
    elif isinstance(output, str):
        stdout.print(output, markup=False)
    else:
        print_json(output)
