"""Folders of compiled programs: private, within a budget."""

import os
from pathlib import Path

import pytest

from swell.weights.compile_cache import CompileCache, NotPrivate, processor

KEY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


def compiled(cache: CompileCache, key: str = KEY, size: int = 4) -> Path:
    """Have programs under a key."""
    place, _ = cache.open(key)
    (place / "library.so").write_bytes(bytes(size))
    return place


def test_programs_are_found_under_their_key_alone(folder: Path) -> None:
    place = compiled(CompileCache(folder))
    assert CompileCache(folder).open(KEY) == (place, True)
    assert CompileCache(folder).open(OTHER) == (folder / "programs" / OTHER, False)
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(folder: Path, mode: int) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(NotPrivate, match="chmod 700"):
        CompileCache(folder).open(KEY)


def test_a_link_to_a_private_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "own")
    with pytest.raises(NotPrivate):
        CompileCache(folder).open(KEY)


def test_a_folder_that_others_could_only_read_is_closed_to_them(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    CompileCache(folder).open(KEY)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_longest_unused_goes_when_the_budget_is_spent(folder: Path) -> None:
    cache = CompileCache(folder, 1000)
    first, second = compiled(cache, KEY, 600), compiled(cache, OTHER, 600)
    os.utime(first, (1, 1))
    assert cache.open(OTHER)[1]
    assert not first.exists()
    assert second.exists()


def test_a_processor_has_a_name() -> None:
    assert processor() == processor() != ""
