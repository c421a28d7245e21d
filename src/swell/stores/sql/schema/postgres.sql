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

-- The ready tasks of each key in their order: which key is next is decided when a worker asks.
CREATE INDEX tasks_ready ON tasks (queue, key_id, priority, tag, id) INCLUDE (count)
    WHERE state = 'queued' AND available_at IS NULL;

-- When the sweeper must look: a lease that may run out, a deadline, a backoff that ends. Never later
-- than there is something to do, and earlier where a lease was extended since.
CREATE INDEX tasks_wake ON tasks (wake_at) WHERE wake_at IS NOT NULL;

CREATE INDEX tasks_dead ON tasks (id) WHERE dead;

-- What has ended, by what was removed of it (1: what was asked, 2: what came of it).
CREATE INDEX tasks_ended ON tasks (removed, finished_at) WHERE finished_at IS NOT NULL;

-- What of each key has not ended.
CREATE INDEX tasks_open ON tasks (key_id) WHERE state IN ('queued', 'running');

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

-- Files that no task owns: uploads, and outputs that outlive their task because another uses them.
CREATE TABLE uploads (
    key text COLLATE "C" PRIMARY KEY,
    created_at timestamptz NOT NULL
);

CREATE INDEX uploads_age ON uploads (created_at);

-- Which tasks name which files in their inputs. Whoever notes a use, or discards what nobody uses,
-- holds the advisory lock of the file's key: uses together, discarding alone.
CREATE TABLE file_uses (
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, task_id)
);

CREATE INDEX file_uses_task ON file_uses (task_id);

-- What the registry keeps. `body` is the JSON of the value.
CREATE SEQUENCE models_seq;

CREATE TABLE models (
    seq bigint NOT NULL DEFAULT nextval('models_seq'),
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

CREATE INDEX api_keys_old_digest ON api_keys (old_digest) WHERE old_digest IS NOT NULL;

CREATE TABLE secrets (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- What a backend has learnt and would rather know at its next start.
CREATE TABLE notes (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- What one process does for all, and until when it has the duty if it does not ask again.
CREATE TABLE duties (
    name text COLLATE "C" PRIMARY KEY,
    holder text NOT NULL,
    held_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- Only ever added to.
CREATE TABLE audit (
    id text COLLATE "C" PRIMARY KEY,
    body text NOT NULL
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to';
END
$$;

CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER audit_stays_whole BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Not worth its disk: after a crash of the server everybody's allowance is whole again.
CREATE UNLOGGED TABLE allowances (
    name text COLLATE "C" PRIMARY KEY,
    spent_until timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- Cold starts, restarts and switches: the last of each family, which is kind, pool and models.
-- `family` is their SHA-256; `worker_id` is set where a cold start's worker has registered.
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

-- What machine time went into. Only ever added to; `micros` are millionths of a dollar.
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
    RAISE EXCEPTION 'the ledger is only added to';
END
$$;

CREATE TRIGGER ledger_stays BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change();

CREATE TRIGGER ledger_stays_whole BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();

-- What was charged to each machine's account so far.
CREATE TABLE accounts (
    id text COLLATE "C" PRIMARY KEY,
    seconds double precision NOT NULL,
    micros bigint NOT NULL
) WITH (fillfactor = 70);

-- The ledger by day (UTC) and what entries have in common, so that reports need not read each
-- entry. `model` is empty where no attempt was made.
CREATE TABLE costs (
    day date NOT NULL,
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

-- Rows are locked in one order, so that backends which charge at the same time wait for each other.
CREATE FUNCTION add_up_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO costs
    SELECT
        (at AT TIME ZONE 'UTC')::date, kind, pool,
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

-- What is to be delivered of tasks' events, or was: see swell.outbox. What waits has a time at which it
-- is due.
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

CREATE INDEX deliveries_next ON deliveries (due_at) WHERE due_at IS NOT NULL;

-- Those of one task to one receiver, in order.
CREATE INDEX deliveries_line ON deliveries (task_id, endpoint, seq);

CREATE INDEX deliveries_key ON deliveries (key_id, seq);

CREATE INDEX deliveries_endpoint ON deliveries (endpoint, seq) WHERE endpoint <> '';

CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;

-- What keys and their users may use, and what they have used, by day and month. `user_name` is empty
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

-- Credits, in millionths of a dollar: what was granted, what of it is spent and what is held.
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

-- What is held for tasks that have not ended, by their ids.
CREATE TABLE quota_holds (
    id text COLLATE "C" PRIMARY KEY,
    at timestamptz NOT NULL,
    body text NOT NULL
);

-- Models compared (`swell.comparisons.Comparison`, JSON). `closed_at` is when the voting ended.
CREATE TABLE comparisons (
    id text COLLATE "C" PRIMARY KEY,
    closed_at timestamptz,
    body text NOT NULL
);

-- What lists tell of comparisons, apart, so that they read no body.
CREATE TABLE comparison_outlines (
    id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    is_shared boolean NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    models integer NOT NULL,
    lines integer NOT NULL,
    votes integer NOT NULL
);

CREATE INDEX comparison_outlines_key ON comparison_outlines (key_id);

CREATE INDEX comparison_outlines_closed ON comparison_outlines (closed_at, id)
    WHERE closed_at IS NOT NULL;

-- One for each row and person. `winner` is null where all are as good.
CREATE TABLE votes (
    comparison_id text COLLATE "C" NOT NULL,
    line integer NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    voter text COLLATE "C" NOT NULL,
    winner integer,
    at timestamptz NOT NULL,
    PRIMARY KEY (comparison_id, line, key_id, voter)
);

-- Kept here, so that backends of the version before keep them too.
CREATE FUNCTION outline_comparisons() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO comparison_outlines VALUES (
            NEW.id, NEW.body::json ->> 'key_id', (NEW.body::json ->> 'is_shared')::boolean,
            NEW.body::json ->> 'name', (NEW.body::json ->> 'created_at')::timestamptz,
            NEW.closed_at, json_array_length(NEW.body::json -> 'models'),
            json_array_length(NEW.body::json -> 'rows'), 0
        );
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE comparison_outlines SET closed_at = NEW.closed_at WHERE id = NEW.id;
    ELSE
        DELETE FROM comparison_outlines WHERE id = OLD.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER comparisons_are_outlined AFTER INSERT OR UPDATE OR DELETE ON comparisons
    FOR EACH ROW EXECUTE FUNCTION outline_comparisons();

CREATE FUNCTION count_votes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE comparison_outlines SET votes = votes + 1 WHERE id = NEW.comparison_id;
    RETURN NULL;
END
$$;

CREATE TRIGGER votes_are_counted AFTER INSERT ON votes
    FOR EACH ROW EXECUTE FUNCTION count_votes();

-- Links to what came of tasks, which need no key; a task has at most one.
CREATE TABLE share_links (
    task_id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    token text COLLATE "C" NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    has_prompt boolean NOT NULL,
    expires_at timestamptz
);

CREATE INDEX share_links_key ON share_links (key_id, task_id);

-- What people like best of what was made: a file of a task, by its place.
CREATE TABLE favourites (
    key_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    artifact integer NOT NULL,
    PRIMARY KEY (key_id, user_id, task_id, artifact)
);

CREATE INDEX favourites_task ON favourites (task_id);

-- The words of inputs by which tasks are found, with `==` and the key that the task is of; and up to
-- which id none lacks them.
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
