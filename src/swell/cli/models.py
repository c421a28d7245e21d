"""`swell models`: lists, shows, checks and pulls models, and groups the other commands."""

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
import uvloop
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from swell.bootstrap.environments import model_home
from swell.cli.added import ref_of
from swell.cli.adding import add_model, remove_model
from swell.cli.adoption import roll_out
from swell.cli.checking import Terms, check
from swell.cli.comparing import compare_models
from swell.cli.fetching import cache_of, hub_of
from swell.cli.inputs import as_flags
from swell.cli.options import Config, Data, Json, settings_from
from swell.cli.output import CommandFailed, group, print_json, seconds, table, talk
from swell.cli.output import data as stdout
from swell.cli.pushing import push_weights
from swell.cli.remote import Server, asks_server
from swell.cli.translations import bring_translations
from swell.cli.trying import try_model
from swell.cli.voting import votes
from swell.core.clock import SystemClock
from swell.core.telemetry import printable
from swell.diffusion.families.model_definition import Taken, keep
from swell.settings.environment import configure_libraries
from swell.weights.download import Progress, pull

#: Most choices of an input that are shown; the web page of a model shows all.
_MOST_CHOICES = 6

#: Longest default that is shown, in characters.
_LONG_DEFAULT = 30

app = group("Serve, check, compare and roll out models, and manage their weights.")
app.command("add")(add_model)
app.command("remove")(remove_model)
app.command("push")(push_weights)
app.command("try")(try_model)
app.command("compare")(compare_models)
app.command("votes")(votes)
app.command("rollout")(roll_out)


@app.command("ls")
@asks_server
def list_models(server: Server) -> None:
    """List the models on the server."""
    found = server.call(lambda remote: remote.get("/v1/models"))["models"]
    if server.as_json:
        print_json(found)
        return
    rows = [
        (
            m["name"],
            m["version"],
            m["stage"],
            m["workers"],
            seconds((m["service_s"] or {}).get("median")),
            _mebibytes(m.get("memory_bytes")),
            _first_line(m.get("licence")),
        )
        for m in found
    ]
    table(
        ("MODEL", "VERSION", "STAGE", "WORKERS", "TIME", "MEMORY", "LICENCE"),
        rows,
        empty="no models: start a worker",
    )


@app.command("show")
@asks_server
def show_model(server: Server, model: Annotated[str, typer.Argument(help="owner/name.")]) -> None:
    """Show a model: description, licence, memory, speed, inputs and an example."""
    card = server.call(lambda remote: remote.get(f"/v1/models/{model}"))
    if server.as_json:
        print_json(card)
        return
    stdout.print(f"[bold]{escape(card['name'])}[/] {card['version']} ({card['stage']})")
    if card["description"]:
        stdout.print(f"\n{_printable_lines(card['description'])}\n", markup=False)
    table(("FACT", ""), _facts(card), empty="")
    if card.get("credits"):
        stdout.print(f"\n{_printable_lines(card['credits'])}", markup=False)
    stdout.print()
    required = card["input_schema"].get("required", [])
    rows = [
        (
            name,
            _type(prop),
            "required" if name in required else _default(prop),
            prop.get("description", ""),
        )
        for name, prop in card["input_schema"].get("properties", {}).items()
    ]
    table(("INPUT", "TYPE", "DEFAULT", ""), rows, empty="no inputs")
    for example in card["examples"][:3]:
        flags = printable(as_flags(example))
        talk.print(f"Try it: swell tasks submit {card['name']} {flags} --watch", markup=False)


