-- Named queries. A name stands on a line of its own before its statement; docs say why, not what.
-- Where /* lock */ stands, a transaction that must not be disturbed locks what it reads.

-- name: write_tasks
-- All that a transaction has changed, or nothing where somebody else has changed one of these tasks
-- since it was read. Rows are locked in the order of their ids, so that two writers never wait for
-- each other. Of each column that not all rows have alike there is an array, and NULL instead of the
-- value of all; of each other, the value, and NULL instead of the array.
WITH changed AS (
    SELECT
        c.id, coalesce(c.edition, $22::integer) AS edition,
        coalesce(c.version, $23::text) AS version, coalesce(c.state, $24::text) AS state,
        coalesce(c.seed, $25::bigint) AS seed,
        coalesce(c.available_at, $26::timestamptz) AS available_at,
        coalesce(c.attempt, $27::integer) AS attempt,
        coalesce(c.handed_back, $28::integer) AS handed_back,
        coalesce(c.worker_id, $29::text) AS worker_id,
        coalesce(c.lease_token, $30::text) AS lease_token,
        coalesce(c.lease_expires_at, $31::timestamptz) AS lease_expires_at,
        coalesce(c.cancel_requested, $32::boolean) AS cancel_requested,
        coalesce(c.started_at, $33::timestamptz) AS started_at,
        coalesce(c.finished_at, $34::timestamptz) AS finished_at,
        coalesce(c.output, $35::text) AS output, coalesce(c.artifacts, $36::text) AS artifacts,
        coalesce(c.error, $37::text) AS error, coalesce(c.timings, $38::text) AS timings,
        coalesce(c.dead, $39::boolean) AS dead, coalesce(c.wake_at, $40::timestamptz) AS wake_at,
        coalesce(c.checkpoint, $41::text) AS checkpoint
    FROM unnest(
        $1::text[], $2::integer[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[],
        $7::integer[], $8::integer[], $9::text[], $10::text[], $11::timestamptz[], $12::boolean[],
        $13::timestamptz[], $14::timestamptz[], $15::text[], $16::text[], $17::text[], $18::text[],
        $19::boolean[], $20::timestamptz[], $21::text[]
    ) AS c (
        id, edition, version, state, seed, available_at, attempt, handed_back, worker_id,
        lease_token, lease_expires_at, cancel_requested, started_at, finished_at, output, artifacts,
        error, timings, dead, wake_at, checkpoint
    )
), locked AS (
    SELECT t.id FROM changed AS c JOIN tasks AS t ON t.id = c.id AND t.edition = c.edition
    ORDER BY t.id FOR UPDATE OF t
), verdict AS (
    SELECT (SELECT count(*) FROM locked) = (SELECT count(*) FROM changed) AS is_current
), saved AS (
    UPDATE tasks AS t SET
        edition = t.edition + 1, version = c.version, state = c.state, seed = c.seed,
        available_at = c.available_at, attempt = c.attempt, handed_back = c.handed_back,
        worker_id = c.worker_id, lease_token = c.lease_token, lease_expires_at =
        c.lease_expires_at, cancel_requested = c.cancel_requested, started_at =
        c.started_at, finished_at = c.finished_at, output = c.output, artifacts =
        c.artifacts, error = c.error, timings = c.timings, dead = c.dead, wake_at =
        c.wake_at, checkpoint = c.checkpoint
    FROM changed AS c WHERE t.id = c.id AND (SELECT is_current FROM verdict)
), inserted AS (
    INSERT INTO tasks (
        id, model, queue, version, state, input, count, seed, priority, key_id, user_id,
        metadata, created_at, start_by_at, finish_by_at, tag, attempt, max_attempts,
        worker_id, lease_token, lease_expires_at, started_at, retry_of, wake_at,
        traceparent, webhook, edition, handed_back, cancel_requested, dead
    )
    SELECT
        n.id, coalesce(n.model, $68::text), coalesce(n.queue, $69::text),
        coalesce(n.version, $70::text), coalesce(n.state, $71::text), coalesce(n.input, $72::text),
        coalesce(n.count, $73::integer), coalesce(n.seed, $74::bigint),
        coalesce(n.priority, $75::integer), coalesce(n.key_id, $76::text),
        coalesce(n.user_id, $77::text), coalesce(n.metadata, $78::text),
        coalesce(n.created_at, $79::timestamptz), coalesce(n.start_by_at, $80::timestamptz),
        coalesce(n.finish_by_at, $81::timestamptz), coalesce(n.tag, $82::float8),
        coalesce(n.attempt, $83::integer), coalesce(n.max_attempts, $84::integer),
        coalesce(n.worker_id, $85::text), coalesce(n.lease_token, $86::text),
        coalesce(n.lease_expires_at, $87::timestamptz), coalesce(n.started_at, $88::timestamptz),
        coalesce(n.retry_of, $89::text), coalesce(n.wake_at, $90::timestamptz),
        coalesce(n.traceparent, $91::text), coalesce(n.webhook, $92::text), 0, 0, false, false
    FROM unnest(
        $42::text[], $43::text[], $44::text[], $45::text[], $46::text[], $47::text[],
        $48::integer[], $49::bigint[], $50::integer[], $51::text[], $52::text[], $53::text[],
        $54::timestamptz[], $55::timestamptz[], $56::timestamptz[], $57::float8[], $58::integer[],
        $59::integer[], $60::text[], $61::text[], $62::timestamptz[], $63::timestamptz[],
        $64::text[], $65::timestamptz[], $66::text[], $67::text[]
    ) AS n (
        id, model, queue, version, state, input, count, seed, priority, key_id, user_id, metadata,
        created_at, start_by_at, finish_by_at, tag, attempt, max_attempts, worker_id, lease_token,
        lease_expires_at, started_at, retry_of, wake_at, traceparent, webhook
    ) WHERE (SELECT is_current FROM verdict)
), kept AS (
    INSERT INTO idempotency (key_id, key, task_id, fingerprint, created_at)
    SELECT k.* FROM unnest(
        $93::text[], $94::text[], $95::text[], $96::bytea[], $97::timestamptz[]
    ) AS k WHERE (SELECT is_current FROM verdict)
)
SELECT is_current FROM verdict;

-- name: save_runs
-- What else changes of pipelines: in the same transaction, after their rows were locked and written.
UPDATE tasks AS t SET queue = r.queue, tag = r.tag, run = r.run
FROM unnest($1::text[], $2::text[], $3::float8[], $4::text[]) AS r (id, queue, tag, run)
WHERE t.id = r.id;

-- name: save_warnings
-- As `save_runs`: few tasks have any.
UPDATE tasks AS t SET warnings = r.warnings
FROM unnest($1::text[], $2::text[]) AS r (id, warnings) WHERE t.id = r.id;

-- name: insert_tasks
-- The same for a transaction that has changed nothing that was there.
WITH kept AS (
    INSERT INTO idempotency (key_id, key, task_id, fingerprint, created_at)
    SELECT k.* FROM unnest(
        $52::text[], $53::text[], $54::text[], $55::bytea[], $56::timestamptz[]
    ) AS k
)
INSERT INTO tasks (
    id, model, queue, version, state, input, count, seed, priority, key_id, user_id, metadata,
    created_at, start_by_at, finish_by_at, tag, attempt, max_attempts, worker_id, lease_token,
    lease_expires_at, started_at, retry_of, wake_at, traceparent, webhook, edition,
    handed_back, cancel_requested, dead
)
SELECT
    n.id, coalesce(n.model, $27::text), coalesce(n.queue, $28::text),
    coalesce(n.version, $29::text), coalesce(n.state, $30::text), coalesce(n.input, $31::text),
    coalesce(n.count, $32::integer), coalesce(n.seed, $33::bigint),
    coalesce(n.priority, $34::integer), coalesce(n.key_id, $35::text),
    coalesce(n.user_id, $36::text), coalesce(n.metadata, $37::text),
    coalesce(n.created_at, $38::timestamptz), coalesce(n.start_by_at, $39::timestamptz),
    coalesce(n.finish_by_at, $40::timestamptz), coalesce(n.tag, $41::float8),
    coalesce(n.attempt, $42::integer), coalesce(n.max_attempts, $43::integer),
    coalesce(n.worker_id, $44::text), coalesce(n.lease_token, $45::text),
    coalesce(n.lease_expires_at, $46::timestamptz), coalesce(n.started_at, $47::timestamptz),
    coalesce(n.retry_of, $48::text), coalesce(n.wake_at, $49::timestamptz),
    coalesce(n.traceparent, $50::text), coalesce(n.webhook, $51::text), 0, 0, false, false
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[],
    $8::bigint[], $9::integer[], $10::text[], $11::text[], $12::text[], $13::timestamptz[],
    $14::timestamptz[], $15::timestamptz[], $16::float8[], $17::integer[], $18::integer[],
    $19::text[], $20::text[], $21::timestamptz[], $22::timestamptz[], $23::text[],
    $24::timestamptz[], $25::text[], $26::text[]
) AS n (
    id, model, queue, version, state, input, count, seed, priority, key_id, user_id, metadata,
    created_at, start_by_at, finish_by_at, tag, attempt, max_attempts, worker_id, lease_token,
    lease_expires_at, started_at, retry_of, wake_at, traceparent, webhook
);

