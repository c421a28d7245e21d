"""`swell models`: what is served, and whether a model file is good."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from swell.cli.checking import check
from swell.cli.options import Config, Data, Json, Key, Url, settings_from
from swell.cli.output import CommandFailed, group, print_json, seconds, table, talk
from swell.cli.output import data as stdout
from swell.cli.remote import call
from swell.cli.tasks import client_settings
from swell.clock import SystemClock

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
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=0.1, help="Seconds that each model may take in all.")
    ] = 600,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Load each of a file's models in a process of its own, and run its example.

    Where it batches, also as a batch of two. Tells time and peak memory, and what is wrong.
    """
    settings = settings_from(config, data).settings
    with talk.status(f"{file} is checked"):
        reports = check(file, settings.worker.device, limit_s, SystemClock())
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _tell(report)
    bad = [report["model"] for report in reports if report["error"]]
    if bad:
        raise CommandFailed(f"{', '.join(bad)} cannot be served like this")


def _tell(report: dict[str, Any]) -> None:
    error = report["error"]
    if error:
        stdout.print(f"[red]✗[/] {report['model']}: {error['stage']} failed")
        stdout.print(f"    {error['detail']}", markup=False)
        return
    memory_mib = report["memory_bytes"] / 2**20
    together = f"two together {seconds(report['batch_s'])}, " if "batch_s" in report else ""
    stdout.print(
        f"[green]✓[/] {report['model']} {report['version']}: load {seconds(report['load_s'])}, "
        f"warm up {seconds(report['warmup_s'])}, example {seconds(report['run_s'])}, {together}"
        f"{memory_mib:.0f} MiB at most"
    )


def _type(prop: dict[str, Any]) -> str:
    if "x-file" in prop:
        return str(prop["x-file"])
    if "enum" in prop:
        return " | ".join(map(str, prop["enum"]))
    choices = [choice for choice in prop.get("anyOf", []) if choice.get("type") != "null"]
    return _type(choices[0]) if choices else str(prop.get("type", "any"))
