"""`swell models votes`: comparisons, votes on them, and ratings of models."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from swell.cli.output import data as stdout
from swell.cli.output import dollars, print_json, seconds, table, talk
from swell.cli.pictures import save
from swell.cli.remote import Remote, Server, asks_server
from swell.core.errors import InvalidRequest
from swell.core.telemetry import printable

_SKIP: Final = "s"
_TIE: Final = "t"
_QUIT: Final = "q"


@asks_server
def votes(
    server: Server,
    comparison: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Id of a comparison.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Send the votes that a sheet has saved."),
    ] = None,
    voter: Annotated[str, typer.Option(help="Name of the voter; default the key's own.")] = "",
    out: Annotated[Path, typer.Option("--out", help="Folder for the pictures.")] = Path(
        "comparisons"
    ),
    close: Annotated[
        bool,
        typer.Option("--close", help="End the voting; show names, votes, times, memory and costs."),
    ] = False,
    results: Annotated[
        bool,
        typer.Option(
            "--results", help="Show the same without ending the voting. Needs an admin key."
        ),
    ] = False,
    ratings: Annotated[
        bool, typer.Option("--ratings", help="Rate models by the votes of all ended comparisons.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Most comparisons listed.")] = 20,
) -> None:
    """List comparisons, vote on one in the terminal, end its voting, or rate models.

    To vote, name a comparison: the pictures of each row are saved, and their paths shown. Keys: 1
    to 4 for the best one, t for a tie, s to skip, q to quit.
    """
    is_about_one = close or results
    if (
        sum((file is not None, is_about_one, ratings, comparison is not None and not is_about_one))
        > 1
    ):
        raise InvalidRequest("give an ID, --file or --ratings: one of them in a call")
    if is_about_one and comparison is None:
        raise InvalidRequest("name a comparison: `swell models votes` lists them")
    if comparison is not None:
        if is_about_one:
            _reveal(server, comparison, keep_open=not close)
        else:
            _vote(server, comparison, voter, out)
    elif file is not None:
        told = _read(file)
        count = server.call(lambda remote: _bring(remote, told))
        stdout.print(f"{count} votes of {printable(told['voter'])} are saved", markup=False)
    elif ratings:
        _list_ratings(server)
    else:
        _list_comparisons(server, limit)


def _vote(server: Server, comparison: str, voter: str, out: Path) -> None:
    query = {"voter": voter} if voter else {}
    found = server.call(lambda remote: remote.get(f"/v1/comparisons/{comparison}", **query))
    if found["closed_at"] is not None:
        raise InvalidRequest(
            f"its voting has ended: `swell models votes {found['id']} --close` shows the results"
        )
    count = 0
    for row in found["rows"]:
        if not row["can_be_voted"]:
            continue
        server.call(lambda remote, row=row: _show(remote, found["id"], row, out))  # type: ignore[misc]
        said = _ask(row)
        if said == _QUIT:
            break
        if said != _SKIP:
            body = {"row": row["row"], "voter": voter, **_said(said)}
            server.call(lambda remote, body=body: _send(remote, found["id"], body))  # type: ignore[misc]
            count += 1
    stdout.print(f"{count} votes are saved", markup=False)


def _reveal(server: Server, comparison: str, *, keep_open: bool) -> None:
    path = f"/v1/comparisons/{comparison}"

    async def work(remote: Remote) -> dict[str, Any]:
        if keep_open:
            found: dict[str, Any] = await remote.get(path, names=True)
        else:
            found = await remote.post(f"{path}/close", is_repeatable=True)
        return found

    found = server.call(work)
    if server.as_json:
        print_json(found)
        return
    rows = [
        (
            model["model"],
            model["wins"],
            model["ties"],
            model["losses"],
            seconds(model["run_s"]),
            seconds(model["queue_s"]),
            _mebibytes(model["memory_bytes"]),
            dollars(model["image_micros"]),
            model["failures"],
        )
        for model in found["models"]
    ]
    heads = ("MODEL", "WON", "TIED", "LOST", "RUN", "QUEUE", "MEMORY", "COST", "FAILED")
    table(heads, rows, empty="no models")
    talk.print(f"times and costs are medians, measured on {found['created_at'][:10]}")


def _list_comparisons(server: Server, limit: int) -> None:
    found = server.call(lambda remote: remote.get("/v1/comparisons", limit=limit))
    if server.as_json:
        print_json(found["comparisons"])
        return
    rows = [
        (
            each["id"],
            each["name"],
            each["created_at"][:16],
            each["columns"],
            each["rows"],
            each["votes"],
            "open" if each["closed_at"] is None else f"ended {each['closed_at'][:16]}",
        )
        for each in found["comparisons"]
    ]
    heads = ("COMPARISON", "NAME", "MADE", "MODELS", "ROWS", "VOTES", "VOTING")
    table(heads, rows, empty="no comparisons: `swell models compare` makes one")


def _list_ratings(server: Server) -> None:
    found = server.call(lambda remote: remote.get("/v1/ratings"))
    if server.as_json:
        print_json(found)
        return
    rows = [
        (
            each["model"],
            f"{each['mu']:.1f}",
            f"{each['low']:.1f} to {each['high']:.1f}",
            f"{each['ordinal']:.1f}",
            each["votes"],
            each["wins"],
            each["ties"],
        )
        for each in found["ratings"]
    ]
    heads = ("MODEL", "RATING", "95 % RANGE", "AT LEAST", "VOTES", "WON", "TIED")
    table(
        heads, rows, empty="ratings appear once a vote has ended: `swell models votes ID --close`"
    )
    for each in found["ratings"]:
        talk.print(f"{each['model']}: {each['summary']}", markup=False)


async def _show(remote: Remote, comparison_id: str, row: Mapping[str, Any], out: Path) -> None:
    """Show a row's texts, and save its pictures under names that do not reveal the model."""
    stdout.print(f"\n{printable(row['label'])}", markup=False)
    for cell in row["cells"]:
        shown = printable(cell["text"] or "")
        if cell["picture"] is not None:
            name = f"{row['row'] + 1:03d}-{cell['number']}.webp"
            path = out / comparison_id / name
            save(path, await remote.download(cell["picture"]["url"]))
            shown = str(path)
        stdout.print(f"  {cell['number']}  {shown}", markup=False)