-- name: tasks_by_id
SELECT
    id, edition, model, queue, version, state, input, count, seed, priority, key_id, user_id,
    metadata, created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back,
    max_attempts, worker_id, lease_token, lease_expires_at, cancel_requested, started_at,
    finished_at, output, artifacts, error, timings, dead, retry_of, wake_at, checkpoint,
    traceparent, removed, webhook, run, warnings
FROM tasks WHERE id = ANY($1::text[]) ORDER BY id /* lock */;

-- name: heads
-- For each key of which something is ready in some queues, its first tasks: of each key as many as
-- give so many of all. Keys are found by jumping from one to the next in the index.
WITH RECURSIVE jumps (queue, key_id) AS (
    SELECT q.queue, (
        SELECT t.key_id FROM tasks AS t
        WHERE t.queue = q.queue AND t.state = 'queued' AND t.available_at IS NULL
        ORDER BY t.key_id LIMIT 1
    ) FROM unnest($1::text[]) AS q (queue)
    UNION ALL
    SELECT j.queue, (
        SELECT t.key_id FROM tasks AS t
        WHERE t.queue = j.queue AND t.state = 'queued' AND t.available_at IS NULL
            AND t.key_id > j.key_id
        ORDER BY t.key_id LIMIT 1
    ) FROM jumps AS j WHERE j.key_id IS NOT NULL
), lines AS (
    SELECT queue, key_id FROM jumps WHERE key_id IS NOT NULL
), share AS (
    SELECT ceil($2::float8 / greatest(1, (SELECT count(*) FROM lines)))::integer AS n
)
SELECT
    t.id, t.edition, t.model, t.queue, t.version, t.state, t.input, t.count, t.seed,
    t.priority, t.key_id, t.user_id, t.metadata, t.created_at, t.start_by_at, t.finish_by_at,
    t.available_at, t.tag, t.attempt, t.handed_back, t.max_attempts, t.worker_id,
    t.lease_token, t.lease_expires_at, t.cancel_requested, t.started_at, t.finished_at,
    t.output, t.artifacts, t.error, t.timings, t.dead, t.retry_of, t.wake_at, t.checkpoint,
    t.traceparent, t.removed, t.webhook, t.run, t.warnings,
    (SELECT n FROM share)
