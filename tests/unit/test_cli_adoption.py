"""What `swell models canary` and its kin understand; what they do is tested with a server."""

import pytest
import typer

from swell.cli.adoption import share_of, start_canary


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("99.5%", 0.995)])
def test_a_share_is_a_part_or_a_percentage(text: str, share: float) -> None:
    assert share_of(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["0", "100%", "1", "-5%", "much", "", "nan"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write such as 5%"):
        share_of(text)


def test_a_canary_names_its_version() -> None:
    with pytest.raises(typer.BadParameter, match="write demo/upper:VERSION"):
        start_canary("demo/upper", 0.1)
