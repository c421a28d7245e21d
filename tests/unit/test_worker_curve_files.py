"""Cost curves on disk."""

from pathlib import Path

import pytest

from swell.core.records import ModelCard
from swell.worker import curve_files
from swell.worker.curve import MOST_CURVES, Curve
from swell.worker.curve_files import curves_path, read_curves, write_curves

CURVES = {"test/a 2x3 flow_euler 4 ()": Curve().observe(4, 0.5).observe(4, 0.25), "b": Curve()}


def test_curves_that_were_written_are_read_again_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "curves.json"
    assert read_curves(path) == {}
    write_curves(path, CURVES)
    assert read_curves(path) == CURVES
    write_curves(path, {"b": Curve()})
    assert read_curves(path) == {"b": Curve()}
    assert list(path.parent.iterdir()) == [path]


def test_only_the_latest_curves_are_written_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "curves.json"
    curves = {str(number): Curve() for number in range(MOST_CURVES + 3)}
    write_curves(path, curves)
    assert list(read_curves(path)) == list(curves)[3:]
    # An earlier version may have written more.
    monkeypatch.setattr(curve_files, "MOST_CURVES", 5)
    assert list(read_curves(path)) == list(curves)[-5:]


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"a": {"version"', b"[" * 100_000])
def test_a_broken_file_is_left_out_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    path = tmp_path / "curves.json"
    path.write_bytes(body)
    assert read_curves(path) == {}
    assert "curves.json cannot be read" in capsys.readouterr().err


def test_a_broken_curve_is_measured_anew_and_the_others_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    good = CURVES["test/a 2x3 flow_euler 4 ()"]
    path.write_bytes(b'{"good": %s, "bad": {"version": 0}}' % good.to_json())
    assert read_curves(path) == {"good": good, "bad": Curve()}


def test_a_folder_that_cannot_be_written_stops_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    write_curves(tmp_path / "file" / "curves.json", CURVES)
    assert "cannot be kept" in capsys.readouterr().err


def test_every_version_and_device_has_a_file_of_its_own(tmp_path: Path) -> None:
    card = ModelCard(name="test/a.b", version="123")
    assert curves_path(tmp_path, card, "cuda:1").name == "test-a.b-123-cuda-1.json"