FROM lines AS l CROSS JOIN LATERAL (
    SELECT * FROM tasks
    WHERE queue = l.queue AND key_id = l.key_id AND state = 'queued' AND available_at IS NULL
    ORDER BY priority, tag, id LIMIT (SELECT n FROM share) /* lock */
) AS t;

-- name: line
-- The next ready tasks of one key, after a place in its order.
SELECT
    id, edition, model, queue, version, state, input, count, seed, priority, key_id, user_id,
    metadata, created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back,
    max_attempts, worker_id, lease_token, lease_expires_at, cancel_requested, started_at,
    finished_at, output, artifacts, error, timings, dead, retry_of, wake_at, checkpoint,
    traceparent, removed, webhook, run, warnings
FROM tasks
WHERE queue = $1 AND key_id = $2 AND state = 'queued' AND available_at IS NULL
    AND (priority, tag, id) > ($3::integer, $4::float8, $5::text)
ORDER BY priority, tag, id LIMIT $6 /* lock */;

-- name: some_ready
-- Of some queues those in which something is ready, whoever holds it now, whose id is below one, so
-- that it was accepted before a moment; or not below another, by a clock that is ahead.
SELECT q.queue FROM unnest($1::text[]) AS q (queue) WHERE EXISTS (
    SELECT 1 FROM tasks AS t
    WHERE t.queue = q.queue AND t.state = 'queued' AND t.available_at IS NULL
        AND (t.id < $2 OR t.id >= $3)
);

-- name: ready_lines
-- Whoever has waited longest comes first.
SELECT queue, priority, key_id, count(*), sum(count)::bigint FROM tasks
WHERE state = 'queued' AND available_at IS NULL
GROUP BY queue, key_id, priority ORDER BY min(id);

-- name: open_shares
-- What fair queueing needs to know at a start: for each user of a key, where its tasks that were never
-- handed out begin, how far those that were have come, and where the last of either ends. Of a
-- pipeline it is the model of the stage that it is at.
SELECT split_part(queue, ':', 1), key_id, priority, flow, was_served,
    CASE WHEN was_served THEN max(tag) ELSE min(tag) END, max(tag + count)
FROM (
    SELECT queue, key_id, priority, coalesce(user_id, '') AS flow, attempt > 0 AS was_served, tag,
        count
    FROM tasks WHERE state = 'queued' AND available_at IS NULL
    UNION ALL
    SELECT queue, key_id, priority, coalesce(user_id, ''), attempt > 0, tag, count
    FROM tasks
    WHERE wake_at IS NOT NULL AND (state = 'running' OR available_at IS NOT NULL)
) AS open GROUP BY 1, 2, 3, 4, 5;

-- name: ready_depths
SELECT queue, count(*), sum(count)::bigint, min(id) FROM tasks
WHERE state = 'queued' AND available_at IS NULL GROUP BY queue;

-- name: oldest_ready
SELECT id, key_id, user_id, priority FROM tasks
WHERE queue = $1 AND state = 'queued' AND available_at IS NULL ORDER BY id LIMIT $2;

-- name: woken_depths
-- Everything that runs or is delayed has a time to wake.
SELECT queue, count(*) FILTER (WHERE state = 'queued' AND available_at IS NOT NULL),
    count(*) FILTER (WHERE state = 'running')
FROM tasks WHERE wake_at IS NOT NULL GROUP BY queue;

-- name: ranks
-- For each place in the line of a key: how many of its tasks come before, up to a bound.
SELECT w.queue, w.task_id, r.n, r.samples
FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::integer[], $5::float8[], $6::text[]
) AS w (queue, key_id, least, priority, tag, task_id) CROSS JOIN LATERAL (
    SELECT count(*) AS n, coalesce(sum(count), 0)::bigint AS samples FROM (
        SELECT count FROM tasks
        WHERE queue = w.queue AND state = 'queued' AND available_at IS NULL
            AND key_id = w.key_id AND priority >= w.least
            AND (priority, tag, id) < (w.priority, w.tag, w.task_id)
        LIMIT $7
    ) AS before
) AS r;

-- name: page_ids
-- Rare filters read more than they return; the two that people page through have an index.
SELECT id FROM tasks
WHERE id < $1 AND id > $8
    AND ($2::text IS NULL OR state = $2)
    AND ($3::text IS NULL OR model = $3)
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR key_id = $5)
    AND ($6::boolean IS NULL OR dead = $6)
ORDER BY id DESC LIMIT $7;

-- name: page_ids_of_user
SELECT id FROM tasks
WHERE user_id = $4 AND id < $1 AND id > $8
    AND ($2::text IS NULL OR state = $2)
    AND ($3::text IS NULL OR model = $3)
    AND ($5::text IS NULL OR key_id = $5)
    AND ($6::boolean IS NULL OR dead = $6)
ORDER BY id DESC LIMIT $7;

-- name: page_ids_of_dead
SELECT id FROM tasks
WHERE dead AND id < $1 AND id > $8 AND $6
    AND ($2::text IS NULL OR state = $2)
    AND ($3::text IS NULL OR model = $3)
    AND ($4::text IS NULL OR user_id = $4)
    AND ($5::text IS NULL OR key_id = $5)
ORDER BY id DESC LIMIT $7;

-- name: page_ids_of_liked
SELECT t.id FROM tasks AS t
WHERE t.id IN (
        SELECT task_id FROM favourites
        WHERE key_id = $9 AND user_id = $10 AND task_id < $1 AND task_id > $8
    )
    AND ($2::text IS NULL OR t.state = $2)
    AND ($3::text IS NULL OR t.model = $3)
    AND ($4::text IS NULL OR t.user_id = $4)
    AND ($5::text IS NULL OR t.key_id = $5)
    AND ($6::boolean IS NULL OR t.dead = $6)
ORDER BY t.id DESC LIMIT $7;

