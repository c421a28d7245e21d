"""The database file: groups, durability, and who may open it."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from conformance.factories import (
    a_failure,
    a_lease_request,
    a_new_task,
    a_settlement,
    a_success,
)
from manual_clock import ManualClock
from swell.core.errors import Conflict, SwellError, Unavailable
from swell.core.fair_queueing import band
from swell.core.store_types import Accepted, TaskFilter
from swell.core.task import Released, Task, TaskState
from swell.db.schema_files import load_migrations
from swell.db.sql import Statements
from swell.db.sqlite import SqliteDatabase, wal
from swell.db.sqlite.disk_reserve import RESERVE_BYTES
from swell.db.sqlite.sqlite_database import SqliteSession
from swell.db.task_store import Store
from swell.queues.table_broker import Broker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "swell.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase.open(path, ManualClock())
    yield database
    await database.close()


@contextlib.contextmanager
def statements(database: SqliteDatabase) -> Iterator[list[str]]:
    """Note every statement that the writer runs."""
    noted: list[str] = []
    database._writer.set_trace_callback(noted.append)
    yield noted
    database._writer.set_trace_callback(None)


async def _nothing(session: SqliteSession) -> None:
    """Change nothing."""


async def settle(database: SqliteDatabase) -> None:
    """Return when whoever started to wait is waiting and nothing is being written."""
    await asyncio.sleep(0)
    await database.write(_nothing)


def adding(task_id: str, **fields: object) -> Callable[[SqliteSession], Awaitable[str]]:
    """Return an action that inserts a task."""

    async def action(session: SqliteSession) -> str:
        new = a_new_task(**fields)
        now = session.now
        session.add(
            Task(
                id=task_id,
                model=new.model,
                queue=new.queue,
                seed=1,
                input=new.input,
                created_at=now,
            )
        )
        return task_id

    return action


def ready(database: SqliteDatabase) -> dict[str, int]:
    """Return queue → number of ready tasks, as the database counts them in memory."""
    return {
        queue: sum(line.n for lines in bands.values() for line in lines.values())
        for queue, bands in database.state.lines.items()
    }


async def failing(session: SqliteSession) -> None:
    raise Conflict("this one cannot be done")


def beginning_of_log(path: Path) -> bytes:
    """Return what SQLite draws anew whenever it begins to write the log from its beginning."""
    with path.with_name(f"{path.name}-wal").open("rb") as log:
        return log.read(24)[16:]


async def kept(database: SqliteDatabase) -> set[str]:
    page = await Store(database).page(TaskFilter(), limit=10_000)
    return {task.id for task in page.tasks}


# ---- groups


async def test_many_writers_share_few_commits(database: SqliteDatabase) -> None:
    store = Store(database)
    with statements(database) as noted:
        await asyncio.gather(*(store.accept([a_new_task(seed=n)]) for n in range(500)))
    assert noted.count("COMMIT") <= 5
    assert len(await kept(database)) == 500


async def test_a_write_alone_is_committed_at_once(database: SqliteDatabase) -> None:
    store = Store(database)
    with statements(database) as noted:
        for seed in range(5):
            await store.accept([a_new_task(seed=seed)])
    assert noted.count("COMMIT") == 5


async def test_a_write_returns_only_after_its_commit(database: SqliteDatabase) -> None:
    with statements(database) as noted:
        writes = [asyncio.ensure_future(database.write(adding(f"{n:032x}"))) for n in range(50)]
        for write in asyncio.as_completed(writes):
            assert await write in await kept(database)
    assert noted.count("BEGIN IMMEDIATE") == noted.count("COMMIT")


async def test_leases_see_what_their_group_wrote(database: SqliteDatabase) -> None:
    async def count(session: SqliteSession) -> int:
        return ready(database)["demo/upper"]

    with statements(database) as noted:
        seen, _ = await asyncio.gather(
            database.write(count, queues=["demo/upper"]),
            Store(database).accept([a_new_task()]),
        )
    assert seen == 1
    assert noted.count("COMMIT") == 1


async def test_a_task_that_comes_while_a_worker_waits_is_accepted_and_started_in_one_commit(
    database: SqliteDatabase,
) -> None:
    until = asyncio.get_running_loop().create_future()
    lease = Broker(database).lease(a_lease_request(), until=until)
    waiting = asyncio.ensure_future(lease)
    await settle(database)
    with statements(database) as noted:
        await Store(database).accept([a_new_task()])
        (task,) = await waiting
    assert noted.count("COMMIT") == 1
    assert (await Store(database).get([task.id])) == [task]


async def test_a_worker_that_waits_has_its_task_before_the_commit_and_nobody_else_has(
    database: SqliteDatabase,
) -> None:
    store, broker = Store(database), Broker(database)
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[object] = []

    async def lease() -> Task:
        (held,) = await broker.lease(a_lease_request(), until=until)
        # Here, since the commit comes in this turn of the loop or in a thread at any moment.
        seen.append(("COMMIT" in noted, accepting.done(), await store.get([held.id])))
        return held

    waiting = asyncio.ensure_future(lease())
    await settle(database)
    with statements(database) as noted:
        accepting = asyncio.ensure_future(store.accept([a_new_task()]))
        held = await waiting
        # What it says meanwhile waits for the commit and is taken.
        settled = await store.settle([a_settlement(held, a_success())])
    assert seen == [(False, False, [None])]
    assert noted.count("COMMIT") == 2
    assert [task.state for task in settled if task] == [TaskState.SUCCEEDED]
    assert [each.task.id for each in await accepting if isinstance(each, Accepted)] == [held.id]


async def test_what_a_worker_was_given_by_a_commit_that_failed_was_never_there(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, broker = Store(database), Broker(database)
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(broker.lease(a_lease_request(), until=until))
    await settle(database)
    break_the_next_commit(database, monkeypatch)
    results = await asyncio.gather(
        store.accept([a_new_task()]), database.write(_nothing), return_exceptions=True
    )
    assert all(isinstance(result, SwellError) for result in results), results
    (held,) = await waiting
    assert await store.settle([a_settlement(held, a_success())]) == [None]
    assert await kept(database) == set()
    assert await broker.lease(a_lease_request()) == []
    await store.accept([a_new_task()])
    assert len(await broker.lease(a_lease_request())) == 1


def break_the_next_commit(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk refuse one commit."""
    commit = database._commit

    def broken() -> None:
        monkeypatch.setattr(database, "_commit", commit)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(database, "_commit", broken)


