-- compatible_from: 1
-- Tasks. JSON is stored as the text received. All times come from a backend's clock, never from
-- the database server's.
--
-- Ids begin with the time of creation, so the table can be split by ranges of id (PARTITION BY
-- RANGE (id)) and whole months dropped: only `id` is unique here; the other unique
-- keys (repeats, idempotency) are in separate tables.
CREATE TABLE tasks (
    id text COLLATE "C" PRIMARY KEY,
    model text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
    version text NOT NULL,
    state text COLLATE "C" NOT NULL,
    input text NOT NULL,
    count integer NOT NULL,
    seed bigint,
    priority integer NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C",
    metadata text,
    created_at timestamptz NOT NULL,
    start_by_at timestamptz,
    finish_by_at timestamptz,
    available_at timestamptz,
    tag double precision NOT NULL,
    attempt integer NOT NULL,
    handed_back integer NOT NULL,
    max_attempts integer NOT NULL,
    worker_id text,
    lease_token text,
    lease_expires_at timestamptz,
    cancel_requested boolean NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    output text,
    artifacts text,
    error text,
    timings text,
    dead boolean NOT NULL,
    retry_of text,
    wake_at timestamptz,
    checkpoint text,
    traceparent text,
    removed smallint NOT NULL DEFAULT 0,
    webhook text,
    run text,
    warnings text
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);

-- Ready tasks of each key in order. The lease query chooses the key.
CREATE INDEX tasks_ready ON tasks (queue, key_id, priority, tag, id) INCLUDE (count)
    WHERE state = 'queued' AND available_at IS NULL;

-- When the sweeper must check a task: end of its lease, deadline or backoff.
CREATE INDEX tasks_wake ON tasks (wake_at) WHERE wake_at IS NOT NULL;

CREATE INDEX tasks_dead ON tasks (id) WHERE dead;

CREATE INDEX tasks_user ON tasks (user_id, id) WHERE user_id IS NOT NULL;

-- Retries of ended tasks.
CREATE TABLE repeats (
    task_id text COLLATE "C" PRIMARY KEY,
    again_id text COLLATE "C" NOT NULL
);