-- name: page_ids_found
SELECT t.id FROM task_words AS w JOIN tasks AS t ON t.id = w.task_id
WHERE w.words @@ ($9::text)::tsquery AND t.id < $1 AND t.id > $8 AND t.removed & 1 = 0
    AND ($2::text IS NULL OR t.state = $2)
    AND ($3::text IS NULL OR t.model = $3)
    AND ($4::text IS NULL OR t.user_id = $4)
    AND ($5::text IS NULL OR t.key_id = $5)
    AND ($6::boolean IS NULL OR t.dead = $6)
    AND ($10::text IS NULL OR EXISTS (
        SELECT 1 FROM favourites WHERE key_id = $10 AND user_id = $11::text AND task_id = t.id
    ))
ORDER BY t.id DESC LIMIT $7;

-- name: due_tasks
-- Another backend that sweeps at the same time takes others.
SELECT
    id, edition, model, queue, version, state, input, count, seed, priority, key_id, user_id,
    metadata, created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back,
    max_attempts, worker_id, lease_token, lease_expires_at, cancel_requested, started_at,
    finished_at, output, artifacts, error, timings, dead, retry_of, wake_at, checkpoint,
    traceparent, removed, webhook, run, warnings
FROM tasks WHERE wake_at <= $1 ORDER BY wake_at LIMIT $2 FOR UPDATE SKIP LOCKED;

-- name: time
SELECT clock_timestamp();

-- name: overlong_waits
-- Whose lease or backoff ends later than any that begins now, after a clock was set back.
SELECT id FROM tasks
WHERE wake_at > $1 AND (lease_expires_at > $2 OR available_at > $3) LIMIT $4;

-- name: next_wake
SELECT min(wake_at) FROM tasks WHERE wake_at IS NOT NULL;

-- name: open_tasks
-- What waits, and what will be woken: what runs has a lease that runs out, what is delayed a time.
SELECT w.key_id, (
    SELECT count(*) FROM tasks AS t
    WHERE t.key_id = w.key_id AND t.state IN ('queued', 'running')
) FROM unnest($1::text[]) AS w (key_id);

-- name: repeat_of
SELECT again_id FROM repeats WHERE task_id = $1;

-- name: keep_repeat
INSERT INTO repeats (task_id, again_id) VALUES ($1, $2);

-- name: lock_keys
-- Until the end of the transaction nobody else accepts under these idempotency keys.
SELECT pg_advisory_xact_lock(n) FROM unnest($1::bigint[]) AS n;

-- name: idempotent
SELECT i.key_id, i.key, i.task_id, i.fingerprint, i.created_at FROM idempotency AS i
JOIN unnest($1::text[], $2::text[]) AS w (key_id, key) ON i.key_id = w.key_id AND i.key = w.key;

-- name: forget_idempotent_keys
-- Of these, what is older than a day.
DELETE FROM idempotency AS i USING unnest($1::text[], $2::text[]) AS w (key_id, key)
WHERE i.key_id = w.key_id AND i.key = w.key AND i.created_at <= $3;

-- name: forget_idempotent
DELETE FROM idempotency WHERE created_at <= $1;

-- name: discard
INSERT INTO discarded (key) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING;

-- name: discarded
SELECT key FROM discarded ORDER BY seq LIMIT $1;

-- name: forget_discarded
DELETE FROM discarded WHERE key = ANY($1::text[]);

-- name: prove_writable
-- Another value each time, so that there is something to write.
INSERT INTO secrets (name, value) VALUES ('is-writable', uuid_send(gen_random_uuid()))
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: others
-- Whether another process of Swell is connected to this database.
SELECT EXISTS (
    SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
        AND application_name = 'swell' AND pid <> pg_backend_pid()
);

-- name: tell
SELECT pg_notify('swell_tasks', $1);

-- name: newest_models
SELECT DISTINCT ON (name) body FROM models
WHERE name = ANY($1::text[]) ORDER BY name, seq DESC;

-- name: put_model
-- Registering a known version again makes it the newest, and changes nothing else.
INSERT INTO models (name, version, body) VALUES ($1, $2, $3)
ON CONFLICT (name, version) DO UPDATE SET seq = nextval('models_seq')
RETURNING body;

-- name: price_model
-- What others ask for a sample is none of what a version is.
UPDATE models SET body = $3 WHERE name = $1 AND version = $2;

-- name: models
SELECT body FROM models ORDER BY name, seq DESC;

-- name: put_worker
INSERT INTO workers (id, seen_at, gone_at, body) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE
SET seen_at = excluded.seen_at, gone_at = excluded.gone_at, body = excluded.body;

-- name: touch_workers
UPDATE workers SET seen_at = $2 WHERE gone_at IS NULL AND id IN (
    SELECT id FROM workers WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE
);

-- name: worker
SELECT body, seen_at, gone_at FROM workers WHERE id = $1 FOR UPDATE;

-- name: workers
SELECT body, seen_at, gone_at FROM workers;

-- name: forget_workers
DELETE FROM workers WHERE gone_at <= $1;

-- name: worker_gone
UPDATE workers SET gone_at = $2 WHERE id = $1 AND gone_at IS NULL;

-- name: secret
SELECT value FROM secrets WHERE name = $1;