@app.command("check")
def check_models(
    file: Annotated[str, typer.Argument(help="FILE.py, a module, or a built-in or added model.")],
    limit_s: Annotated[
        float, typer.Option("--limit-s", min=0.1, help="Time limit for each model, in seconds.")
    ] = 600,
    probe_s: Annotated[
        float,
        typer.Option(
            "--probe-s",
            min=0,
            help="Part of it for the hints, in seconds; 0 for none.",
        ),
    ] = 60,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Load each model of a file in a separate process, run its example, and report problems.

    It reports times, peak memory and errors with their traceback. A model that batches also runs a
    batch of two. For the hints it runs a few more times with other seeds and inputs.
    """
    settings = settings_from(config, data).settings
    ref = ref_of(file, settings)
    configure_libraries()
    home = model_home(settings, [ref], lambda line: talk.print(line, markup=False))

    def show(name: str | None, doing: str) -> None:
        talk.print(f"{name or file}: {doing}", markup=False)

    with talk.status(f"checking {escape(file)}"):
        terms = Terms(settings.worker.device, limit_s, probe_s, home)
        reports = check(ref, terms, SystemClock(), show)
    for report in reports:
        _keep(ref, report)
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _tell(report)
    bad = [report["model"] for report in reports if report["error"]]
    if bad:
        raise CommandFailed(f"{', '.join(bad)} failed the check")


@app.command("pull")
def pull_weights(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="weights.toml, a folder or file, https://…#sha256=…, hf://owner/name@branch; "
            "with --argos FILE.argosmodel, a folder of such files, or a mirror's URL.",
        ),
    ],
    include: Annotated[
        list[str],
        typer.Option(
            "--include",
            metavar="PATTERN",
            help="Only matching files, or with --argos this language; may be repeated.",
        ),
    ] = [],
    argos: Annotated[
        bool,
        typer.Option(
            "--argos", help="Unpack translation packages of Argos Translate for swell/translate."
        ),
    ] = False,
    as_json: Json = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Download weights into the cache of this machine, and verify their digests.

    Files in the cache are not downloaded again, and an interrupted pull resumes. Only safetensors,
    ONNX and text files are accepted.

    With --argos the packages go to the folder that Argos Translate reads too
    (ARGOS_PACKAGES_DIR). Translating with them needs `pip install 'swell[argos]'`.
    """
    if argos:
        bring_translations(reference, include, as_json)
        return
    settings = settings_from(config, data).settings
    cache = cache_of(settings)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Bars(*columns, TransferSpeedColumn(), console=talk, transient=True) as bars:
        bar = bars.add_task(reference, total=None)

        def show(now: Progress) -> None:
            bars.update(
                bar,
                description=escape(f"{now.name} ({now.files_done} of {now.files})"),
                completed=now.done_bytes,
                total=now.total_bytes,
            )

        listing = uvloop.run(
            pull(reference, cache, progress=show, include=include, hub=hub_of(settings))
        )
    found = {
        "model": listing.model,
        "version": listing.version,
        "bytes": sum(entry.size_bytes for entry in listing.files.values()),
        "files": {
            name: {
                "sha256": entry.sha256,
                "bytes": entry.size_bytes,
                "path": str(cache.path(entry.sha256)),
            }
            for name, entry in listing.files.items()
        },
    }
    if as_json:
        print_json(found)
        return
    rows = [
        (name, f"{entry.size_bytes:,}", entry.sha256[:12]) for name, entry in listing.files.items()
    ]
    table(("FILE", "BYTES", "SHA-256"), rows, empty="no files")
    talk.print(f"{listing.model} {listing.version}: cached in {cache.folder}", markup=False)


def _facts(card: dict[str, Any]) -> list[tuple[str, str]]:
    """Return licence, memory, speed and samples of a card."""
    facts = [
        ("licence", card.get("licence") or _no_licence(card)),
        ("memory", _mebibytes(card.get("memory_bytes")) or "unknown"),
    ]
    for speed in card.get("speed", []):
        day = f" ({speed['measured_on']})" if speed.get("measured_on") else ""
        facts.append((f"on {speed['device']}", f"{seconds(speed['took_s'])}, {speed['what']}{day}"))
    for here in card.get("measured", []):
        told = f"median {seconds(here['median_s'])} over {here['tasks']} tasks"
        facts.append((f"here, on {here['device']}", told))
    if "page" in card.get("urls", {}):
        facts.append(("page", card["urls"]["page"]))
    for sample in card.get("samples", []):
        facts.append((f"sample: {sample['caption']}", sample.get("text") or sample["url"]))
    return facts


def _no_licence(card: dict[str, Any]) -> str:
    stages = (card.get("pipeline") or {}).get("stages", [])
    if stages:
        names = ", ".join(dict.fromkeys(stage["queue"].partition(":")[0] for stage in stages))
        return f"that of its models: {names}"
    return "not stated: ask the author before you use it"


def _mebibytes(size_bytes: int | None) -> str | None:
    if not size_bytes:
        return None
    return f"{size_bytes / 2**20:,.0f} MiB" if size_bytes >= 2**20 else "less than 1 MiB"


def _printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.expandtabs(4).splitlines())


def _first_line(text: str | None) -> str | None:
    lines = (text or "").splitlines()
    return lines[0] if lines else None


def _keep(ref: str, report: dict[str, Any]) -> None:
    """Save the measurements of an added model for its card."""
    taken = report.pop("kept", None)
    if taken is None:
        return
    try:
        is_news = keep(Path(ref), msgspec.convert(taken, Taken))
    except OSError as error:
        talk.print(f"measurements cannot be saved: {error}", markup=False)
        return
    if is_news:
        talk.print(f"measurements are on the card of {report['model']}", markup=False)


def _tell(report: dict[str, Any]) -> None:
    error = report["error"]
    if error:
        stdout.print(f"[red]✗[/] {report['model']}: {error['stage']} failed")
        stdout.print(f"    {error['detail']}", markup=False)
        return
    memory_mib = report["memory_bytes"] / 2**20
    together = f"batch of two {seconds(report['batch_s'])}, " if "batch_s" in report else ""
    stdout.print(
        f"[green]✓[/] {report['model']} {report['version']}: load {seconds(report['load_s'])}, "
        f"warm up {seconds(report['warmup_s'])}, example {seconds(report['run_s'])}, {together}"
        f"{memory_mib:.0f} MiB peak"
    )
    for hint in report["hints"]:
        stdout.print(f"    [yellow]hint[/] {hint['code']}:", end=" ")
        stdout.print(hint["detail"], markup=False)
    if report.get("not_looked_at"):
        left = ", ".join(report["not_looked_at"])
        stdout.print(
            f"    not tried for lack of time: {left} (allow more with --probe-s)", markup=False
        )


def _default(prop: dict[str, Any]) -> str:
    value = prop.get("default")
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONG_DEFAULT else text[: _LONG_DEFAULT - 1] + "…"


def _type(prop: dict[str, Any]) -> str:
    if "x-file" in prop:
        return str(prop["x-file"])
    if "enum" in prop:
        named = list(map(str, prop["enum"]))
        more = [f"… ({len(named)})"] if len(named) > _MOST_CHOICES else []
        return " | ".join(named[:_MOST_CHOICES] + more)
    choices = [choice for choice in prop.get("anyOf", []) if choice.get("type") != "null"]
    return _type(choices[0]) if choices else str(prop.get("type", "any"))
