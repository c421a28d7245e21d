"""`swell models`: what is served, and whether a model file is good."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from swell.cli.local import check_input, load_model, run_local
from swell.cli.options import Config, Data, Json, Key, Url, settings_from
from swell.cli.output import CommandFailed, group, print_json, seconds, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import call
from swell.cli.tasks import client_settings
from swell.clock import Clock, SystemClock
from swell.errors import SwellError
from swell.model import Definition, load_models

__all__ = ["app"]

app = group("Models that are served, and checks of model files.")


@app.command("ls")
def list_models(
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """List the models that the server knows."""
    settings = client_settings(config, data, url, key)
    found = call(settings, lambda remote: remote.get("/v1/models"))["models"]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            m["name"],
            m["version"],
            m["stage"],
            m["workers"],
            seconds((m["service_s"] or {}).get("median")),
        )
        for m in found
    ]
    table(
        ("MODEL", "VERSION", "STAGE", "WORKERS", "TAKES"),
        rows,
        empty="no models: a worker brings them",
    )


@app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="owner/name.")],
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Show a model's card and what it takes."""
    settings = client_settings(config, data, url, key)
    card = call(settings, lambda remote: remote.get(f"/v1/models/{model}"))
    if as_json:
        print_json(card)
        return
    stdout.print(f"[bold]{escape(card['name'])}[/] {card['version']} ({card['stage']})")
    if card["description"]:
        stdout.print(f"\n{card['description']}\n", markup=False)
    required = card["input_schema"].get("required", [])
    rows = [
        (name, _type(prop), "yes" if name in required else "", prop.get("description", ""))
        for name, prop in card["input_schema"].get("properties", {}).items()
    ]
    table(("INPUT", "TYPE", "REQUIRED", ""), rows, empty="it takes no input")
    for example in card["examples"][:1]:
        pairs = " ".join(f"-i {name}={value!r}" for name, value in example.items())
        talk.print(f"try it: swell tasks submit {card['name']} {pairs} --watch", markup=False)


@app.command("check")
def check_models(
    file: Annotated[str, typer.Argument(help="FILE.py, a module, or a built-in model.")],
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Import a file's models, load each, run its example, and tell time and memory."""
    settings = settings_from(config, data).settings
    clock = SystemClock()
    reports = []
    for definition in load_models(file):
        with talk.status(f"{definition.name} is checked"):
            reports.append(_check(definition, settings.worker.device, clock))
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _tell(report)
    bad = [report["model"] for report in reports if report["error"]]
    if bad:
        raise CommandFailed(f"{', '.join(bad)} cannot be served like this")


def _check(definition: Definition, device: str, clock: Clock) -> dict[str, Any]:
    """Load and run one model; what goes wrong is part of the report."""
    report: dict[str, Any] = {"model": definition.name, "version": None, "error": None}
    stage = "version"
    try:
        report["version"] = definition.version()
        stage = "load"
        loaded = load_model(definition, device, clock)
        report |= {"load_s": loaded.load_s, "warmup_s": loaded.warmup_s}
        report["memory_bytes"] = loaded.memory_bytes
        stage = "example"
        report["example"] = dict(definition.examples[0]) if definition.examples else {}
        checked = check_input(definition, report["example"])
        stage = "run"
        result = run_local(loaded, checked, clock, seed=1)
        report |= {"run_s": result.run_s, "output": result.output, "files": len(result.files)}
    except Exception as error:  # whatever an author's code may raise
        report["error"] = {"stage": stage, "detail": _detail(error)}
    return report


def _detail(error: Exception) -> str:
    if isinstance(error, SwellError):
        fields = "; ".join(f"{each['pointer']} {each['detail']}" for each in error.errors)
        return f"{error.detail}{': ' if fields else ''}{fields}"
    return f"{type(error).__name__}: {error}"


def _tell(report: dict[str, Any]) -> None:
    error = report["error"]
    if error:
        stdout.print(f"[red]✗[/] {report['model']}: {error['stage']} failed")
        stdout.print(f"    {error['detail']}", markup=False)
        return
    memory_mib = report["memory_bytes"] / 2**20
    stdout.print(
        f"[green]✓[/] {report['model']} {report['version']}: load {seconds(report['load_s'])}, "
        f"warm up {seconds(report['warmup_s'])}, example {seconds(report['run_s'])}, "
        f"{memory_mib:.0f} MiB"
    )


def _type(prop: dict[str, Any]) -> str:
    if "x-file" in prop:
        return str(prop["x-file"])
    if "enum" in prop:
        return " | ".join(map(str, prop["enum"]))
    choices = [choice for choice in prop.get("anyOf", []) if choice.get("type") != "null"]
    return _type(choices[0]) if choices else str(prop.get("type", "any"))