async def test_a_task_that_was_not_written_is_neither_counted_nor_charged(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_the_next_commit(database, monkeypatch)
    results = await asyncio.gather(
        Store(database).accept([a_new_task(user="ann", count=3)]),
        database.write(_nothing),
        return_exceptions=True,
    )
    assert all(isinstance(result, SwellError) for result in results), results
    assert database.state.lines == {}
    assert database.state.clocks["demo/upper", "key-1", 1].peek("ann") == 0


async def test_a_task_whose_commit_failed_goes_to_another_worker_that_waits(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, broker = Store(database), Broker(database)
    (accepted,) = await store.accept([a_new_task()])
    assert isinstance(accepted, Accepted)
    break_the_next_commit(database, monkeypatch)
    until: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    broken = asyncio.ensure_future(database.write(_nothing))
    first, second = (
        asyncio.ensure_future(broker.lease(a_lease_request(), until=until)) for _ in range(2)
    )
    with pytest.raises(SwellError):
        await broken
    # The first was given it before its commit failed.
    assert [task.id for task in await first] == [accepted.task.id]
    async with asyncio.timeout(30):
        (held,) = await second
    (ended,) = await store.settle([a_settlement(held, a_success())])
    assert ended is not None
    assert ended.id == accepted.task.id


async def test_a_wait_that_ends_in_vain_takes_nothing(database: SqliteDatabase) -> None:
    until = asyncio.get_running_loop().create_future()
    lease = Broker(database).lease(a_lease_request(), until=until)
    waiting = asyncio.ensure_future(lease)
    await settle(database)
    until.set_result(None)
    assert await waiting == []
    await Store(database).accept([a_new_task()])
    assert ready(database) == {"demo/upper": 1}


async def test_a_row_that_the_database_refuses_does_not_fail_a_worker_that_waits(
    database: SqliteDatabase,
) -> None:
    until = asyncio.get_running_loop().create_future()
    lease = Broker(database).lease(a_lease_request(), until=until)
    waiting = asyncio.ensure_future(lease)
    await settle(database)
    store = Store(database)
    with pytest.raises(OverflowError):
        await store.accept([a_new_task(seed=2**70)])
    assert not waiting.done()
    await store.accept([a_new_task(seed=7)])
    assert [task.seed for task in await waiting] == [7]


async def test_one_that_fails_in_a_group_fails_alone(database: SqliteDatabase) -> None:
    actions = [adding("a" * 32), failing, adding("b" * 32), failing, adding("c" * 32)]
    results = await asyncio.gather(
        *(database.write(action) for action in actions), return_exceptions=True
    )
    assert [isinstance(result, Conflict) for result in results] == [False, True, False, True, False]
    assert await kept(database) == {"a" * 32, "b" * 32, "c" * 32}


async def test_a_row_that_the_database_refuses_fails_its_own_writer_only(
    database: SqliteDatabase,
) -> None:
    # The second of these breaks the unique index only when the whole group is flushed.
    await database.write(adding("a" * 32))
    results = await asyncio.gather(
        *(database.write(adding(letter * 32)) for letter in "bacad"), return_exceptions=True
    )
    assert [isinstance(result, SwellError) for result in results] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert await kept(database) == {letter * 32 for letter in "abcd"}


async def test_values_that_cannot_be_stored_fail_their_own_writer_only(
    database: SqliteDatabase,
) -> None:
    store = Store(database)
    bad = [a_new_task(seed=2**70), a_new_task(input=msgspec.Raw(b'"\xff"'))]
    results = await asyncio.gather(
        *(store.accept([new]) for new in [a_new_task(), *bad, a_new_task()]),
        return_exceptions=True,
    )
    assert [isinstance(result, Exception) for result in results] == [False, True, True, False]
    assert len(await kept(database)) == 2


async def test_one_that_fails_alone_leaves_the_database_usable(database: SqliteDatabase) -> None:
    with pytest.raises(Conflict):
        await database.write(failing)
    assert await database.write(adding("a" * 32)) == "a" * 32


async def test_a_writer_that_was_canceled_does_not_disturb_its_group(
    database: SqliteDatabase,
) -> None:
    first = asyncio.ensure_future(database.write(adding("a" * 32)))
    second = asyncio.ensure_future(database.write(adding("b" * 32)))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == "b" * 32


def _lines_in_the_file(database: SqliteDatabase) -> dict[tuple[str, int, str], tuple[int, int]]:
    found: dict[tuple[str, int, str], tuple[int, int]] = {}
    for queue, priority, key_id, n, samples in database._reader.execute(
        Statements("sqlite").all()["ready_lines"]
    ):
        key = (queue, band(priority), key_id)
        before = found.get(key, (0, 0))
        found[key] = (before[0] + n, before[1] + samples)
    return found


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_kept_in_memory_is_what_lies_in_the_file(path: Path, seed: int) -> None:
    rng, clock = random.Random(seed), ManualClock()
    database = SqliteDatabase.open(path, clock)
    store, broker = Store(database, rng=rng), Broker(database)
    known: list[str] = []
    held: list[Task] = []

    async def accept() -> None:
        queue = rng.choice(["demo/upper", "demo/upper:v1"])
        deadline_s = rng.choice([None, 40.0])
        new = [
            a_new_task(
                queue=queue,
                start_by_s=deadline_s,
                key_id=rng.choice("ab"),
                priority=rng.randint(0, 3),
                count=rng.randint(1, 3),
            )
            for _ in range(rng.randint(1, 4))
        ]
        accepted = await store.accept(new)
        known.extend(one.task.id for one in accepted if isinstance(one, Accepted))

    async def lease() -> None:
        held.extend(await broker.lease(a_lease_request(rng.randint(1, 5))))

    async def settle_some() -> None:
        rng.shuffle(held)
        outcomes = [a_success(), a_failure(), Released(), None]
        told = [(held.pop(), rng.choice(outcomes)) for _ in range(len(held) // 2)]
        await store.settle([a_settlement(task, outcome) for task, outcome in told if outcome])

    async def cancel() -> None:
        await store.cancel(rng.sample(known, min(2, len(known))))

    async def wait() -> None:
        clock.advance(rng.choice([0.5, 5, 20]))
        await store.sweep()

    async def fail() -> None:
        with pytest.raises(OverflowError):
            await store.accept([a_new_task(), a_new_task(count=2**70)])

    steps = [accept, lease, settle_some, cancel, wait, fail]
    for _ in range(60):
        await asyncio.gather(*(rng.choice(steps)() for _ in range(rng.randint(1, 3))))
        assert _lines_in_the_file(database) == {
            (queue, urgency, key_id): (line.n, line.samples)
            for queue, bands in database.state.lines.items()
            for urgency, lines in bands.items()
            for key_id, line in lines.items()
        }
        for task_id, task in database.state.live.items():
            assert [task] == await store.get([task_id])
    await database.close()


async def test_after_a_restart_keys_and_their_users_go_on_taking_turns(path: Path) -> None:
    clock = ManualClock()
    database = SqliteDatabase.open(path, clock)
    store, broker = Store(database), Broker(database)
    crowd = [a_new_task(key_id="crowd", user=f"user-{n % 30}") for n in range(90)]
    await store.accept([*crowd, *(a_new_task(key_id="one") for _ in range(30))])
    await broker.lease(a_lease_request(20))
    await store.close()

    database = SqliteDatabase.open(path, clock)
    store, broker = Store(database), Broker(database)
    assert ready(database) == {"demo/upper": 100}
    await store.accept([a_new_task(key_id="crowd", user="new"), a_new_task(key_id="quiet")])
    served = await broker.lease(a_lease_request(30))
    keys = [task.key_id for task in served]
    assert "quiet" in keys[:3]
    assert abs(keys.count("crowd") - keys.count("one")) <= 2
    # Its user waits for one task of each other user of the key, and no longer.
    more = await broker.lease(a_lease_request(50))
    users = [task.user for task in [*served, *more] if task.key_id == "crowd"]
    assert users.index("new") <= 30
    await store.close()


# ---- what is promised of the file


async def test_commits_wait_for_the_disk(database: SqliteDatabase) -> None:
    for connection in (database._writer, database._reader):
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_the_log_is_moved_and_begins_anew_while_others_write(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CHANGES", 20)
    await database.write(adding(f"{0:032x}"))
    n, first = 1, beginning_of_log(path)
    async with asyncio.timeout(20):
        while beginning_of_log(path) == first:
            await database.write(adding(f"{n:032x}"))
            n += 1
    assert len(await kept(database)) == n


async def test_a_log_of_small_commits_is_moved_as_early_as_one_of_large_ones(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CHANGES", 1_000)
    log = path.with_name(f"{path.name}-wal")
    before = log.stat().st_size
    for n in range(300):
        await database.write(adding(f"{n:032x}"))
        # As soon as on a machine with time to spare.
        if (moving := database._log.moving) is not None:
            await asyncio.wrap_future(moving)
    # Of 4 KiB pages; not moved, it would be of 900 or more.
    assert (log.stat().st_size - before) / 4096 < 200


async def test_what_the_log_takes_does_not_count_as_a_slow_disk(database: SqliteDatabase) -> None:
    await database.write(adding(f"{0:032x}"))
    before_s = database._sync_s
    with pytest.raises(sqlite3.OperationalError, match="no transaction"):
        database._commit()
    database._log.moving = Future()
    database._writer.execute("BEGIN IMMEDIATE")
    database._writer.execute("UPDATE tasks SET version = 'v'")
    database._commit()
    assert database._sync_s == before_s


async def test_closing_waits_until_the_log_is_moved(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CHANGES", 1)
    database = SqliteDatabase.open(path, ManualClock())
    await database.write(adding(f"{0:032x}"))
    await database.close()
    again = SqliteDatabase.open(path, ManualClock())
    assert len(await kept(again)) == 1
    await again.close()


async def test_a_log_that_cannot_be_moved_is_logged_once_and_moved_later(
    database: SqliteDatabase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "CHANGES", 20)
    closed = sqlite3.connect(path)
    closed.close()
    n = 0
    with capture_logs() as logs:
        # Nothing opens the file by its name now; what is open stays open.
        hidden = path.parent.rename(path.parent.with_name("hidden"))
        try:
            for _ in range(3):
                database._log._move_beside()
            database._log.move(closed)
            while n < 10:
                await database.write(adding(f"{n:032x}"))
                n += 1
        finally:
            hidden.rename(path.parent)
    (told,) = logs
    assert (told["log_level"], told["event"]) == (
        "warning",
        "sqlite: write-ahead log not moved, retrying",
    )
    async with asyncio.timeout(20):
        while database._log._has_failed:
            await database.write(adding(f"{n:032x}"))
            n += 1
    assert len(await kept(database)) == n


async def test_readers_cannot_write(database: SqliteDatabase) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database._reader.execute("DELETE FROM tasks")


async def test_a_second_opener_is_told_what_to_do(database: SqliteDatabase, path: Path) -> None:
    with pytest.raises(Conflict, match="another data directory"):
        SqliteDatabase.open(path, ManualClock())


async def test_the_file_can_be_opened_again_after_it_was_closed(path: Path) -> None:
    for _ in range(3):
        await SqliteDatabase.open(path, ManualClock()).close()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_what_it_makes_is_for_its_user_alone(path: Path, umask: int) -> None:
    path = path.parent / "new" / "data" / path.name
    before = os.umask(umask)
    try:
        database = SqliteDatabase.open(path, ManualClock())
        await database.write(adding("a" * 32))
    finally:
        os.umask(before)
    assert _mode(path.parent) == 0o700
    found = {each.name: _mode(each) for each in path.parent.iterdir()}
    assert set(found) >= {"swell.db", "swell.db-wal", "swell.db.lock"}
    assert set(found.values()) == {0o600}
    await database.close()


async def test_room_is_kept_for_a_start_on_a_full_disk(path: Path) -> None:
    reserve = path.with_name("swell.db.reserve")
    await SqliteDatabase.open(path, ManualClock()).close()
    assert reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    reserve.unlink()
    await SqliteDatabase.open(path, ManualClock()).close()
    assert reserve.stat().st_size == RESERVE_BYTES


async def test_what_was_there_keeps_its_permissions(path: Path) -> None:
    path.parent.chmod(0o750)
    path.touch()
    path.chmod(0o640)
    await SqliteDatabase.open(path, ManualClock()).close()
    assert (_mode(path.parent), _mode(path)) == (0o750, 0o640)


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


async def test_closing_commits_what_waits_and_refuses_what_comes(path: Path) -> None:
    database = SqliteDatabase.open(path, ManualClock())
    writes = [asyncio.ensure_future(database.write(adding(f"{n:032x}"))) for n in range(20)]
    await asyncio.sleep(0)
    await database.close()
    assert len(await asyncio.gather(*writes)) == 20
    with pytest.raises(Unavailable):
        await database.write(adding("a" * 32))
    await database.close()


async def test_a_new_file_has_had_every_migration(database: SqliteDatabase) -> None:
    (version,) = database._reader.execute("PRAGMA user_version").fetchone()
    assert version == load_migrations("sqlite")[-1][0]


async def test_a_file_of_a_newer_version_is_not_touched(path: Path) -> None:
    await SqliteDatabase.open(path, ManualClock()).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=999")
    with pytest.raises(Conflict, match="newer"):
        SqliteDatabase.open(path, ManualClock())
    # Nor does the refusal keep the file locked.
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={load_migrations('sqlite')[-1][0]}")
    await SqliteDatabase.open(path, ManualClock()).close()


# ---- surviving


async def test_tasks_are_the_same_after_reopening(path: Path) -> None:
    clock = ManualClock()
    database = SqliteDatabase.open(path, clock)
    store, broker = Store(database), Broker(database)
    await store.accept([a_new_task(user="ann", seed=n, finish_by_s=60) for n in range(6)])
    ended, failed, _ = await broker.lease(a_lease_request(3))
    await store.settle([a_settlement(ended)])
    await store.cancel([failed.id])
    before = (await store.page(TaskFilter())).tasks
    await database.close()

    database = SqliteDatabase.open(path, clock)
    assert (await Store(database).page(TaskFilter())).tasks == before
    states = sorted(task.state for task in before)
    assert states == [*[TaskState.QUEUED] * 3, *[TaskState.RUNNING] * 2, TaskState.SUCCEEDED]
    # The queue goes on where it was, in the same order.
    leased = await Broker(database).lease(a_lease_request(10))
    assert [task.seed for task in leased] == [3, 4, 5]
    await database.close()


async def test_fair_order_goes_on_after_reopening(path: Path) -> None:
    clock = ManualClock()
    database = SqliteDatabase.open(path, clock)
    store, broker = Store(database), Broker(database)
    await store.accept([a_new_task(user="flood") for _ in range(300)])
    running = await broker.lease(a_lease_request(100))
    await store.settle([a_settlement(task) for task in running[:50]])
    await database.close()

    database = SqliteDatabase.open(path, clock)
    store, broker = Store(database), Broker(database)
    await store.accept([a_new_task(user="ann") for _ in range(50)])
    users = [task.user for task in await broker.lease(a_lease_request(40))]
    assert abs(users.count("ann") - users.count("flood")) <= 2
    await database.close()


ACCEPT_UNTIL_KILLED = """
import asyncio, sys
from concurrent.futures import Future
from pathlib import Path
from swell.core.clock import SystemClock
from swell.core.store_types import Accepted
from swell.db.sqlite import SqliteDatabase, wal
from swell.db.task_store import Store
from conformance.factories import a_new_task

async def submit(store):
    while True:
        (accepted,) = await store.accept([a_new_task()])
        assert isinstance(accepted, Accepted)
        print(accepted.task.id, flush=True)

async def main():
    store = Store(SqliteDatabase.open(Path(sys.argv[1]), SystemClock()))
    await asyncio.gather(*(submit(store) for _ in range(8)))

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 40, 333])
async def test_a_process_killed_right_after_an_answer_has_lost_nothing(
    path: Path, after: int
) -> None:
    command = [sys.executable, "-c", ACCEPT_UNTIL_KILLED, str(path)]
    tests = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {"PYTHONPATH": tests}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(after)]
        os.kill(process.pid, signal.SIGKILL)
        answered += [line.strip() for line in process.stdout if line.endswith("\n")]
    database = SqliteDatabase.open(path, ManualClock())
    found = await Store(database).get(answered)
    assert len(answered) >= after
    assert [task.id for task in found if task is not None] == answered
    (check,) = database._reader.execute("PRAGMA integrity_check").fetchone()
    assert check == "ok"
    await database.close()
