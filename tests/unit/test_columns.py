"""The column table of a task: complete, the same in both schemas, and the only list of columns."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

import swell
from swell.core.pipeline_stages import Done, Pipeline, Run, Stage
from swell.core.results import Artifact, TaskError, TaskWarning, Timings
from swell.core.task import Task, TaskState
from swell.core.webhook import Webhook
from swell.db.columns import CHANGED, COLUMNS, NEW, Rows, removed_row
from swell.db.schema_files import load_migrations
from swell.db.sqlite.sqlite_rows import NATIVE

NOW = datetime(2026, 11, 25, 12, 30, 0, 123456, tzinfo=UTC)

DIALECTS: dict[str, Any] = {"sqlite": NATIVE, "postgres": {}}

#: Columns that are no field of a task.
OTHERS = {"seq", "wake_at", "removed"}

#: A task in which no field has its default.
WHOLE = Task(
    id="0" * 32,
    model="demo/chain",
    queue="demo/a:v1",
    version="v1",
    state=TaskState.FAILED,
    input=msgspec.Raw(b'{"text":"\xc3\xa9"}'),
    count=2,
    seed=3,
    priority=0,
    key_id="key",
    user="ann",
    metadata=msgspec.Raw(b'{"a":1}'),
    created_at=NOW,
    start_by_at=NOW,
    finish_by_at=NOW,
    available_at=NOW,
    tag=1.5,
    attempt=4,
    handed_back=1,
    max_attempts=5,
    worker_id="worker",
    lease_token="token",
    lease_expires_at=NOW,
    cancel_requested=True,
    started_at=NOW,
    finished_at=NOW,
    output=msgspec.Raw(b"[1,2]"),
    artifacts=(Artifact(key="outputs/a", content_type="image/png", bytes=1, width=2, height=3),),
    warnings=(TaskWarning(code="odd", message="An odd word."),),
    error=TaskError(code="a", title="b", detail="c"),
    timings=Timings(queue_s=1.0, device_s=2.0),
    dead=True,
    retry_of="1" * 32,
    checkpoint="checkpoints/a",
    traceparent="00-a-b-01",
    webhook=Webhook(url="https://example.com", events=("succeeded",)),
    run=Run(
        pipeline=Pipeline(stages=(Stage(name="a", queue="demo/a"),)),
        version="v1",
        done=(Done(name="a", model="demo/a", attempt=1),),
    ),
)


def test_every_field_of_a_task_is_one_column() -> None:
    fields = [column.field or column.name for column in COLUMNS]
    assert sorted(fields) == sorted(Task.__struct_fields__)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_schema_of_each_database_has_these_columns(dialect: str) -> None:
    (_, _, script), *_ = load_migrations(dialect)
    match = re.search(r"CREATE TABLE tasks \((.*?)\n\)", script, re.DOTALL)
    assert match is not None
    declared = {line.split()[0] for line in match[1].strip().splitlines()}
    assert declared - OTHERS == {column.name for column in NEW}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_task_comes_back_from_its_row(dialect: str) -> None:
    native = DIALECTS[dialect]
    assert all(
        getattr(WHOLE, field) != default
        for field, default in zip(
            reversed(Task.__struct_fields__), reversed(Task.__struct_defaults__), strict=False
        )
        if not field.endswith("_removed")
    )
    row = [*Rows(NEW, native).of(WHOLE), True, False]
    assert Rows(COLUMNS, native).task(row) == msgspec.structs.replace(WHOLE, inputs_removed=True)


def test_an_empty_list_is_no_value() -> None:
    plain = msgspec.structs.replace(WHOLE, artifacts=(), warnings=())
    row = dict(zip((column.name for column in CHANGED), Rows(CHANGED, {}).of(plain), strict=True))
    assert row["artifacts"] is None
    assert row["warnings"] is None


def test_a_row_without_parts_names_the_bits_that_are_gone() -> None:
    bare = msgspec.structs.replace(WHOLE, inputs_removed=True, outputs_removed=True)
    assert removed_row(bare)["removed"] == 3


@pytest.mark.parametrize(
    "name",
    ["handed_back", "max_attempts", "lease_token", "started_at", "timings", "traceparent"],
)
def test_a_column_is_named_in_three_files_of_the_database_code(name: str) -> None:
    package = Path(swell.__file__).parent
    files = {
        path.relative_to(package).as_posix()
        for path in (package / "db").rglob("*")
        if path.suffix in (".py", ".sql") and re.search(rf"\b{name}\b", path.read_text("utf-8"))
    }
    assert files == {
        "db/columns.py",
        "db/schema/postgres/0001_baseline.sql",
        "db/schema/sqlite/0001_baseline.sql",
    }
