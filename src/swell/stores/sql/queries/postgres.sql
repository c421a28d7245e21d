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

-- name: next_ready
-- The next ready tasks of some lines, each (queue, key, highest priority) after a place in its
-- order, without those that have expired.
SELECT
    t.id, t.edition, t.model, t.queue, t.version, t.state, t.input, t.count, t.seed,
    t.priority, t.key_id, t.user_id, t.metadata, t.created_at, t.start_by_at, t.finish_by_at,
    t.available_at, t.tag, t.attempt, t.handed_back, t.max_attempts, t.worker_id,
    t.lease_token, t.lease_expires_at, t.cancel_requested, t.started_at, t.finished_at,
    t.output, t.artifacts, t.error, t.timings, t.dead, t.retry_of, t.wake_at, t.checkpoint,
    t.traceparent, t.removed, t.webhook, t.run, t.warnings, l.n
FROM unnest(
    $1::text[], $2::text[], $3::integer[], $4::integer[], $5::float8[], $6::text[], $7::integer[]
) WITH ORDINALITY AS l (queue, key_id, highest, priority, tag, id, size, n) CROSS JOIN LATERAL (
    SELECT * FROM tasks
    WHERE queue = l.queue AND key_id = l.key_id AND state = 'queued' AND available_at IS NULL
        AND priority <= l.highest AND (priority, tag, id) > (l.priority, l.tag, l.id)
        AND (wake_at IS NULL OR wake_at > $8)
    ORDER BY priority, tag, id LIMIT l.size /* lock */
) AS t;

-- name: ready_lines_of
-- As `ready_lines`, of some queues.
SELECT queue, priority, key_id, count(*), sum(count)::bigint FROM tasks
WHERE queue = ANY($1::text[]) AND state = 'queued' AND available_at IS NULL
GROUP BY queue, key_id, priority ORDER BY min(id);

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

-- name: page_ids_found
SELECT t.id FROM task_words AS w JOIN tasks AS t ON t.id = w.task_id
WHERE w.words @@ CAST(CAST(:search AS text) AS tsquery) AND t.id < :before AND t.id > :after
    AND t.removed & 1 = 0
    {if state: AND t.state = :state} {if model: AND t.model = :model}
    {if user: AND t.user_id = :user} {if key_id: AND t.key_id = :key_id}
    {if is_dead: AND t.dead} {if is_not_dead: AND NOT t.dead}
    {if liked_by_key: AND t.id IN (
        SELECT f.task_id FROM favourites AS f
        WHERE f.key_id = :liked_by_key AND f.user_name = :liked_by_user
            AND f.task_id < :before AND f.task_id > :after
    )}
ORDER BY t.id DESC LIMIT :limit;

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
    WHERE t.key_id = w.key_id AND t.finished_at IS NULL
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
    WHERE w.place = p.place AND w.due_at IS NOT NULL AND w.due_at <= :now AND NOT EXISTS (
        SELECT 1 FROM deliveries AS e WHERE e.task_id = w.task_id AND e.endpoint = w.endpoint
            AND e.seq < w.seq AND e.due_at IS NOT NULL
    )
    ORDER BY w.due_at, w.seq LIMIT :per_place
) AS d
WHERE p.place IS NOT NULL AND p.place NOT IN ({each without})
ORDER BY d.due_at, d.seq LIMIT :limit;

-- name: advisory_lock
SELECT pg_advisory_xact_lock(hashtextextended(name, 0)) FROM ({each names}) AS n (name);

-- name: lock_running
-- They cannot end until this transaction has.
SELECT id FROM tasks WHERE id IN ({each ids}) AND state = 'running' ORDER BY id FOR SHARE;

-- name: share_words
-- Removing inputs waits for a transaction that indexes them (`advisory_lock`).
SELECT pg_advisory_xact_lock_shared(hashtextextended('words ', 0));

-- name: without_words
SELECT t.id AS place, t.key_id, t.input FROM tasks AS t
WHERE t.id > (SELECT task_id FROM words_mark) AND t.removed & 1 = 0
    AND NOT EXISTS (SELECT 1 FROM task_words AS w WHERE w.task_id = t.id)
ORDER BY t.id LIMIT :limit;

-- name: put_words
INSERT INTO task_words (task_id, words)
SELECT place, array_to_tsvector(string_to_array(words, ' '))
FROM ({rows place text, words text}) AS r;

-- name: late_words_mark
SELECT task_id FROM words_mark WHERE task_id < :settled;

-- name: move_words_mark
UPDATE words_mark SET task_id = least(CAST(:place AS text), :settled)
WHERE task_id < least(CAST(:place AS text), :settled);

-- name: forget_words
DELETE FROM task_words WHERE task_id = ANY($1::text[]);
