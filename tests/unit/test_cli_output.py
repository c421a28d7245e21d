import pytest

from swell.cli.output import data, talk


def test_what_is_printed_is_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    # Between colons, as in a certificate's fingerprint, two letters may be the name of an emoji.
    data.print("32:CD:C6")
    talk.print("32:CD:C6", markup=False)
    assert tuple(capsys.readouterr()) == ("32:CD:C6\n", "32:CD:C6\n")
