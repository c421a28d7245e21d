-- Tasks.
-- Times are microseconds since 1970 UTC; JSON is kept as text, as it came.
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    model TEXT NOT NULL,
    queue TEXT NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    input TEXT NOT NULL,
    count INTEGER NOT NULL,
    seed INTEGER,
    priority INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    user_id TEXT,
    metadata TEXT,
    created_at INTEGER NOT NULL,
    start_by_at INTEGER,
    finish_by_at INTEGER,
    available_at INTEGER,
    tag REAL NOT NULL,
    attempt INTEGER NOT NULL,
    handed_back INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    worker_id TEXT,
    lease_token TEXT,
    lease_expires_at INTEGER,
    cancel_requested INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    output TEXT,
    artifacts TEXT,
    error TEXT,
    timings TEXT,
    dead INTEGER NOT NULL,
    retry_of TEXT,
    wake_at INTEGER,
    checkpoint TEXT,
    removed INTEGER NOT NULL DEFAULT 0,
    traceparent TEXT,
    webhook TEXT,
    run TEXT,
    warnings TEXT
) STRICT;

CREATE UNIQUE INDEX tasks_id ON tasks (id);

-- When the sweeper must check a task: end of its lease, deadline or backoff.
CREATE INDEX tasks_wake ON tasks (wake_at) WHERE wake_at IS NOT NULL;

CREATE INDEX tasks_dead ON tasks (id) WHERE dead;

CREATE INDEX tasks_user ON tasks (user_id, id) WHERE user_id IS NOT NULL;

