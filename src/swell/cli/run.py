"""`swell run`: runs a model in this process, without a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from msgspec import to_builtins
from rich.markup import escape
from rich.progress import Progress

from swell.bootstrap.environments import model_home
from swell.cli.added import ref_of
from swell.cli.beside import run_beside
from swell.cli.inputs import parse_inputs
from swell.cli.local import check_input, load_model, run_local, save_files
from swell.cli.options import Config, Data, Inputs, Json, Prompt, settings_from
from swell.cli.output import data as stdout
from swell.cli.output import print_json, seconds, talk
from swell.cli.pictures import slug
from swell.cli.redirect import stdout_for_data
from swell.cli.telling import warning_text
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidRequest, NotFound, SwellError
from swell.runtime.local_run import InputRejected, LocalResult, RunFailed, author_traceback
from swell.runtime.venvs import Home
from swell.sdk.define import Definition
from swell.sdk.model_loader import load_models
from swell.settings.environment import configure_libraries
from swell.settings.worker_settings import WorkerSettings


def one_model(ref: str) -> Definition:
    """Return the model that a reference names.

    Raises:
        InvalidRequest: The reference names several models.
        NotFound: The model does not exist here.
    """
    try:
        found = load_models(ref)
    except NotFound as error:
        raise NotFound(
            f"{error.detail}; for a model on a server: `swell tasks submit {ref[:80]}`"
        ) from None
    if len(found) > 1:
        names = ", ".join(definition.name for definition in found)
        raise InvalidRequest(f"{ref} contains several models ({names}): add :NAME of one of them")
    return found[0]


def run_model(
    model: Annotated[
        str,
        typer.Argument(
            help="A built-in or added model, FILE.py, FILE.py:NAME or package.module:NAME."
        ),
    ],
    prompt: Prompt = None,
    inputs: Inputs = [],
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**53 - 1, help="Seed; the same seed gives the same result."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("pictures"),
    device: Annotated[str | None, typer.Option(help="Device, such as cpu or cuda:0.")] = None,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Run a model in this process, without a server, and save its files."""
    clock = SystemClock()
    settings = settings_from(config, data, worker__device=device).settings
    configure_libraries()
    with stdout_for_data():
        ref = ref_of(model, settings)
        home = model_home(settings, [ref], lambda line: talk.print(line, markup=False))
        run = _beside if home.is_own else _here
        with Progress(console=talk, transient=True, disable=not talk.is_terminal) as progress:
            asked = _Asked(ref, prompt, inputs, seed, settings.worker, home, clock)
            try:
                ran = run(asked, progress)
            except SwellError as error:
                if isinstance(error, RunFailed) and not isinstance(error, InputRejected):
                    _show_traceback(error)
                raise
            except Exception as error:  # a model's code may raise anything
                progress.stop()
                talk.print(author_traceback(error), end="", markup=False)
                kind = type(error).__name__
                raise RunFailed(f"{ref} failed: {kind}: {error}") from error
        texts = [value for value in ran.values.values() if isinstance(value, str)]
        stem = slug(texts[0] if texts else ran.name.rpartition("/")[2])
        output, paths = save_files(ran.result, stem, out)
    result = ran.result
    talk.print(
        " · ".join(f"{word} {seconds(took_s)}" for word, took_s in ran.timings.items())
        + f" · run {seconds(result.run_s)} · seed {result.seed}"
    )
    for warning in result.warnings:
        text = warning_text(warning.message, warning.suggestions)
        talk.print(f"[yellow]warning[/]: {escape(text)}", soft_wrap=True)
    if as_json:
        print_json(
            {
                "model": ran.name,
                "version": ran.version,
                "output": output,
                "files": [str(path) for path in paths],
                "seed": result.seed,
                "timings": {
                    **{f"{word.replace(' ', '')}_s": each for word, each in ran.timings.items()},
                    "run_s": result.run_s,
                },
                "warnings": to_builtins(result.warnings),
            }
        )
    elif paths:
        for path in paths:
            stdout.print(str(path))
    elif isinstance(output, str):
        stdout.print(output, markup=False)
    else:
        print_json(output)


def _show_traceback(error: RunFailed) -> None:
    cause = error.__cause__
    if cause is not None and not isinstance(cause, SwellError):
        talk.print(author_traceback(cause), end="", markup=False)
    for note in getattr(error, "__notes__", ()):
        talk.print(note, end="", markup=False)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Options of the command."""

    ref: str
    prompt: str | None
    inputs: list[str]
    seed: int | None
    settings: WorkerSettings
    home: Home
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Ran:
    """Result of a run."""

    name: str
    version: str
    values: Mapping[str, Any]
    result: LocalResult
    #: Seconds by step before the run.
    timings: Mapping[str, float]


def _here(asked: _Asked, progress: Progress) -> _Ran:
    definition = one_model(asked.ref)
    version = definition.version()
    checked = check_input(
        definition, parse_inputs(asked.inputs, definition.input_schema, asked.prompt)
    )
    bar = progress.add_task(f"{definition.name} loads", total=None)
    loaded = load_model(definition, asked.settings.device, asked.clock)
    progress.update(bar, description=f"{definition.name} runs")
    result = run_local(
        loaded,
        checked,
        asked.clock,
        seed=asked.seed,
        tell=lambda done, total: progress.update(bar, completed=done, total=total),
    )
    timings = {"load": loaded.load_s, "warm up": loaded.warmup_s}
    return _Ran(definition.name, version, checked.model_dump(), result, timings)


def _beside(asked: _Asked, progress: Progress) -> _Ran:
    """Run the model in a process of its separate environment."""
    bar = progress.add_task(f"{asked.ref} loads", total=None)
    ran = uvloop.run(
        run_beside(
            asked.ref,
            asked.home,
            asked.settings,
            asked.clock,
            read=lambda card: parse_inputs(asked.inputs, card.input_schema, asked.prompt),
            seed=asked.seed,
            tell=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    )
    return _Ran(ran.card.name, ran.card.version, ran.values, ran.result, {"load": ran.load_s})
