"""Messages about comparisons of models, votes and ratings."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.core.clock import Moment
from swell.server.common_schemas import PLAIN, Cursor, doc

#: Rows of one comparison.
MOST_ROWS = 100


class ComparisonRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input, run by all models."""

    tasks: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        doc(
            "ids of ended tasks, one for each model, in the same order in every row",
            min_length=2,
            max_length=4,
        ),
    ]
    label: Annotated[
        str, doc("text of the row; taken from the input if empty", max_length=2000)
    ] = ""


class ComparisonRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a comparison."""

    rows: Annotated[list[ComparisonRow], Meta(min_length=1, max_length=MOST_ROWS)]
    name: Annotated[str, doc("shown to voters", max_length=200, pattern=PLAIN)] = ""
    is_shared: Annotated[bool, doc("whether other keys may view and vote")] = False


class PictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a picture without metadata."""

    url: Annotated[str, doc("signed, expires")]
    content_type: str
    width: int
    height: int


class CellView(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one model; its name is hidden until voting ends."""

    number: Annotated[int, doc("number for votes, from 1")]
    picture: PictureView | None
    text: str | None
    model: Annotated[str | None, doc("`owner/name:version`; null until voting ends")]
    task_id: Annotated[str | None, doc("null until voting ends")]
    queue_s: Annotated[float | None, doc("null until voting ends")]
    run_s: Annotated[float | None, doc("null until voting ends")]
    cost_micros: Annotated[
        int | None, doc("in millionths of a dollar; null until voting ends, or without a price")
    ]


class RowView(msgspec.Struct, frozen=True, kw_only=True):
    """A row, with its cells in random order."""

    row: int
    label: str
    can_be_voted: Annotated[bool, doc("whether the row has at least two results")]
    voted: Annotated[
        int | None, doc("number of the cell that `voter` chose; null for none or a tie")
    ]
    is_tie: Annotated[bool, doc("whether `voter` voted for a tie")]
    seed: Annotated[int | None, doc("null until voting ends")]
    cells: list[CellView]


class ComparedView(msgspec.Struct, frozen=True, kw_only=True):
    """A compared model: votes, time, memory and cost, as of `created_at`."""

    model: Annotated[str, doc("`owner/name:version`")]
    wins: int
    ties: int
    losses: int
    rows: Annotated[int, doc("rows with a result")]
    failures: Annotated[int, doc("rows without a result")]
    queue_s: Annotated[float | None, doc("median wait of its tasks")]
    load_s: Annotated[float, doc("total load time")]
    run_s: Annotated[float | None, doc("median run time of its tasks")]
    memory_bytes: Annotated[int | None, doc("device memory; null if unknown")]
    images: int
    cost_micros: Annotated[
        int | None, doc("cost of all its tasks, in millionths of a dollar; null if unknown")
    ]
    image_micros: Annotated[float | None, doc("cost of one picture, in millionths of a dollar")]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of a comparison with and without its rows."""

    id: str
    name: str
    created_at: Moment
    closed_at: Annotated[Moment | None, doc("when voting ended; null before")]
    is_shared: bool
    is_own: Annotated[bool, doc("whether the caller may end voting")]
    columns: Annotated[int, doc("number of models")]
    votes: int


class ComparisonView(_Head, frozen=True, kw_only=True):
    """A comparison of models. Their names are hidden until voting ends."""

    rows: list[RowView]
    models: Annotated[list[ComparedView] | None, doc("null until voting ends")]


class NewComparisonView(msgspec.Struct, frozen=True, kw_only=True):
    """A new comparison."""

    comparison: ComparisonView
    permit: Annotated[str, doc("allows voting without a key; shown only once")]


class ComparisonSummary(_Head, frozen=True, kw_only=True):
    """A comparison in a list."""

    rows: int


class ComparisonList(msgspec.Struct, frozen=True, kw_only=True):
    """Comparisons, newest first; `cursor` gets the next page and is null at the end."""

    comparisons: list[ComparisonSummary]
    cursor: str | None


class ComparisonsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which comparisons to list."""

    cursor: Cursor = None
    limit: Annotated[int, doc("comparisons on a page", ge=1, le=200)] = 50


class ComparisonQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a view."""

    voter: Annotated[
        str, doc("voter to show votes of; the key itself by default", max_length=200)
    ] = ""
    names: Annotated[bool, doc("show the names during voting; needs an `admin` key")] = False


class VoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vote on a row."""

    row: Annotated[int, doc("index of the row, from 0", ge=0, lt=MOST_ROWS)]
    winner: (
        Annotated[int, doc("number of the better cell in the row, from 1", ge=1, le=4)] | None
    ) = None
    tie: Annotated[bool, doc("all cells are equally good; then there is no `winner`")] = False
    voter: Annotated[
        str, doc("name of the voter; empty for the key itself", max_length=200, pattern=PLAIN)
    ] = ""


_VoterId = Annotated[
    str,
    doc(
        "random id kept by the voting page: it and the same name are needed to change "
        "the vote. Without it, all ballots of one name are one voter",
        min_length=16,
        max_length=64,
        pattern="^[A-Za-z0-9_-]*$",
    ),
]


class BallotRequest(VoteRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vote with a permit instead of a key."""

    permit: Annotated[str, doc("of the comparison", min_length=1, max_length=200)]
    voter: Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]
    voter_id: _VoterId | None = None


class VoteView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored vote."""

    row: int
    winner: int | None
    tie: bool
    voter: str
    at: Moment


class RatingView(msgspec.Struct, frozen=True, kw_only=True):
    """A model's rating and its uncertainty."""

    model: Annotated[str, doc("`owner/name:version`")]
    mu: Annotated[float, doc("estimated strength")]
    sigma: Annotated[float, doc("its standard deviation")]
    ordinal: Annotated[float, doc("mu minus three sigma; the order of the list")]
    low: Annotated[float, doc("lower end of the 95 % interval")]
    high: Annotated[float, doc("its upper end")]
    votes: Annotated[int, doc("votes on rows with a result of it")]
    wins: int
    ties: int
    summary: Annotated[str, doc("in words")]


class RatingList(msgspec.Struct, frozen=True, kw_only=True):
    """Ratings, best first, from all comparisons with ended voting."""

    ratings: list[RatingView]
    comparisons: int
    votes: int
