"""Messages about comparisons of models, votes and ratings."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.server.common_schemas import PLAIN, Moment

#: Rows of one comparison.
MOST_ROWS = 100


class ComparisonRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input, run by all models."""

    tasks: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        Meta(
            min_length=2,
            max_length=4,
            description="ids of ended tasks, one for each model, in the same order in every row",
        ),
    ]
    label: Annotated[
        str, Meta(max_length=2000, description="text of the row; taken from the input if empty")
    ] = ""


class ComparisonRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a comparison."""

    rows: Annotated[list[ComparisonRow], Meta(min_length=1, max_length=MOST_ROWS)]
    name: Annotated[str, Meta(max_length=200, pattern=PLAIN, description="shown to voters")] = ""
    is_shared: Annotated[bool, Meta(description="whether other keys may view and vote")] = False


class PictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a picture without metadata."""

    url: Annotated[str, Meta(description="signed, expires")]
    content_type: str
    width: int
    height: int


class CellView(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one model; its name is hidden until voting ends."""

    number: Annotated[int, Meta(description="number for votes, from 1")]
    picture: PictureView | None
    text: str | None
    model: Annotated[str | None, Meta(description="`owner/name:version`; null until voting ends")]
    task_id: Annotated[str | None, Meta(description="null until voting ends")]
    queue_s: Annotated[float | None, Meta(description="null until voting ends")]
    run_s: Annotated[float | None, Meta(description="null until voting ends")]
    cost_micros: Annotated[
        int | None,
        Meta(description="in millionths of a dollar; null until voting ends, or without a price"),
    ]


class RowView(msgspec.Struct, frozen=True, kw_only=True):
    """A row, with its cells in random order."""

    row: int
    label: str
    can_be_voted: Annotated[bool, Meta(description="whether the row has at least two results")]
    voted: Annotated[
        int | None,
        Meta(description="number of the cell that `voter` chose; null for none or a tie"),
    ]
    is_tie: Annotated[bool, Meta(description="whether `voter` voted for a tie")]
    seed: Annotated[int | None, Meta(description="null until voting ends")]
    cells: list[CellView]


class ComparedView(msgspec.Struct, frozen=True, kw_only=True):
    """A compared model: votes, time, memory and cost, as of `created_at`."""

    model: Annotated[str, Meta(description="`owner/name:version`")]
    wins: int
    ties: int
    losses: int
    rows: Annotated[int, Meta(description="rows with a result")]
    failures: Annotated[int, Meta(description="rows without a result")]
    queue_s: Annotated[float | None, Meta(description="median wait of its tasks")]
    load_s: Annotated[float, Meta(description="total load time")]
    run_s: Annotated[float | None, Meta(description="median run time of its tasks")]
    memory_bytes: Annotated[int | None, Meta(description="device memory; null if unknown")]
    images: int
    cost_micros: Annotated[
        int | None,
        Meta(description="cost of all its tasks, in millionths of a dollar; null if unknown"),
    ]
    image_micros: Annotated[
        float | None, Meta(description="cost of one picture, in millionths of a dollar")
    ]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """Fields of a comparison with and without its rows."""

    id: str
    name: str
    created_at: Moment
    closed_at: Annotated[Moment | None, Meta(description="when voting ended; null before")]
    is_shared: bool
    is_own: Annotated[bool, Meta(description="whether the caller may end voting")]
    columns: Annotated[int, Meta(description="number of models")]
    votes: int


class ComparisonView(_Head, frozen=True, kw_only=True):
    """A comparison of models. Their names are hidden until voting ends."""

    rows: list[RowView]
    models: Annotated[list[ComparedView] | None, Meta(description="null until voting ends")]


class NewComparisonView(msgspec.Struct, frozen=True, kw_only=True):
    """A new comparison."""

    comparison: ComparisonView
    permit: Annotated[str, Meta(description="allows voting without a key; shown only once")]


class ComparisonSummary(_Head, frozen=True, kw_only=True):
    """A comparison in a list."""

    rows: int


class ComparisonList(msgspec.Struct, frozen=True, kw_only=True):
    """Comparisons, newest first; `cursor` gets the next page and is null at the end."""

    comparisons: list[ComparisonSummary]
    cursor: str | None


class ComparisonsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which comparisons to list."""

    cursor: (
        Annotated[str, Meta(max_length=200, description="`cursor` of the previous page")] | None
    ) = None
    limit: Annotated[int, Meta(ge=1, le=200, description="comparisons on a page")] = 50


class ComparisonQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a view."""

    voter: Annotated[
        str, Meta(max_length=200, description="voter to show votes of; the key itself by default")
    ] = ""
    names: Annotated[
        bool, Meta(description="show the names during voting; needs an `admin` key")
    ] = False


class VoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vote on a row."""

    row: Annotated[int, Meta(ge=0, lt=MOST_ROWS, description="index of the row, from 0")]
    winner: (
        Annotated[int, Meta(ge=1, le=4, description="number of the better cell in the row, from 1")]
        | None
    ) = None
    tie: Annotated[
        bool, Meta(description="all cells are equally good; then there is no `winner`")
    ] = False
    voter: Annotated[
        str,
        Meta(
            max_length=200, pattern=PLAIN, description="name of the voter; empty for the key itself"
        ),
    ] = ""


_VoterId = Annotated[
    str,
    Meta(
        min_length=16,
        max_length=64,
        pattern="^[A-Za-z0-9_-]*$",
        description="random id kept by the voting page: it and the same name are needed to change "
        "the vote. Without it, all ballots of one name are one voter",
    ),
]


class BallotRequest(VoteRequest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vote with a permit instead of a key."""

    permit: Annotated[str, Meta(min_length=1, max_length=200, description="of the comparison")]
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

    model: Annotated[str, Meta(description="`owner/name:version`")]
    mu: Annotated[float, Meta(description="estimated strength")]
    sigma: Annotated[float, Meta(description="its standard deviation")]
    ordinal: Annotated[float, Meta(description="mu minus three sigma; the order of the list")]
    low: Annotated[float, Meta(description="lower end of the 95 % interval")]
    high: Annotated[float, Meta(description="its upper end")]
    votes: Annotated[int, Meta(description="votes on rows with a result of it")]
    wins: int
    ties: int
    summary: Annotated[str, Meta(description="in words")]


class RatingList(msgspec.Struct, frozen=True, kw_only=True):
    """Ratings, best first, from all comparisons with ended voting."""

    ratings: list[RatingView]
    comparisons: int
    votes: int
