"""`swell models compare`: runs several models on the same prompts, and writes a voting sheet."""

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from swell.cli.inputs import parse_inputs
from swell.cli.options import Inputs
from swell.cli.output import Refused, print_json, talk
from swell.cli.output import data as stdout
from swell.cli.prompts import fitted, read_prompts, text_field, unknown_to
from swell.cli.remote import Remote, Server, asks_server
from swell.core.comparison import MOST_LABEL
from swell.core.errors import InvalidRequest
from swell.server.evals.comparison_sheet import sheet

#: Most rows of a comparison.
_MOST_ROWS: Final = 100

#: Pause between polls of unfinished tasks, in seconds, and number of concurrent requests.
_LOOK_S: Final = 0.3
_AT_ONCE: Final = 16

#: Final states of tasks.
_OVER: Final = frozenset({"succeeded", "failed", "canceled", "expired"})


@dataclass(frozen=True, slots=True)
class _Asked:
    """One row: the same input and seed for all models."""

    values: Mapping[str, Any]
    seed: int


@asks_server
def compare_models(
    server: Server,
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL…", help="Two to four: owner/name, or owner/name:version."),
    ],
    prompts: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="One prompt per line; or inputs as .jsonl, or [[inputs]] in .toml."
        ),
    ],
    seeds: Annotated[
        int, typer.Option(min=1, max=20, help="Rows for each prompt, with different seeds.")
    ] = 1,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**53 - 100, help="First seed; random without it.")
    ] = None,
    inputs: Inputs = [],
    name: Annotated[str, typer.Option(help="Title that voters see.")] = "",
    share: Annotated[bool, typer.Option("--share", help="Let other keys see it and vote.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the sheet.")] = Path("comparisons"),
) -> None:
    """Run two to four models on the same prompts, and make a blind sheet to vote on.

    All models get the same seeds. `swell models votes ID --close` ends the voting and shows names,
    votes, times, memory and costs.
    """
    if not 2 <= len(models) <= 4:
        raise InvalidRequest(f"{len(models)} models cannot be compared: name two to four")
    first = secrets.randbelow(2**31) if seed is None else seed

    async def work(remote: Remote) -> tuple[dict[str, Any], Path]:
        cards = [await remote.get(f"/v1/models/{model}") for model in models]
        asked = _rows(cards, prompts, inputs, first, seeds)
        tasks = await _ask_all(remote, cards, asked)
        made = await _compare(remote, tasks, asked, name, share)
        return made, await _write(remote, made, out)

    made, path = server.call(work)
    _tell(made, path, server.as_json)


def _rows(
    cards: Sequence[Mapping[str, Any]], prompts: Path, pairs: Sequence[str], first: int, seeds: int
) -> list[_Asked]:
    """Return the rows of the comparison.

    Raises:
        InvalidRequest: There are no rows or too many, or two models are the same version.
    """
    schemas = {_ref(card): card["input_schema"] for card in cards}
    if len(schemas) != len(cards):
        raise InvalidRequest("two of the models are the same version: name versions that differ")
    known = list(schemas.values())
    common = parse_inputs(pairs, {"properties": _merged(known)})
    found = [{**common, **values} for values in read_prompts(prompts, text_field(known))]
    for field, lacking in unknown_to(found, schemas).items():
        talk.print(f"{field} is left out for {', '.join(lacking)}: no such field")
    if len(found) * seeds > _MOST_ROWS:
        raise InvalidRequest(
            f"{len(found)} prompts with {seeds} seeds are more than {_MOST_ROWS} rows: compare in "
            "parts"
        )
    return [_Asked(values, first + step) for values in found for step in range(seeds)]