-- Retries of ended tasks.
CREATE TABLE repeats (
    task_id TEXT PRIMARY KEY,
    again_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each idempotency key of the last day.
CREATE TABLE idempotency (
    key_id TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    task_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_age ON idempotency (created_at);

-- The registry. `body` is the JSON of the record.
CREATE TABLE models (
    seq INTEGER NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (name, version)
) STRICT;

CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    seen_at INTEGER NOT NULL,
    gone_at INTEGER,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    body TEXT NOT NULL,
    old_digest BLOB,
    used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE secrets (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX tasks_ready ON tasks (queue, key_id, priority, tag, id, count)
    WHERE state = 'queued' AND available_at IS NULL;

-- Statistics and other small values that backends keep between starts.
CREATE TABLE notes (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Objects that no task uses, until they are deleted.
CREATE TABLE discarded (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
) STRICT;

-- Leader leases: which process runs a periodic duty, and until when.
CREATE TABLE duties (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    held_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `tasks.removed`: 1 = input deleted, 2 = outputs deleted. Uploads and which tasks use them.
CREATE INDEX tasks_ended ON tasks (removed, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE uploads (
    key TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_age ON uploads (created_at);

CREATE TABLE file_uses (
    key TEXT NOT NULL,
    task_id TEXT NOT NULL,
    PRIMARY KEY (key, task_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX file_uses_task ON file_uses (task_id);

-- Audit log, and rate limits shared by all processes.
CREATE INDEX api_keys_old_digest ON api_keys (old_digest) WHERE old_digest IS NOT NULL;

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TABLE allowances (
    name TEXT PRIMARY KEY,
    spent_until_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `INSERT OR REPLACE` deletes without firing the DELETE trigger.
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

-- Recent cold starts, restarts and switches. `family` is the SHA-256 of kind, pool and models;
-- `worker_id` is set once the worker of a cold start has registered.
CREATE TABLE startups (
    id TEXT PRIMARY KEY,
    family TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    begun_at INTEGER NOT NULL,
    is_under_way INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX startups_family ON startups (family, begun_at, id) WHERE NOT is_under_way;

CREATE INDEX startups_age ON startups (begun_at) WHERE NOT is_under_way;

CREATE INDEX startups_worker ON startups (worker_id) WHERE worker_id <> '';

CREATE INDEX startups_under_way ON startups (begun_at) WHERE is_under_way;

-- What machine time was spent on. Append-only; `micros` are millionths of a dollar.
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    pool TEXT NOT NULL,
    models TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    ref TEXT NOT NULL,
    outcome TEXT NOT NULL,
    seconds REAL NOT NULL,
    micros INTEGER,
    account TEXT NOT NULL DEFAULT '',
    key_id TEXT NOT NULL DEFAULT '',
    user_name TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    images INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX ledger_at ON ledger (at);

CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER ledger_is_not_deleted BEFORE DELETE ON ledger
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;

-- `INSERT OR REPLACE` deletes without firing the DELETE trigger.
CREATE TRIGGER ledger_is_not_replaced BEFORE INSERT ON ledger
WHEN EXISTS (SELECT 1 FROM ledger WHERE number = NEW.number)
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;

-- Total charged to each machine.
CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    seconds REAL NOT NULL,
    micros INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The ledger by day (UTC, `2026-11-26`) and the other dimensions of reports. `model` is empty where
-- no attempt was made.
CREATE TABLE costs (
    day TEXT NOT NULL,
    kind TEXT NOT NULL,
    pool TEXT NOT NULL,
    model TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    is_priced INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    images INTEGER NOT NULL,
    seconds REAL NOT NULL,
    micros INTEGER NOT NULL,
    PRIMARY KEY (day, kind, pool, model, key_id, user_name, is_priced)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER ledger_is_added_up AFTER INSERT ON ledger
BEGIN
    INSERT INTO costs VALUES (
        date(NEW.at / 1000000, 'unixepoch'), NEW.kind, NEW.pool,
        CASE WHEN NEW.kind IN ('attempt', 'failed') THEN NEW.models ELSE '' END,
        NEW.key_id, NEW.user_name, NEW.micros IS NOT NULL, NEW.attempts, NEW.images, NEW.seconds,
        coalesce(NEW.micros, 0)
    )
    ON CONFLICT DO UPDATE SET
        attempts = attempts + excluded.attempts,
        images = images + excluded.images,
        seconds = seconds + excluded.seconds,
        micros = micros + excluded.micros;
    INSERT INTO accounts VALUES (NEW.account, NEW.seconds, coalesce(NEW.micros, 0))
    ON CONFLICT DO UPDATE SET
        seconds = seconds + excluded.seconds, micros = micros + excluded.micros;
END;

-- Webhook deliveries (the outbox).
CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    key_id TEXT NOT NULL,
    event TEXT NOT NULL,
    place TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    data TEXT,
    state TEXT NOT NULL,
    tries INTEGER NOT NULL,
    due_at INTEGER,
    ended_at INTEGER,
    reason TEXT NOT NULL,
    log TEXT,
    answers TEXT
) STRICT;

CREATE INDEX deliveries_due ON deliveries (place, due_at, seq) WHERE due_at IS NOT NULL;

-- Deliveries of one task to one receiver, in order.
CREATE INDEX deliveries_line ON deliveries (task_id, endpoint, seq);

CREATE INDEX deliveries_key ON deliveries (key_id, seq);

CREATE INDEX deliveries_endpoint ON deliveries (endpoint, seq) WHERE endpoint <> '';

CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;

-- Quotas of keys and users, and their use by day and month. `user_name` is empty
-- for the key itself, `*` for each of its users, and `=` with a name for one.
CREATE TABLE quotas (
    key_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (key_id, user_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE quota_uses (
    key_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    period TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    micros INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (key_id, user_name, period)
) STRICT, WITHOUT ROWID;

-- Credits in millionths of a dollar.
CREATE TABLE credit_accounts (
    key_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    granted INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (key_id, user_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE credits (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    key_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;

-- Quota reserved for unfinished tasks, by task id.
CREATE TABLE quota_holds (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Models compared. `body` is JSON (`swell.core.comparison.Comparison`); the other columns are for lists.
-- `closed_at` is when the voting ended.
CREATE TABLE comparisons (
    id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    is_shared INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    models INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    votes INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;

CREATE INDEX comparisons_key ON comparisons (key_id);

CREATE INDEX comparisons_closed ON comparisons (closed_at, id) WHERE closed_at IS NOT NULL;

-- One vote per row and voter. `winner` is null for a tie.
CREATE TABLE votes (
    comparison_id TEXT NOT NULL,
    line INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    voter TEXT NOT NULL,
    winner INTEGER,
    at INTEGER NOT NULL,
    PRIMARY KEY (comparison_id, line, key_id, voter)
) STRICT, WITHOUT ROWID;

-- Public share links, at most one per task.
CREATE TABLE share_links (
    task_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    has_prompt INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX share_links_key ON share_links (key_id, task_id);

-- Liked files of tasks, by index.
CREATE TABLE favourites (
    key_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    task_id TEXT NOT NULL,
    artifact INTEGER NOT NULL,
    PRIMARY KEY (key_id, user_name, task_id, artifact)
) STRICT, WITHOUT ROWID;

CREATE INDEX favourites_task ON favourites (task_id);

-- Full-text index of inputs, with `==` and the task's key, and the `seq` up to which it is complete.
-- Characters beyond ASCII are stored as `=` and six digits.
CREATE VIRTUAL TABLE task_words USING fts5 (
    words, tokenize = "ascii tokenchars '='", detail = none
);

CREATE TABLE words_mark (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL
) STRICT;

INSERT INTO words_mark VALUES (1, 0);
