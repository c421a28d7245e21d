"""Blind comparisons of models, and votes on them. Pure.

A comparison shows in each row the results of two to four models for the same input. Voters see the
columns of each row in random order and without names, until voting ends.
"""

from datetime import datetime

import msgspec

#: Comparisons of one key that are kept.
MOST_KEPT = 200

#: Votes on one comparison. A permit allows any number of voters.
MOST_VOTES = 20_000

#: Longest label of a row, in characters.
MOST_LABEL = 2_000


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A compared model: the version that made its whole column."""

    #: `owner/name`.
    name: str
    version: str
    #: Device memory, from the model's card; 0 if unknown.
    memory_bytes: int = 0

    @property
    def ref(self) -> str:
        """`owner/name:version`."""
        return f"{self.name}:{self.version}"


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of a picture without metadata."""

    #: Random key in the object store.
    key: str
    content_type: str
    #: In pixels.
    width: int
    height: int


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of one model in one row: a picture, a text, or the reason for neither."""

    #: Index into `Comparison.models`.
    model: int
    task_id: str
    picture: Picture | None = None
    text: str | None = None
    #: Empty if there is a result.
    failed: str = ""
    queue_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0
    #: Pictures that the task made.
    images: int = 0
    #: Millionths of a dollar; None without a price.
    cost_micros: int | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The same input to all models."""

    #: The input in words.
    label: str
    #: None if the models had different seeds.
    seed: int | None = None
    #: One for each model, in the order that voters see.
    cells: tuple[Cell, ...]

    @property
    def shown(self) -> tuple[Cell, ...]:
        """Cells with a result; votes number them from 1."""
        return tuple(cell for cell in self.cells if not cell.failed)

    @property
    def can_be_voted(self) -> bool:
        """Whether the row has at least two results."""
        return len(self.shown) > 1


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of results, and who may vote on them."""

    #: Ids of later comparisons are larger.
    id: str
    name: str
    created_at: datetime
    #: Key that made it.
    key_id: str
    #: Whether other keys may view and vote.
    is_shared: bool = False
    #: SHA-256, in hex, of the permit with which a sheet votes without a key.
    permit: str
    models: tuple[Model, ...]
    rows: tuple[Row, ...]
    #: When voting ended; None before.
    closed_at: datetime | None = None


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A comparison without its rows, as lists show it."""

    id: str
    name: str
    created_at: datetime
    key_id: str
    is_shared: bool
    #: Number of models.
    columns: int
    #: Number of rows.
    rows: int
    votes: int
    closed_at: datetime | None


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """A vote on one row. A later vote by the same voter replaces it."""

    comparison_id: str
    #: Index of the row, from 0.
    row: int
    #: Key that sent it; for a sheet `sheet-` and a hash of its random id, or empty without one.
    key_id: str
    #: Name, one of several that share a key; empty for the key itself.
    voter: str = ""
    #: Index into `Comparison.models`; None for a tie.
    winner: int | None
    at: datetime