def _ask(row: Mapping[str, Any]) -> str:
    """Read a vote from stdin: a number, or one of the letters."""
    numbers = [str(cell["number"]) for cell in row["cells"]]
    before = _TIE if row["is_tie"] else row["voted"]
    asked = f"{'/'.join([*numbers, _TIE, _SKIP, _QUIT])}{f' (now {before})' if before else ''}? "
    while True:
        talk.print(asked, end="", markup=False)
        line = sys.stdin.readline()
        said = line.strip().lower()
        if not line:
            return _QUIT
        if said in (*numbers, _TIE, _SKIP, _QUIT):
            return said
        talk.print("1 to 4 for the best one, t for a tie, s to skip, q to quit")


def _said(said: str) -> dict[str, Any]:
    return {"tie": True} if said == _TIE else {"winner": int(said)}


async def _send(remote: Remote, comparison_id: str, body: Mapping[str, Any]) -> None:
    # A repeated vote counts once.
    await remote.post(f"/v1/comparisons/{comparison_id}/votes", body, is_repeatable=True)


async def _bring(remote: Remote, told: Mapping[str, Any]) -> int:
    path = f"/v1/comparisons/{told['comparison']}/ballots"
    by = {name: told[name] for name in ("permit", "voter", "voter_id") if name in told}
    for each in told["votes"]:
        body = {**by, **each}
        await remote.post(path, body, is_repeatable=True)
    return len(told["votes"])


def _read(file: Path) -> dict[str, Any]:
    """Return the votes in a file that a sheet has saved.

    Raises:
        InvalidRequest: The file is not a file of votes.
    """
    try:
        told = json.loads(file.read_text())
        names = ("comparison", "permit", "voter")
        is_whole = all(isinstance(told[name], str) for name in names)
        is_whole = is_whole and isinstance(told.get("voter_id", ""), str)
        votes: Sequence[Any] = told["votes"]
        is_whole = is_whole and all(isinstance(each, dict) for each in votes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{file} contains no votes of a sheet: {error!r}") from error
    if not is_whole or not told["comparison"].isalnum():
        raise InvalidRequest(f"{file} contains no votes of a sheet: save them there again")
    return dict(told)


def _mebibytes(size_bytes: int | None) -> str | None:
    return None if size_bytes is None else f"{size_bytes / 2**20:,.0f} MiB"
