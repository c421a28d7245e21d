"""Comparisons as clients see them: no names, times or costs until voting has ended."""

import statistics
from collections.abc import Sequence

from swell.adoption.votes import Ballot, ballots_of, standing
from swell.api.comparison_messages import (
    CellView,
    ComparedView,
    ComparisonView,
    PictureView,
    RowView,
)
from swell.api.views import UrlMaker, project
from swell.comparisons import Cell, Comparison, Vote

#: Fields of a cell that stay null until voting has ended.
_HIDDEN = {"task_id": None, "queue_s": None, "run_s": None, "cost_micros": None}


def comparison_view(
    comparison: Comparison,
    votes: Sequence[Vote],
    urls: UrlMaker,
    *,
    is_own: bool,
    has_names: bool = False,
    voter: tuple[str, str] = ("", ""),
) -> ComparisonView:
    """Return a view of a comparison.

    Args:
        comparison: The comparison.
        votes: All votes on it.
        urls: Signs URLs of its pictures.
        is_own: Whether the caller may end the voting.
        has_names: Whether to show names before voting has ended.
        voter: Key and name of a voter, to show the votes of.
    """
    is_open = not has_names and comparison.closed_at is None
    voted = {vote.row: vote for vote in votes if (vote.key_id, vote.voter) == voter}
    return project(
        ComparisonView,
        comparison,
        is_own=is_own,
        columns=len(comparison.models),
        votes=len(votes),
        rows=[
            _row_view(comparison, number, voted.get(number), urls, is_open=is_open)
            for number in range(len(comparison.rows))
        ],
        models=None if is_open else _compared(comparison, votes),
    )


def _row_view(
    comparison: Comparison, number: int, vote: Vote | None, urls: UrlMaker, *, is_open: bool
) -> RowView:
    row = comparison.rows[number]
    models = [cell.model for cell in row.shown]
    voted = None
    if vote is not None and vote.winner in models:
        voted = models.index(vote.winner) + 1
    return project(
        RowView,
        row,
        row=number,
        voted=voted,
        is_tie=vote is not None and vote.winner is None,
        seed=None if is_open else row.seed,
        cells=[
            _cell_view(comparison, cell, place, urls, is_open=is_open)
            for place, cell in enumerate(row.shown, 1)
        ],
    )


def _cell_view(
    comparison: Comparison, cell: Cell, number: int, urls: UrlMaker, *, is_open: bool
) -> CellView:
    picture = cell.picture
    return project(
        CellView,
        cell,
        number=number,
        picture=picture and project(PictureView, picture, url=urls.file(picture.key)),
        model=None if is_open else comparison.models[cell.model].ref,
        **(_HIDDEN if is_open else {}),
    )


def _compared(comparison: Comparison, votes: Sequence[Vote]) -> list[ComparedView]:
    ballots = ballots_of(comparison, votes)
    cells = [cell for row in comparison.rows for cell in row.cells]
    return [
        _compared_view(comparison, index, [cell for cell in cells if cell.model == index], ballots)
        for index in range(len(comparison.models))
    ]


def _compared_view(
    comparison: Comparison, index: int, cells: Sequence[Cell], ballots: Sequence[Ballot]
) -> ComparedView:
    model = comparison.models[index]
    shown = [cell for cell in cells if not cell.failed]
    wins, ties, losses = standing(ballots, model.ref)
    images = sum(cell.images for cell in shown)
    costs = [cell.cost_micros for cell in shown if cell.cost_micros is not None]
    cost = sum(costs) if costs and len(costs) == len(shown) else None
    return ComparedView(
        model=model.ref,
        wins=wins,
        ties=ties,
        losses=losses,
        rows=len(shown),
        failures=len(cells) - len(shown),
        queue_s=statistics.median(cell.queue_s for cell in shown) if shown else None,
        load_s=sum(cell.load_s for cell in cells),
        run_s=statistics.median(cell.run_s for cell in shown) if shown else None,
        memory_bytes=model.memory_bytes or None,
        images=images,
        cost_micros=cost,
        image_micros=cost / images if cost is not None and images else None,
    )