-- name: keep_secret
INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- name: put_note
INSERT INTO notes (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: add_note
INSERT INTO notes (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: swap_note
UPDATE notes SET value = $3 WHERE name = $1 AND value = $2 RETURNING name;

-- name: note
SELECT value FROM notes WHERE name = $1;

-- name: notes
SELECT name, value FROM notes WHERE starts_with(name, $1) ORDER BY name;

-- name: drop_notes
DELETE FROM notes WHERE name = ANY ($1::text[]);

-- name: take_duty
-- Changes nothing while another process holds the duty. An end more than two leases away was
-- written before a clock was set back, and does not count.
INSERT INTO duties (name, holder, held_until) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE duties.holder = excluded.holder OR duties.held_until <= $4 OR duties.held_until > $5
RETURNING true;

-- name: leave_duty
DELETE FROM duties WHERE name = $1 AND holder = $2;

-- name: key_to_replace
SELECT body FROM api_keys WHERE id = $1 FOR UPDATE;

-- name: put_key
INSERT INTO api_keys (id, digest, created_at, body, old_digest) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, body = excluded.body,
    old_digest = excluded.old_digest;

-- name: keys
SELECT body, used_at FROM api_keys ORDER BY created_at, id;

-- name: key_by_digest
-- By its secret, or else by the one before its last rotation.
SELECT body, used_at FROM api_keys WHERE digest = $1 OR old_digest = $1
ORDER BY (digest = $1) DESC LIMIT 1;

-- name: touch_keys
UPDATE api_keys AS k SET used_at = u.used_at
FROM unnest($1::text[], $2::timestamptz[]) AS u (id, used_at)
WHERE k.id = u.id AND (k.used_at IS NULL OR k.used_at < u.used_at);

-- name: record
INSERT INTO audit (id, body) SELECT * FROM unnest($1::text[], $2::text[]);

-- name: audit
SELECT body FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2;

-- name: add_startup
INSERT INTO startups (id, family, worker_id, begun_at, is_under_way, body)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: startup_to_replace
SELECT body FROM startups WHERE id = $1 FOR UPDATE;

-- name: replace_startup
UPDATE startups SET family = $2, worker_id = $3, begun_at = $4, is_under_way = $5, body = $6
WHERE id = $1;

-- name: forget_startups
-- What is under way is never forgotten, however many there are. What another holds is forgotten the
-- next time: nobody who holds one waits for another.
DELETE FROM startups WHERE id IN (
    SELECT id FROM startups WHERE NOT is_under_way AND (begun_at <= $1 OR id IN (
        SELECT id FROM startups WHERE family = $2 AND NOT is_under_way
        ORDER BY begun_at DESC, id DESC OFFSET $3
    ))
    FOR UPDATE SKIP LOCKED
);

-- name: startups
SELECT body FROM startups ORDER BY begun_at, id;

-- name: startups_under_way
SELECT body FROM startups WHERE is_under_way ORDER BY begun_at, id;

-- name: startups_of
SELECT body FROM startups WHERE worker_id = ANY($1::text[]) AND worker_id <> ''
ORDER BY begun_at, id;

-- name: charge
INSERT INTO ledger (
    id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name, attempts, images
)
SELECT
    id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name, attempts, images
FROM unnest(
    $1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::text[], $9::double precision[], $10::bigint[], $11::text[], $12::text[], $13::text[],
    $14::integer[], $15::integer[]
) WITH ORDINALITY AS e (
    id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name, attempts, images, place
)
ORDER BY place
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: ledger
SELECT
    number, id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name, attempts, images
FROM ledger WHERE number < $1 ORDER BY number DESC LIMIT $2;

-- name: charged
SELECT id, seconds, micros FROM accounts WHERE id = ANY($1::text[]);

-- name: costs
SELECT
    day, kind, pool, model, key_id, '', is_priced, sum(attempts)::bigint, sum(images)::bigint,
    sum(seconds), sum(micros)::bigint
FROM costs WHERE day BETWEEN $1 AND $2
GROUP BY day, kind, pool, model, key_id, is_priced ORDER BY day;

-- name: costs_of_users
SELECT
    day, kind, pool, model, key_id, user_name, is_priced, attempts, images, seconds, micros
FROM costs WHERE day BETWEEN $1 AND $2 ORDER BY day;

-- name: spend
INSERT INTO allowances (name, spent_until)
SELECT name, $3::timestamptz + cost FROM unnest($1::text[], $2::interval[]) AS s (name, cost)
ORDER BY name
ON CONFLICT (name) DO UPDATE SET
    spent_until = greatest(allowances.spent_until, $3) + (excluded.spent_until - $3)
RETURNING name, spent_until;

-- name: lock_uses
-- Until the end of the transaction nobody discards these files.
SELECT pg_advisory_xact_lock_shared(n) FROM unnest($1::bigint[]) AS n;

-- name: use_files
INSERT INTO file_uses (key, task_id) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT DO NOTHING;

-- name: files_of
SELECT key FROM file_uses WHERE task_id = ANY($1::text[]);

-- name: forget_uses
DELETE FROM file_uses WHERE task_id = ANY($1::text[]);

-- name: used_files
SELECT DISTINCT key FROM file_uses WHERE key = ANY($1::text[]);

-- name: keep_uploads
INSERT INTO uploads (key, created_at) SELECT unnest($1::text[]), $2 ON CONFLICT DO NOTHING;

-- name: forget_unused_uploads
DELETE FROM uploads AS u WHERE u.key = ANY($1::text[])
    AND NOT EXISTS (SELECT 1 FROM file_uses WHERE file_uses.key = u.key)
RETURNING u.key;

-- name: unused_uploads
SELECT key FROM uploads AS u WHERE created_at <= $1
    AND NOT EXISTS (SELECT 1 FROM file_uses WHERE file_uses.key = u.key)
ORDER BY created_at LIMIT $2;

-- name: ended_ids
-- `removed` is one of the values that a task may have which still has the part in question.
SELECT id FROM tasks
WHERE removed = ANY($1::smallint[]) AND finished_at <= $2
    AND ($3::text[] IS NULL OR model = ANY($3)) AND NOT model = ANY($4::text[])
LIMIT $5;

-- name: remove_parts
UPDATE tasks AS t SET edition = t.edition + 1, removed = r.removed, input = r.input,
    metadata = r.metadata, error = r.error, output = r.output, artifacts = r.artifacts
FROM unnest(
    $1::text[], $2::smallint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[]
) AS r (id, removed, input, metadata, error, output, artifacts) WHERE t.id = r.id;

-- name: delete_tasks
DELETE FROM tasks WHERE id = ANY($1::text[]);

-- name: put_quota
INSERT INTO quotas VALUES ($1, $2, $3)
ON CONFLICT (key_id, user_name) DO UPDATE SET body = excluded.body;

-- name: drop_quota
DELETE FROM quotas WHERE key_id = $1 AND user_name = $2 RETURNING key_id;

-- name: quotas
SELECT body FROM quotas ORDER BY key_id, user_name;

-- name: quota_keys
SELECT DISTINCT key_id FROM quotas;

-- name: lock_quotas
-- Until the end of the transaction nobody else enters tasks of these keys, or ends them.
SELECT pg_advisory_xact_lock(hashtextextended('quotas ' || k, 0)) FROM unnest($1::text[]) AS k;

-- name: quotas_at
SELECT q.key_id, q.user_name, q.body FROM quotas AS q
JOIN unnest($1::text[], $2::text[]) AS w (key_id, user_name)
    ON q.key_id = w.key_id AND q.user_name = w.user_name;

-- name: credit_accounts_at
SELECT a.key_id, a.user_name, a.granted, a.spent, a.held FROM credit_accounts AS a
JOIN unnest($1::text[], $2::text[]) AS w (key_id, user_name)
    ON a.key_id = w.key_id AND a.user_name = w.user_name;

-- name: put_credit_accounts
INSERT INTO credit_accounts
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
ON CONFLICT (key_id, user_name) DO UPDATE SET
    granted = excluded.granted, spent = excluded.spent, held = excluded.held;

-- name: add_credit
INSERT INTO credit_accounts VALUES ($1, $2, $3, 0, 0)
ON CONFLICT (key_id, user_name) DO UPDATE SET
    granted = credit_accounts.granted + excluded.granted;

-- name: credit_places
SELECT key_id, user_name FROM credit_accounts ORDER BY key_id, user_name;

-- name: put_credit
INSERT INTO credits (id, key_id, user_name, body) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO NOTHING RETURNING number;

-- name: credits
SELECT body FROM credits WHERE $1::text IS NULL OR key_id = $1 ORDER BY number DESC LIMIT $2;

-- name: quota_uses_at
SELECT u.key_id, u.user_name, u.period, u.tasks, u.samples, u.micros, u.held FROM quota_uses AS u
JOIN unnest($1::text[], $2::text[], $3::text[]) AS w (key_id, user_name, period)
    ON u.key_id = w.key_id AND u.user_name = w.user_name AND u.period = w.period;

-- name: put_quota_uses
INSERT INTO quota_uses
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[]
)
ON CONFLICT (key_id, user_name, period) DO UPDATE SET
    tasks = excluded.tasks, samples = excluded.samples, micros = excluded.micros,
    held = excluded.held;

-- name: forget_quota_uses
-- Of days; months stay.
DELETE FROM quota_uses WHERE length(period) = 10 AND period < $1;

-- name: put_holds
INSERT INTO quota_holds SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[]);

