-- compatible_from: 1
-- Tasks, and all that is asked of them while they live. JSON is kept as text, as it came. Every time
-- is one that a backend's clock told, never the server's own.
--
-- Ids begin with the time of creation, so the table can be split by ranges of id (PARTITION BY
-- RANGE (id)) and whole months dropped: nothing here is unique but by id, and what must be unique
-- beside (repeats, idempotency) lies in tables of its own.
--
-- `edition` grows by one with each write. What changes at every heartbeat (lease_expires_at) is not
-- in an index, so that it is changed in place (HOT), for which pages keep some room.
CREATE TABLE tasks (
    id text COLLATE "C" PRIMARY KEY,
    edition integer NOT NULL,
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
    traceparent text
) WITH (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);

-- The ready tasks of each key in their order: which key is next is decided when a worker asks.
CREATE INDEX tasks_ready ON tasks (queue, key_id, priority, tag, id) INCLUDE (count)
    WHERE state = 'queued' AND available_at IS NULL;

-- When the sweeper must look: a lease that may run out, a deadline, a backoff that ends. Never later
-- than there is something to do, and earlier where a lease was extended since.
CREATE INDEX tasks_wake ON tasks (wake_at) WHERE wake_at IS NOT NULL;

CREATE INDEX tasks_dead ON tasks (id) WHERE dead;

CREATE INDEX tasks_user ON tasks (user_id, id) WHERE user_id IS NOT NULL;

-- Which task repeats an ended one.
CREATE TABLE repeats (
    task_id text COLLATE "C" PRIMARY KEY,
    again_id text COLLATE "C" NOT NULL
);

-- One row for each idempotency key of the last day.
CREATE TABLE idempotency (
    key_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (key_id, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

CREATE INDEX idempotency_age ON idempotency (created_at);

-- Objects that no task needs any more, until they are gone.
CREATE TABLE discarded (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text COLLATE "C" NOT NULL UNIQUE
);
