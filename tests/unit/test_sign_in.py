"""The file that a desktop's browser opens to sign in."""

import stat
import sys
import webbrowser
from pathlib import Path

import pytest

from swell.cli import sign_in
from swell.client.access import Access, write_access
from swell.settings.load import Settings


def test_only_its_owner_reads_the_file_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = Access(url="http://here", key="secret", worker_key_id="w")
    write_access(tmp_path, access)
    older = tmp_path / "open.html"
    older.write_text("old")
    older.chmod(0o644)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sign_in, "has_desktop", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    settings = Settings.model_validate({"data_dir": tmp_path, "client": {"browser": True}})
    sign_in._open_on_desktop(settings, access)
    assert opened == [older.absolute().as_uri()]
    assert "secret" in older.read_text()
    assert stat.S_IMODE(older.stat().st_mode) == 0o600
