"""What is seen of a comparison: no names, times or costs until the voting has ended."""

from collections.abc import Sequence

from swell.adoption.compare import Summary, summaries
from swell.adoption.votes import ballots_of, standings
from swell.api.comparison_messages import (
    CellView,
    ComparedView,
    ComparisonSummary,
    ComparisonView,
    PictureView,
    RowView,
)
from swell.api.views import UrlMaker
from swell.comparisons import Cell, Comparison, Outline, Picture, Vote

#: Nobody.
_NOBODY = ("", "")


def comparison_view(
    comparison: Comparison,
    votes: Sequence[Vote],
    urls: UrlMaker,
    *,
    is_own: bool,
    has_names: bool = False,
    voter: tuple[str, str] = _NOBODY,
) -> ComparisonView:
    """Return a comparison as it is seen.

    Args:
        comparison: Which one.
        votes: All of it.
        urls: Makes URLs of its pictures.
        is_own: Whether who looks may end the voting.
        has_names: Whether to tell all although the voting goes on.
        voter: Key and name of who looks.
    """
    is_told = has_names or comparison.closed_at is not None
    own = {vote.row: vote for vote in votes if (vote.key_id, vote.voter) == voter}
    return ComparisonView(
        id=comparison.id,
        name=comparison.name,
        created_at=comparison.created_at,
        closed_at=comparison.closed_at,
        is_shared=comparison.is_shared,
        is_own=is_own,
        columns=len(comparison.models),
        votes=len(votes),
        rows=[
            _row_view(comparison, number, own.get(number), urls, is_told=is_told)
            for number in range(len(comparison.rows))
        ],
        models=_compared(comparison, votes) if is_told else None,
    )


def summary_view(outline: Outline, *, is_own: bool) -> ComparisonSummary:
    """Return a comparison as it stands in a list."""
    return ComparisonSummary(
        id=outline.id,
        name=outline.name,
        created_at=outline.created_at,
        closed_at=outline.closed_at,
        is_shared=outline.is_shared,
        is_own=is_own,
        columns=outline.models,
        rows=outline.rows,
        votes=outline.votes,
    )


def _row_view(
    comparison: Comparison, number: int, vote: Vote | None, urls: UrlMaker, *, is_told: bool
) -> RowView:
    row = comparison.rows[number]
    models = [cell.model for cell in row.shown]
    voted = None
    if vote is not None and vote.winner in models:
        voted = models.index(vote.winner) + 1
    return RowView(
        row=number,
        label=row.label,
        can_be_voted=row.can_be_voted,
        voted=voted,
        is_tie=vote is not None and vote.winner is None,
        seed=row.seed if is_told else None,
        cells=[
            _cell_view(comparison, cell, number, urls, is_told=is_told)
            for number, cell in enumerate(row.shown, 1)
        ],
    )


def _cell_view(
    comparison: Comparison, cell: Cell, number: int, urls: UrlMaker, *, is_told: bool
) -> CellView:
    return CellView(
        number=number,
        picture=None if cell.picture is None else _picture_view(cell.picture, urls),
        text=cell.text,
        model=comparison.models[cell.model].ref if is_told else None,
        task_id=cell.task_id if is_told else None,
        queue_s=cell.queue_s if is_told else None,
        run_s=cell.run_s if is_told else None,
        cost_micros=cell.cost_micros if is_told else None,
    )


def _picture_view(picture: Picture, urls: UrlMaker) -> PictureView:
    return PictureView(
        url=urls.file(picture.key),
        content_type=picture.content_type,
        width=picture.width,
        height=picture.height,
    )


def _compared(comparison: Comparison, votes: Sequence[Vote]) -> list[ComparedView]:
    refs = [model.ref for model in comparison.models]
    counts = standings(ballots_of(comparison, votes), refs)
    return [
        _compared_view(summary, count)
        for summary, count in zip(summaries(comparison), counts, strict=True)
    ]


def _compared_view(summary: Summary, count: tuple[int, int, int]) -> ComparedView:
    wins, ties, losses = count
    return ComparedView(
        model=summary.model.ref,
        wins=wins,
        ties=ties,
        losses=losses,
        rows=summary.rows,
        failures=summary.failures,
        queue_s=summary.queue_s,
        load_s=summary.load_s,
        run_s=summary.run_s,
        memory_bytes=summary.model.memory_bytes or None,
        images=summary.images,
        cost_micros=summary.cost_micros,
        image_micros=summary.image_micros,
    )