-- name: holds_of
SELECT body FROM quota_holds WHERE id = ANY($1::text[]);

-- name: drop_holds
DELETE FROM quota_holds WHERE id = ANY($1::text[]) RETURNING id;

-- name: holds
SELECT body FROM quota_holds WHERE id > $1 AND at < $2 ORDER BY id LIMIT $3;

-- name: post_deliveries
-- Those of one task in the order in which they are named.
INSERT INTO deliveries (
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, reason
)
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, 'waiting', 0, at, ''
FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::integer[],
    $8::timestamptz[], $9::text[]
) WITH ORDINALITY AS n (
    id, task_id, endpoint, key_id, event, place, attempt, at, data, number
) ORDER BY number;

-- name: overtake
-- What failed before and waits for its next attempt, where there is something newer to tell.
UPDATE deliveries SET state = 'skipped', due_at = NULL, ended_at = $3, reason = $4
WHERE seq IN (
    SELECT d.seq FROM deliveries AS d
    JOIN unnest($1::text[], $2::text[]) AS n (task_id, endpoint)
        ON d.task_id = n.task_id AND d.endpoint = n.endpoint
    WHERE d.due_at IS NOT NULL AND d.tries > 0
        AND d.event NOT IN ('succeeded', 'failed', 'canceled', 'expired')
    ORDER BY d.seq FOR UPDATE OF d
);

-- name: drop_passing
-- What passed by and was never sent.
DELETE FROM deliveries WHERE seq IN (
    SELECT d.seq FROM deliveries AS d
    JOIN unnest($1::text[], $2::text[]) AS n (task_id, endpoint)
        ON d.task_id = n.task_id AND d.endpoint = n.endpoint
    WHERE d.due_at IS NOT NULL AND d.tries = 0 AND d.event IN ('progress', 'preview', 'artifact')
    ORDER BY d.seq FOR UPDATE OF d
);

-- name: replace_passing
DELETE FROM deliveries WHERE seq IN (
    SELECT seq FROM deliveries WHERE task_id = $1 AND endpoint = ANY($2::text[]) AND event = $3
        AND due_at IS NOT NULL AND tries = 0
    ORDER BY seq FOR UPDATE
);

-- name: running_task
-- It cannot end until this transaction has.
SELECT id FROM tasks WHERE id = $1 AND state = 'running' AND attempt = $2 FOR SHARE;

-- name: due_deliveries
-- Places are found by jumping from one to the next in the index; of each its first, and of each line
-- the first that waits.
WITH RECURSIVE places (place) AS (
    (SELECT place FROM deliveries WHERE due_at IS NOT NULL ORDER BY place LIMIT 1)
    UNION ALL
    SELECT (
        SELECT d.place FROM deliveries AS d WHERE d.due_at IS NOT NULL AND d.place > p.place
        ORDER BY d.place LIMIT 1
    ) FROM places AS p WHERE p.place IS NOT NULL
)
SELECT
    d.id, d.task_id, d.endpoint, d.key_id, d.event, d.place, d.attempt, d.at, d.data, d.state,
    d.tries, d.due_at, d.ended_at, d.reason, d.log, d.answers