def _merged(schemas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the input fields of all models; the first model's schema takes precedence."""
    found: dict[str, Any] = {}
    for schema in reversed(schemas):
        found |= schema.get("properties", {})
    return found


async def _ask_all(
    remote: Remote, cards: Sequence[Mapping[str, Any]], asked: Sequence[_Asked]
) -> list[list[str]]:
    """Run all models on all rows, wait, and return the tasks' ids, row by row."""
    wanted = [(row, column) for row in range(len(asked)) for column in range(len(cards))]
    # In random order, so that no model always waits longest.
    random.shuffle(wanted)
    body = [
        {
            "model": _ref(cards[column]),
            "input": fitted(asked[row].values, cards[column]["input_schema"]),
            "seed": asked[row].seed,
        }
        for row, column in wanted
    ]
    made = (await remote.post("/v1/tasks/batch", {"tasks": body}))["tasks"]
    ids = {place: task["id"] for place, task in zip(wanted, made, strict=True)}
    await _wait(remote, list(ids.values()))
    return [[ids[row, column] for column in range(len(cards))] for row in range(len(asked))]


async def _wait(remote: Remote, ids: Sequence[str]) -> None:
    """Wait until tasks have ended; on Ctrl-C, cancel the others."""
    left = set(ids)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    lanes = asyncio.Semaphore(_AT_ONCE)

    async def look(task_id: str) -> None:
        async with lanes:
            if (await remote.get(f"/v1/tasks/{task_id}"))["state"] in _OVER:
                left.discard(task_id)

    try:
        with Progress(*columns, console=talk, transient=True, disable=not talk.is_terminal) as bars:
            bar = bars.add_task("running", total=len(ids))
            while left:
                await asyncio.gather(*(look(task_id) for task_id in sorted(left)[: 4 * _AT_ONCE]))
                bars.update(bar, completed=len(ids) - len(left))
                if left:
                    await asyncio.sleep(_LOOK_S)
    except asyncio.CancelledError:
        for task_id in left:
            with suppress(Refused):
                await remote.post(f"/v1/tasks/{task_id}/cancel")
        raise


async def _compare(
    remote: Remote, tasks: Sequence[Sequence[str]], asked: Sequence[_Asked], name: str, share: bool
) -> dict[str, Any]:
    rows = [
        {"tasks": ids, "label": _label(row.values)} for ids, row in zip(tasks, asked, strict=True)
    ]
    body = {"rows": rows, "name": name, "is_shared": share}
    # The server encodes each picture again.
    wait_s = 2.0 * sum(map(len, tasks))
    made: dict[str, Any] = await remote.post("/v1/comparisons", body, wait_s=wait_s)
    return made


def _label(values: Mapping[str, Any]) -> str:
    """Return the longest text of an input; empty to let the server choose a label."""
    texts = [value for value in values.values() if isinstance(value, str)]
    return max(texts, key=len)[:MOST_LABEL] if texts else ""


async def _write(remote: Remote, made: Mapping[str, Any], out: Path) -> Path:
    comparison = made["comparison"]
    cells = [cell for row in comparison["rows"] if row["can_be_voted"] for cell in row["cells"]]
    urls = [cell["picture"]["url"] for cell in cells if cell["picture"]]
    pictures = {url: await remote.download(url) for url in urls}
    ballots_url = f"{remote.access.url}/v1/comparisons/{comparison['id']}/ballots"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{comparison['id']}.html"
    path.write_text(sheet(made, pictures, ballots_url), encoding="utf-8")
    return path


def _ref(card: Mapping[str, Any]) -> str:
    return f"{card['name']}:{card['version']}"


def _tell(made: Mapping[str, Any], path: Path, as_json: bool) -> None:
    comparison = made["comparison"]
    if as_json:
        print_json({"id": comparison["id"], "sheet": str(path), "rows": len(comparison["rows"])})
        return
    stdout.print(str(path), markup=False)
    bare = sum(not row["can_be_voted"] for row in comparison["rows"])
    if bare:
        talk.print(f"{bare} rows are left out because models failed: `swell tasks ls` shows them")
    talk.print("open it in a browser to vote, or send it to others: voting needs no key")
    talk.print(f"  in the terminal: swell models votes {comparison['id']}", markup=False)
    talk.print(f"  end the voting:  swell models votes {comparison['id']} --close", markup=False)
