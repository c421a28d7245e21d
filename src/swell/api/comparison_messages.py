"""Messages about comparisons of models, votes and ratings."""

from typing import Annotated

import msgspec
from msgspec import Meta

from swell.api.messages import PLAIN, Moment

__all__ = [
    "BallotRequest",
    "CellView",
    "ComparedView",
    "ComparisonList",
    "ComparisonQuery",
    "ComparisonRequest",
    "ComparisonRow",
    "ComparisonSummary",
    "ComparisonView",
    "ComparisonsQuery",
    "NewComparisonView",
    "PictureView",
    "RatingList",
    "RatingView",
    "RowView",
    "VoteRequest",
    "VoteView",
]

#: So many rows have one comparison, at most.
MOST_ROWS = 100

_Voter = Annotated[
    str,
    Meta(max_length=200, pattern=PLAIN, description="who says so; empty for the key itself"),
]
_Row = Annotated[int, Meta(ge=0, lt=MOST_ROWS, description="from 0 on")]
_Winner = Annotated[
    int, Meta(ge=1, le=4, description="the number of the better one in its row, from 1 on")
]
_Tie = Annotated[bool, Meta(description="all in the row are as good; then there is no `winner`")]


class ComparisonRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input to all models."""

    tasks: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=200)]],
        Meta(
            min_length=2,
            max_length=4,
            description="ids of tasks that have ended, one for each model, in the same order in "
            "every row",
        ),
    ]
    label: Annotated[
        str,
        Meta(max_length=2000, description="what was asked for, in words; of the input if empty"),
    ] = ""


class ComparisonRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be compared."""

    rows: Annotated[list[ComparisonRow], Meta(min_length=1, max_length=MOST_ROWS)]
    name: Annotated[
        str,
        Meta(max_length=200, pattern=PLAIN, description="for people; voters see it"),
    ] = ""
    is_shared: Annotated[bool, Meta(description="whether other keys may look and vote")] = False