FROM places AS p CROSS JOIN LATERAL (
    SELECT w.* FROM deliveries AS w
    WHERE w.place = p.place AND w.due_at IS NOT NULL AND w.due_at <= $1 AND NOT EXISTS (
        SELECT 1 FROM deliveries AS e WHERE e.task_id = w.task_id AND e.endpoint = w.endpoint
            AND e.seq < w.seq AND e.due_at IS NOT NULL
    )
    ORDER BY w.due_at, w.seq LIMIT $2
) AS d
WHERE p.place IS NOT NULL AND NOT p.place = ANY($3::text[])
ORDER BY d.due_at, d.seq LIMIT $4;

-- name: next_delivery
SELECT min(due_at) FROM deliveries WHERE due_at IS NOT NULL AND NOT place = ANY($1::text[]);

-- name: deliveries
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries WHERE id = ANY($1::text[]);

-- name: deliveries_to_tell
-- With whether a later one waits in its line.
SELECT
    d.id, d.task_id, d.endpoint, d.key_id, d.event, d.place, d.attempt, d.at, d.data, d.state,
    d.tries, d.due_at, d.ended_at, d.reason, d.log, d.answers,
    EXISTS (
        SELECT 1 FROM deliveries AS l WHERE l.task_id = d.task_id AND l.endpoint = d.endpoint
            AND l.seq > d.seq AND l.due_at IS NOT NULL
    )
FROM deliveries AS d WHERE d.id = ANY($1::text[]) ORDER BY d.seq FOR UPDATE OF d;

-- name: removed_parts
SELECT id, removed FROM tasks WHERE id = ANY($1::text[]);

-- name: save_deliveries
UPDATE deliveries AS d SET
    state = n.state, tries = n.tries, due_at = n.due_at, ended_at = n.ended_at, reason = n.reason,
    log = n.log, answers = n.answers
FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::timestamptz[], $5::timestamptz[], $6::text[],
    $7::text[], $8::text[]
) AS n (id, state, tries, due_at, ended_at, reason, log, answers) WHERE d.id = n.id;

-- name: delivery_place
SELECT seq FROM deliveries WHERE id = $1;

-- name: page_deliveries
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE seq < $1 AND ($2::text IS NULL OR task_id = $2::text) AND ($3::text IS NULL OR endpoint = $3::text)
    AND ($4::text IS NULL OR key_id = $4::text) AND ($5::text IS NULL OR state = $5::text)
    AND ($6::timestamptz IS NULL OR at >= $6)
ORDER BY seq DESC LIMIT $7;

-- name: page_deliveries_of_key
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE seq < $1 AND ($2::text IS NULL OR task_id = $2::text) AND ($3::text IS NULL OR endpoint = $3::text)
    AND key_id = $4::text AND ($5::text IS NULL OR state = $5::text)
    AND ($6::timestamptz IS NULL OR at >= $6)
ORDER BY seq DESC LIMIT $7;

-- name: page_deliveries_of_endpoint
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE seq < $1 AND ($2::text IS NULL OR task_id = $2::text) AND endpoint = $3::text
    AND ($4::text IS NULL OR key_id = $4::text) AND ($5::text IS NULL OR state = $5::text)
    AND ($6::timestamptz IS NULL OR at >= $6) AND endpoint <> ''
ORDER BY seq DESC LIMIT $7;

-- name: page_deliveries_of_task
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE seq < $1 AND task_id = $2::text AND ($3::text IS NULL OR endpoint = $3::text)
    AND ($4::text IS NULL OR key_id = $4::text) AND ($5::text IS NULL OR state = $5::text)
    AND ($6::timestamptz IS NULL OR at >= $6)
ORDER BY seq DESC LIMIT $7;

-- name: replay_deliveries
UPDATE deliveries SET state = 'waiting', tries = 0, due_at = $2, ended_at = NULL, reason = ''
WHERE seq IN (
    SELECT seq FROM deliveries WHERE id = ANY($1::text[]) AND due_at IS NULL
    ORDER BY seq FOR UPDATE
)
RETURNING id;

-- name: give_up_deliveries
UPDATE deliveries SET state = 'failed', due_at = NULL, ended_at = $2, reason = $3
WHERE seq IN (
    SELECT seq FROM deliveries
    WHERE endpoint = $1 AND endpoint <> '' AND id <> $4 AND due_at IS NOT NULL
    ORDER BY seq FOR UPDATE
)
RETURNING id;

-- name: retire_deliveries
DELETE FROM deliveries WHERE seq IN (
    SELECT seq FROM deliveries WHERE ended_at IS NOT NULL AND ended_at <= $1 LIMIT $2
    FOR UPDATE SKIP LOCKED
)
RETURNING id;

-- name: forget_answers
-- What receivers answered may quote what was removed.
UPDATE deliveries SET answers = NULL, data = NULL WHERE seq IN (
    SELECT seq FROM deliveries WHERE task_id = ANY($1::text[]) ORDER BY seq FOR UPDATE
);

-- name: forget_deliveries
DELETE FROM deliveries WHERE seq IN (
    SELECT seq FROM deliveries WHERE task_id = ANY($1::text[]) ORDER BY seq FOR UPDATE
);

-- name: waiting_deliveries
SELECT count(*), min(at) FROM deliveries WHERE due_at IS NOT NULL;

-- name: lock_comparisons
SELECT pg_advisory_xact_lock(hashtextextended('comparisons ' || $1::text, 0));

-- name: put_comparison
INSERT INTO comparisons (id, closed_at, body) VALUES ($1, $2, $3);

