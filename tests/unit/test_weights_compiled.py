"""Compiled programs that are kept for the next process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from swell.weights.compile_cache import CompiledCache, CompiledKey, NotPrivate, processor

KEY = CompiledKey(("ab" * 32,), "v1", {"torch": "2.13.0"}, "cpu", "a cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "compiled"


def content_path(folder: Path) -> Path:
    [path] = (folder / "files").glob("??/*")
    return path


def test_what_was_kept_is_found_by_another_user_of_the_cache(folder: Path) -> None:
    assert CompiledCache(folder).get(KEY) is None
    assert CompiledCache(folder).put(KEY, b"program")
    assert CompiledCache(folder).get(KEY) == b"program"
    assert CompiledCache(folder).put(KEY, b"better")
    assert CompiledCache(folder).get(KEY) == b"better"


@pytest.mark.parametrize(
    "other",
    [
        {"weights": ("cd" * 32,)},
        {"model": "v2"},
        {"libraries": {"torch": "2.14.0"}},
        {"libraries": {"torch": "2.13.0", "cuda": "13"}},
        {"device": "cuda"},
        {"processor": "another cpu"},
    ],
)
def test_another_build_never_finds_it(folder: Path, other: dict[str, object]) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    assert cache.get(msgspec.structs.replace(KEY, **other)) is None


def test_a_content_that_has_changed_is_not_returned_and_goes(folder: Path) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    path = content_path(folder)
    path.chmod(0o600)
    path.write_bytes(b"prograM")
    assert cache.get(KEY) is None
    assert not path.exists()
    assert cache.put(KEY, b"program")
    assert cache.get(KEY) == b"program"


def test_a_content_that_is_evicted_while_it_is_read_is_returned(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, utime = CompiledCache(folder), os.utime
    cache.put(KEY, b"program")

    def evicted(path: Path) -> None:
        assert not cache.contents.evict(0).left_bytes
        utime(path)

    monkeypatch.setattr(os, "utime", evicted)
    assert cache.get(KEY) == b"program"
    assert cache.get(KEY) is None


def test_a_record_of_another_key_is_not_believed(folder: Path) -> None:
    cache = CompiledCache(folder)
    other = msgspec.structs.replace(KEY, model="v2")
    cache.put(KEY, b"program")
    [record] = (folder / "records").glob("*.json")
    record.rename(folder / "records" / f"{other.digest}.json")
    assert cache.get(other) is None


@pytest.mark.parametrize("text", [b"", bytes(100), b'{"sha256":"\xff"}', b'{"x":' + b"[" * 9000])
def test_a_record_that_is_damaged_is_none(folder: Path, text: bytes) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    [record] = (folder / "records").iterdir()
    record.chmod(0o600)
    record.write_bytes(text)
    assert cache.get(KEY) is None
    assert cache.put(KEY, b"program")
    assert cache.get(KEY) == b"program"


@pytest.mark.parametrize("name", ["records", "files", "locks"])
def test_what_the_disk_does_not_take_is_not_kept_and_costs_nobody_more(
    folder: Path, name: str
) -> None:
    cache = CompiledCache(folder)
    folder.mkdir(mode=0o700)
    (folder / name).write_text("no folder")
    assert not cache.put(KEY, b"program")
    assert cache.get(KEY) is None


def test_a_folder_that_others_can_use_is_refused(folder: Path) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o770)
    for use in (lambda: cache.get(KEY), lambda: cache.put(KEY, b"x"), cache.workplace):
        with pytest.raises(NotPrivate, match="chmod 700"):
            use()


def test_a_link_to_a_private_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    CompiledCache(folder).put(KEY, b"program")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(NotPrivate):
        CompiledCache(tmp_path / "link").get(KEY)


def test_the_longest_unused_goes_when_the_budget_is_spent(folder: Path) -> None:
    cache = CompiledCache(folder, budget_bytes=25)
    keys = [msgspec.structs.replace(KEY, model=str(n)) for n in range(3)]
    for age, key in enumerate(keys[:2]):
        assert cache.put(key, bytes([age]) * 10)
    oldest = {path.read_bytes(): path for path in (folder / "files").glob("??/*")}
    os.utime(oldest[b"\x01" * 10], (1, 1))
    assert cache.put(keys[2], b"2" * 10)
    assert [cache.get(key) is not None for key in keys] == [True, False, True]
    assert not cache.put(KEY, b"x" * 26)


@pytest.mark.slow
def test_a_workplace_goes_with_its_process(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from swell.weights.compile_cache import CompiledCache\n"
        "place = CompiledCache(Path(sys.argv[1])).workplace()\n"
        "(place / 'library.so').write_bytes(b'code'); print(place, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        ours = CompiledCache(folder)
        assert ours.workplace() != theirs
        assert (theirs / "library.so").exists()
        process.communicate()
    CompiledCache(folder).workplace()
    assert not theirs.exists()
    assert len(list((folder / "work").glob("*.lock"))) == 2


def test_a_processor_has_a_name() -> None:
    assert processor() == processor() != ""


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_folder_that_others_could_only_read_becomes_ones_own(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    cache = CompiledCache(folder)
    assert cache.put(KEY, b"program")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_has_failed_is_not_used_again_until_the_same_has_been_made_here(folder: Path) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    cache.refuse(digest_of(b"program"))
    assert CompiledCache(folder).get(KEY) is None
    assert cache.put(KEY, b"compiled here")
    assert cache.get(KEY) == b"compiled here"
    assert cache.put(KEY, b"program"), "it was made here, and has run"
    assert cache.get(KEY) == b"program"


DIES = """
import os, sys
from pathlib import Path
from swell.weights.compile_cache import CompiledCache
from swell.weights.compile_cache import all_tried_out

cache = CompiledCache(Path(sys.argv[1]))
place = cache.workplace()
cache.try_out(place, b"program")
if sys.argv[2] == "runs":
    cache.tried_out(place)
if sys.argv[2] == "is warm":
    all_tried_out()
os.abort()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "is_refused"), [("dies", True), ("runs", False), ("is warm", False)]
)
def test_what_a_process_died_over_is_refused_by_the_next(
    folder: Path, what: str, is_refused: bool
) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    subprocess.run([sys.executable, "-c", DIES, str(folder), what], check=False)
    assert cache.get(KEY) == b"program", "nobody has looked yet"
    cache.workplace()
    assert (cache.get(KEY) is None) == is_refused
    assert len(list((folder / "work").iterdir())) == 2, "only a folder and a lock of this process"


def test_what_a_living_process_tries_out_is_used_by_others(folder: Path) -> None:
    cache = CompiledCache(folder)
    cache.put(KEY, b"program")
    cache.try_out(cache.workplace(), b"program")
    CompiledCache(folder).workplace()
    assert cache.get(KEY) == b"program"