-- One row for each idempotency key of the last day.
CREATE TABLE idempotency (
    key_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    fingerprint text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (key_id, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX idempotency_age ON idempotency (created_at);

-- Objects that no task uses, until they are deleted.
CREATE TABLE discarded (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text COLLATE "C" NOT NULL UNIQUE
);

-- The registry. `body` is the JSON of the record.
CREATE TABLE models (
    seq bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE workers (
    id text COLLATE "C" PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    gone_at timestamptz,
    body text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE api_keys (
    id text COLLATE "C" PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    body text NOT NULL,
    old_digest bytea,
    used_at timestamptz
);

CREATE TABLE secrets (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- Statistics and other small values that backends keep between starts.
CREATE TABLE notes (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- Leader leases: which process runs a periodic duty, and until when.
CREATE TABLE duties (
    name text COLLATE "C" PRIMARY KEY,
    holder text NOT NULL,
    held_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Audit log, and rate limits shared by all backends.
CREATE INDEX api_keys_old_digest ON api_keys (old_digest) WHERE old_digest IS NOT NULL;

-- Append-only.
CREATE TABLE audit (
    id text COLLATE "C" PRIMARY KEY,
    body text NOT NULL
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only';
END
$$;

CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER audit_stays_whole BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Unlogged: a crash of the server refills all allowances.
CREATE UNLOGGED TABLE allowances (
    name text COLLATE "C" PRIMARY KEY,
    spent_until_us bigint NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Unfinished tasks of each key. Its condition is not implied by that of `tasks_ready`: a lease must
-- not read by this index, however small the table was when its statement was planned.
CREATE INDEX tasks_open ON tasks (key_id) WHERE finished_at IS NULL;

-- `tasks.removed`: 1 = input deleted, 2 = outputs deleted. Uploads and which tasks use them. Writers
-- of a use share the advisory lock of the file's key; discarding a file takes it exclusively.
CREATE INDEX tasks_ended ON tasks (removed, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE uploads (
    key text COLLATE "C" PRIMARY KEY,
    created_at timestamptz NOT NULL
);

CREATE INDEX uploads_age ON uploads (created_at);

CREATE TABLE file_uses (
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, task_id)
);

CREATE INDEX file_uses_task ON file_uses (task_id);

-- Recent cold starts, restarts and switches. `family` is the SHA-256 of kind, pool and models;
-- `worker_id` is set once the worker of a cold start has registered.
CREATE TABLE startups (
    id text COLLATE "C" PRIMARY KEY,
    family text COLLATE "C" NOT NULL,
    worker_id text COLLATE "C" NOT NULL,
    begun_at timestamptz NOT NULL,
    is_under_way boolean NOT NULL,
    body text NOT NULL
);

CREATE INDEX startups_family ON startups (family, begun_at, id) WHERE NOT is_under_way;

CREATE INDEX startups_age ON startups (begun_at) WHERE NOT is_under_way;

CREATE INDEX startups_worker ON startups (worker_id) WHERE worker_id <> '';

CREATE INDEX startups_under_way ON startups (begun_at) WHERE is_under_way;

-- What machine time was spent on. Append-only; `micros` are millionths of a dollar.
CREATE TABLE ledger (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    pool text NOT NULL,
    models text NOT NULL,
    worker_id text NOT NULL,
    ref text NOT NULL,
    outcome text NOT NULL,
    seconds double precision NOT NULL,
    micros bigint,
    account text COLLATE "C" NOT NULL DEFAULT '',
    key_id text COLLATE "C" NOT NULL DEFAULT '',
    user_name text COLLATE "C" NOT NULL DEFAULT '',
    attempts integer NOT NULL DEFAULT 0,
    images integer NOT NULL DEFAULT 0
);

CREATE INDEX ledger_at ON ledger (at);

CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only';
END
$$;

CREATE TRIGGER ledger_stays BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change();

CREATE TRIGGER ledger_stays_whole BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();

-- Total charged to each machine.
CREATE TABLE accounts (
    id text COLLATE "C" PRIMARY KEY,
    seconds double precision NOT NULL,
    micros bigint NOT NULL
) WITH (fillfactor = 70);

-- The ledger by day (UTC, `2026-11-26`) and the other dimensions of reports. `model` is empty where
-- no attempt was made.
CREATE TABLE costs (
    day text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    pool text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    is_priced boolean NOT NULL,
    attempts bigint NOT NULL,
    images bigint NOT NULL,
    seconds double precision NOT NULL,
    micros bigint NOT NULL,
    PRIMARY KEY (day, kind, pool, model, key_id, user_name, is_priced)
) WITH (fillfactor = 70);

-- Rows are locked in one order to avoid deadlocks between backends.
CREATE FUNCTION add_up_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO costs
    SELECT
        to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD'), kind, pool,
        CASE WHEN kind IN ('attempt', 'failed') THEN models ELSE '' END,
        key_id, user_name, micros IS NOT NULL, sum(attempts), sum(images), sum(seconds),
        coalesce(sum(micros), 0)
    FROM added GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (day, kind, pool, model, key_id, user_name, is_priced) DO UPDATE SET
        attempts = costs.attempts + excluded.attempts,
        images = costs.images + excluded.images,
        seconds = costs.seconds + excluded.seconds,
        micros = costs.micros + excluded.micros;
    INSERT INTO accounts
    SELECT account, sum(seconds), coalesce(sum(micros), 0) FROM added GROUP BY 1 ORDER BY 1
    ON CONFLICT (id) DO UPDATE SET
        seconds = accounts.seconds + excluded.seconds, micros = accounts.micros + excluded.micros;
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_is_added_up AFTER INSERT ON ledger REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_up_ledger();

-- Webhook deliveries (the outbox).
CREATE TABLE deliveries (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    task_id text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    event text COLLATE "C" NOT NULL,
    place text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL,
    data text,
    state text COLLATE "C" NOT NULL,
    tries integer NOT NULL,
    due_at timestamptz,
    ended_at timestamptz,
    reason text NOT NULL,
    log text,
    answers text
) WITH (fillfactor = 70);

CREATE INDEX deliveries_due ON deliveries (place, due_at, seq) WHERE due_at IS NOT NULL;

-- Deliveries of one task to one receiver, in order.
CREATE INDEX deliveries_line ON deliveries (task_id, endpoint, seq);

CREATE INDEX deliveries_key ON deliveries (key_id, seq);

CREATE INDEX deliveries_endpoint ON deliveries (endpoint, seq) WHERE endpoint <> '';

CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;

-- Quotas of keys and users, and their use by day and month. `user_name` is empty
-- for the key itself, `*` for each of its users, and `=` with a name for one.
CREATE TABLE quotas (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (key_id, user_name)
);

CREATE TABLE quota_uses (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    tasks bigint NOT NULL,
    samples bigint NOT NULL,
    micros bigint NOT NULL,
    held bigint NOT NULL,
    PRIMARY KEY (key_id, user_name, period)
) WITH (fillfactor = 70);

-- Credits in millionths of a dollar.
CREATE TABLE credit_accounts (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    granted bigint NOT NULL,
    spent bigint NOT NULL,
    held bigint NOT NULL,
    PRIMARY KEY (key_id, user_name)
) WITH (fillfactor = 70);

CREATE TABLE credits (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    body text NOT NULL
);

-- Quota reserved for unfinished tasks, by task id.
CREATE TABLE quota_holds (
    id text COLLATE "C" PRIMARY KEY,
    at timestamptz NOT NULL,
    body text NOT NULL
);

-- Models compared. `body` is JSON (`swell.core.comparison.Comparison`); the other columns are for lists.
-- `closed_at` is when the voting ended.
CREATE TABLE comparisons (
    id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    is_shared boolean NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    models integer NOT NULL,
    lines integer NOT NULL,
    votes integer NOT NULL,
    body text NOT NULL
);

CREATE INDEX comparisons_key ON comparisons (key_id);

CREATE INDEX comparisons_closed ON comparisons (closed_at, id) WHERE closed_at IS NOT NULL;

-- One vote per row and voter. `winner` is null for a tie.
CREATE TABLE votes (
    comparison_id text COLLATE "C" NOT NULL,
    line integer NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    voter text COLLATE "C" NOT NULL,
    winner integer,
    at timestamptz NOT NULL,
    PRIMARY KEY (comparison_id, line, key_id, voter)
);

-- Public share links, at most one per task.
CREATE TABLE share_links (
    task_id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    token text COLLATE "C" NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    has_prompt boolean NOT NULL,
    expires_at timestamptz
);

CREATE INDEX share_links_key ON share_links (key_id, task_id);

-- Liked files of tasks, by index.
CREATE TABLE favourites (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    artifact integer NOT NULL,
    PRIMARY KEY (key_id, user_name, task_id, artifact)
);

CREATE INDEX favourites_task ON favourites (task_id);

-- Full-text index of inputs, with `==` and the task's key, and the id up to which it is complete.
CREATE TABLE task_words (
    task_id text COLLATE "C" PRIMARY KEY,
    words tsvector NOT NULL
);

CREATE INDEX task_words_words ON task_words USING gin (words);

CREATE TABLE words_mark (
    one boolean PRIMARY KEY CHECK (one),
    task_id text COLLATE "C" NOT NULL
);

INSERT INTO words_mark VALUES (true, '');