class PictureView(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a picture, without anything that tells where it comes from."""

    url: Annotated[str, Meta(description="signed; it expires")]
    content_type: str
    width: int
    height: int


class CellView(msgspec.Struct, frozen=True, kw_only=True):
    """What one model made of a row; which one, is told once the voting has ended."""

    number: Annotated[int, Meta(description="what a vote names, from 1 on")]
    picture: PictureView | None
    text: str | None
    model: Annotated[str | None, Meta(description="`owner/name:version`; null before")]
    task_id: Annotated[str | None, Meta(description="null before")]
    queue_s: Annotated[float | None, Meta(description="null before")]
    run_s: Annotated[float | None, Meta(description="null before")]
    cost_micros: Annotated[
        int | None, Meta(description="in millionths of a dollar; null before, or without a price")
    ]


class RowView(msgspec.Struct, frozen=True, kw_only=True):
    """A row; the order of its cells is its own."""

    row: int
    label: str
    can_be_voted: Annotated[bool, Meta(description="whether there is a choice")]
    voted: Annotated[
        int | None,
        Meta(description="the number of the cell for which `voter` voted; null for none, or a tie"),
    ]
    is_tie: Annotated[bool, Meta(description="whether `voter` found all as good")]
    seed: Annotated[int | None, Meta(description="null before the voting has ended")]
    cells: list[CellView]


class ComparedView(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was compared: votes, time, memory and cost, as of `created_at`."""

    model: Annotated[str, Meta(description="`owner/name:version`")]
    wins: int
    ties: int
    losses: int
    rows: Annotated[int, Meta(description="rows in which there is something of it")]
    failures: Annotated[int, Meta(description="rows in which there is not")]
    queue_s: Annotated[float | None, Meta(description="median of what its tasks waited")]
    load_s: Annotated[float, Meta(description="for how long it was loaded meanwhile, in all")]
    run_s: Annotated[float | None, Meta(description="median of how long its tasks ran")]
    memory_bytes: Annotated[
        int | None, Meta(description="what it takes of its device; null if that is not known")
    ]
    images: int
    cost_micros: Annotated[
        int | None, Meta(description="of all its tasks, in millionths of a dollar; null if unknown")
    ]
    image_micros: Annotated[
        float | None, Meta(description="of one picture, in millionths of a dollar")
    ]


class ComparisonView(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison of models, without their names until the voting has ended."""

    id: str
    name: str
    created_at: Moment
    closed_at: Annotated[Moment | None, Meta(description="when the voting ended; null before")]
    is_shared: bool
    is_own: Annotated[bool, Meta(description="whether the caller may end the voting")]
    columns: Annotated[int, Meta(description="how many models are compared")]
    votes: int
    rows: list[RowView]
    models: Annotated[
        list[ComparedView] | None, Meta(description="null before the voting has ended")
    ]


class NewComparisonView(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison that was made."""

    comparison: ComparisonView
    permit: Annotated[
        str,
        Meta(description="lets whoever has it vote without a key; shown only now"),
    ]


class ComparisonSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison in a list."""

    id: str
    name: str
    created_at: Moment
    closed_at: Moment | None
    is_shared: bool
    is_own: bool
    columns: int
    rows: int
    votes: int


class ComparisonList(msgspec.Struct, frozen=True, kw_only=True):
    """Comparisons, newest first; `cursor` asks for the next page and is null at the end."""

    comparisons: list[ComparisonSummary]
    cursor: str | None


class ComparisonsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which comparisons to list."""

    cursor: Annotated[str, Meta(max_length=200, description="of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200, description="comparisons in a page")] = 50


class ComparisonQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who looks."""

    voter: Annotated[
        str, Meta(max_length=200, description="whose votes to tell; the key's own if left out")
    ] = ""
    names: Annotated[
        bool,
        Meta(description="tell the names although the voting goes on; needs an `admin` key"),
    ] = False


class VoteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which one of a row is better, or that all are as good."""

    row: _Row
    winner: _Winner | None = None
    tie: _Tie = False
    voter: _Voter = ""


class BallotRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same from a sheet, which has a permit instead of a key."""

    permit: Annotated[str, Meta(min_length=1, max_length=200, description="of the comparison")]
    row: _Row
    voter: Annotated[str, Meta(min_length=1, max_length=200, pattern=PLAIN)]
    voter_id: (
        Annotated[
            str,
            Meta(
                min_length=16,
                max_length=64,
                pattern="^[A-Za-z0-9_-]*$",
                description="drawn by lot and kept by the sheet: only with it and the same name "
                "is the vote changed. Left out, all ballots of one name are one voter's",
            ),
        ]
        | None
    ) = None
    winner: _Winner | None = None
    tie: _Tie = False


class VoteView(msgspec.Struct, frozen=True, kw_only=True):
    """A vote as it is kept."""

    row: int
    winner: int | None
    tie: bool
    voter: str
    at: Moment


class RatingView(msgspec.Struct, frozen=True, kw_only=True):
    """What votes say of a model's strength, and how sure that is."""

    model: Annotated[str, Meta(description="`owner/name:version`")]
    mu: Annotated[float, Meta(description="its strength, most probably")]
    sigma: Annotated[float, Meta(description="standard deviation of that")]
    ordinal: Annotated[float, Meta(description="mu less three sigma: by this they are ordered")]
    low: Annotated[float, Meta(description="lower end of the interval that holds it with 95 %")]
    high: Annotated[float, Meta(description="its upper end")]
    votes: Annotated[int, Meta(description="of rows in which it could be seen")]
    wins: int
    ties: int
    summary: Annotated[str, Meta(description="in words")]


class RatingList(msgspec.Struct, frozen=True, kw_only=True):
    """Ratings, the strongest first, of all comparisons whose voting has ended."""

    ratings: list[RatingView]
    comparisons: int
    votes: int
