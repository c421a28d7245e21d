from pathlib import Path

from swell.client.access import Access, read_access, write_access


def test_what_a_backend_leaves_is_found_again_by_its_user_alone(tmp_path: Path) -> None:
    # A backend on PostgreSQL has nothing else in its data folder, and nobody made it before.
    folder = tmp_path / "not" / "there"
    left = Access(url="http://127.0.0.1:8000", key="secret")
    write_access(folder, left)
    assert read_access(folder) == left
    assert (folder / "access.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o077 == 0