-- name: count_comparisons
SELECT count(*) FROM comparison_outlines WHERE key_id = $1;

-- name: comparison
SELECT closed_at, body FROM comparisons WHERE id = $1;

-- name: outlines
SELECT id, name, created_at, key_id, is_shared, models, lines, votes, closed_at
FROM comparison_outlines
WHERE id < $1 AND (is_shared OR key_id = $2 OR $2::text IS NULL)
ORDER BY id DESC LIMIT $3;

-- name: closed_comparisons
SELECT id, closed_at FROM comparison_outlines WHERE closed_at IS NOT NULL ORDER BY closed_at, id;

-- name: close_comparison
UPDATE comparisons SET closed_at = $2 WHERE id = $1 AND closed_at IS NULL;

-- name: drop_comparison
DELETE FROM comparisons WHERE id = $1 RETURNING id;

-- name: drop_votes
DELETE FROM votes WHERE comparison_id = $1;

-- name: open_comparison
-- Held until the vote is written, so that none comes after the names were told.
SELECT id FROM comparisons WHERE id = $1 AND closed_at IS NULL FOR SHARE;

-- name: change_vote
UPDATE votes SET winner = $5, at = $6
WHERE comparison_id = $1 AND line = $2 AND key_id = $3 AND voter = $4 RETURNING line;

-- name: counted_votes
-- Held until the vote is written and counted.
SELECT votes FROM comparison_outlines WHERE id = $1 FOR UPDATE;

-- name: put_vote
INSERT INTO votes (comparison_id, line, key_id, voter, winner, at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (comparison_id, line, key_id, voter)
DO UPDATE SET winner = excluded.winner, at = excluded.at;

-- name: votes
SELECT comparison_id, line, key_id, voter, winner, at FROM votes WHERE comparison_id = $1
ORDER BY at, line, key_id, voter;

-- name: put_share_link
-- Who removes the outputs at the same time comes before or after, and then takes the link too.
INSERT INTO share_links (task_id, key_id, token, created_at, has_prompt, expires_at)
SELECT id, $2::text, $3::text, $4::timestamptz, $5::boolean, $6::timestamptz
FROM tasks WHERE id = $1 AND removed & 2 = 0 FOR SHARE
ON CONFLICT (task_id)
DO UPDATE SET has_prompt = excluded.has_prompt, expires_at = excluded.expires_at
RETURNING task_id, key_id, token, created_at, has_prompt, expires_at;

-- name: drop_share_links
DELETE FROM share_links WHERE task_id = ANY($1::text[])
RETURNING task_id, key_id, token, created_at, has_prompt, expires_at;

-- name: share_link
-- A backend of the version before removes outputs, and leaves the link.
SELECT l.task_id, l.key_id, l.token, l.created_at, l.has_prompt, l.expires_at
FROM share_links AS l JOIN tasks AS t ON t.id = l.task_id
WHERE l.token = $1 AND t.removed & 2 = 0;

-- name: share_link_of
SELECT l.task_id, l.key_id, l.token, l.created_at, l.has_prompt, l.expires_at
FROM share_links AS l JOIN tasks AS t ON t.id = l.task_id
WHERE l.task_id = $1 AND t.removed & 2 = 0;

-- name: share_links
SELECT l.task_id, l.key_id, l.token, l.created_at, l.has_prompt, l.expires_at
FROM share_links AS l JOIN tasks AS t ON t.id = l.task_id
WHERE l.task_id < $1 AND t.removed & 2 = 0 ORDER BY l.task_id DESC LIMIT $2;

-- name: share_links_of_key
SELECT l.task_id, l.key_id, l.token, l.created_at, l.has_prompt, l.expires_at
FROM share_links AS l JOIN tasks AS t ON t.id = l.task_id
WHERE l.key_id = $1 AND l.task_id < $2 AND t.removed & 2 = 0 ORDER BY l.task_id DESC LIMIT $3;

-- name: favour
-- Who removes the outputs at the same time comes before or after, and then takes this too.
WITH task AS (SELECT id FROM tasks WHERE id = $3 AND removed & 2 = 0 FOR SHARE), kept AS (
    INSERT INTO favourites (key_id, user_id, task_id, artifact)
    SELECT $1::text, $2::text, id, $4::integer FROM task ON CONFLICT DO NOTHING
)
SELECT id FROM task;

-- name: disfavour
DELETE FROM favourites WHERE key_id = $1 AND user_id = $2 AND task_id = $3 AND artifact = $4;

-- name: favourites
SELECT task_id, artifact FROM favourites
WHERE key_id = $1 AND user_id = $2 AND task_id = ANY($3::text[])
ORDER BY task_id, artifact;

-- name: forget_favourites
DELETE FROM favourites WHERE task_id = ANY($1::text[]);

-- name: lock_words
-- Whoever removes inputs waits for whoever keeps words, so that none is kept of what was removed.
SELECT pg_advisory_xact_lock(hashtextextended('task_words', 0));

-- name: share_words
SELECT pg_advisory_xact_lock_shared(hashtextextended('task_words', 0));

-- name: without_words
SELECT t.id, t.key_id, t.input FROM tasks AS t
WHERE t.id > (SELECT task_id FROM words_mark) AND t.removed & 1 = 0
    AND NOT EXISTS (SELECT 1 FROM task_words AS w WHERE w.task_id = t.id)
ORDER BY t.id LIMIT $1;

-- name: put_words
INSERT INTO task_words (task_id, words)
SELECT id, array_to_tsvector(string_to_array(words, ' '))
FROM unnest($1::text[], $2::text[]) AS r (id, words);

-- name: move_words_mark
UPDATE words_mark SET task_id = $1 WHERE task_id < $1;

-- name: forget_words
DELETE FROM task_words WHERE task_id = ANY($1::text[]);
