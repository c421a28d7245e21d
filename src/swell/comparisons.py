"""Comparisons of models, and what people said of them. Pure.

A comparison shows, row by row, what each of two to four models made of the same input. Who looks
sees columns in an order of their own in each row, and no names; what each column was is known once
the voting is over.
"""

from datetime import datetime

import msgspec

#: So many models are compared at once, at most; a screen has no room for more.
MOST_MODELS = 4

#: So many comparisons of one key are kept at once.
MOST_KEPT = 200

#: A comparison has room for so many votes: whoever has a permit can make up voters.
MOST_VOTES = 20_000


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One of those that are compared.

    Args:
        name: `owner/name`.
        version: Of it; every row was made by this one.
        memory_bytes: What it takes of its device, as its card told then; 0 where nobody knew.
    """

    name: str
    version: str
    memory_bytes: int = 0

    @property
    def ref(self) -> str:
        """Name and version, as a request names them."""
        return f"{self.name}:{self.version}"


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of what a model drew, that tells nothing of where it comes from.

    Args:
        key: Where it lies in the object store; random, so that it tells nothing either.
        content_type: Its media type.
        width: In px.
        height: In px.
    """

    key: str
    content_type: str
    width: int
    height: int


class Cell(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one model made of one row.

    Args:
        model: Which one, as an index into `Comparison.models`.
        task_id: Of the task that made it.
        picture: What it drew, where it draws.
        text: What it wrote, where it writes.
        failed: Why there is neither; empty where there is.
        queue_s: How long the task waited.
        load_s: How long the model was loaded for it.
        run_s: How long it ran.
        images: How many pictures the task made.
        cost_micros: What it cost, in millionths of a dollar; None where its pool has no price.
    """

    model: int
    task_id: str
    picture: Picture | None = None
    text: str | None = None
    failed: str = ""
    queue_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0
    images: int = 0
    cost_micros: int | None = None

    @property
    def is_shown(self) -> bool:
        """Whether there is something to look at."""
        return self.picture is not None or self.text is not None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """The same input to all models.

    Args:
        label: What was asked for, in words.
        seed: Which all models got; None where it was not the same.
        cells: One for each model, in the order in which they are shown.
    """

    label: str
    seed: int | None = None
    cells: tuple[Cell, ...]

    @property
    def shown(self) -> tuple[Cell, ...]:
        """What there is to look at, in order: number 1 is the first of these."""
        return tuple(cell for cell in self.cells if cell.is_shown)

    @property
    def can_be_voted(self) -> bool:
        """Whether there is a choice."""
        return len(self.shown) > 1


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of what models made, and who may say which is better.

    Args:
        id: Grows with time.
        name: For people.
        created_at: When it was made, from tasks that had ended; costs and times are of then.
        key_id: Of the key that made it.
        is_shared: Whether other keys may look and vote.
        permit: SHA-256, in hex, of what lets a sheet vote that has no key.
        models: Those that are compared.
        rows: What they made.
        closed_at: When the voting ended and the names were told; None before.
    """

    id: str
    name: str
    created_at: datetime
    key_id: str
    is_shared: bool = False
    permit: str
    models: tuple[Model, ...]
    rows: tuple[Row, ...]
    closed_at: datetime | None = None

    @property
    def object_keys(self) -> list[str]:
        """The files that belong to it alone."""
        return [c.picture.key for row in self.rows for c in row.cells if c.picture is not None]


class Outline(msgspec.Struct, frozen=True, kw_only=True):
    """What lists tell of a comparison, which is known without reading it.

    Args:
        id: As that of the comparison; so are the others.
        name: For people.
        created_at: When it was made.
        key_id: Of the key that made it.
        is_shared: Whether other keys may look and vote.
        models: How many are compared.
        rows: How many there are.
        votes: How many there are.
        closed_at: When the voting ended; None before.
    """

    id: str
    name: str
    created_at: datetime
    key_id: str
    is_shared: bool
    models: int
    rows: int
    votes: int
    closed_at: datetime | None


class Vote(msgspec.Struct, frozen=True, kw_only=True):
    """What one person said of one row. A later one of the same person takes its place.

    Args:
        comparison_id: Of the comparison.
        row: From 0 on.
        key_id: Whose key brought it; of a sheet `sheet-` and the SHA-256 of what it has drawn by
            lot, or empty where it has not.
        voter: Who, among those that the key speaks for; empty for the key itself.
        winner: Index into `Comparison.models`; None where all are as good.
        at: When.
    """

    comparison_id: str
    row: int
    key_id: str
    voter: str = ""
    winner: int | None
    at: datetime
