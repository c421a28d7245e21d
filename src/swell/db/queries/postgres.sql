-- Named statements of one database, with the parameters and macros of `swell.db.sql`.

-- name: next_ready
-- The next ready tasks of some lines, each (queue, key, highest priority) after a place in its
-- order, without those that have expired or that another backend is about to lease. `n` is the
-- number of the line, from 1 on.
SELECT l.n, {task}
FROM unnest(
    :queues::text[], :keys::text[], :highest::bigint[], :priorities::bigint[], :tags::float8[],
    :after::text[], :limits::bigint[]
) WITH ORDINALITY AS l (queue, key_id, highest, priority, tag, id, size, n) CROSS JOIN LATERAL (
    SELECT * FROM tasks
    WHERE queue = l.queue AND key_id = l.key_id AND state = 'queued' AND available_at IS NULL
        AND priority <= l.highest AND (priority, tag, id) > (l.priority, l.tag, l.id)
        AND (wake_at IS NULL OR wake_at > :now)
    ORDER BY priority, tag, id LIMIT l.size FOR UPDATE SKIP LOCKED
) AS t;

-- name: ready_lines_of
-- As `ready_lines`, of some queues.
SELECT queue, priority, key_id, count(*) AS n, CAST(sum(count) AS bigint) AS samples FROM tasks
WHERE queue IN ({each queues}) AND state = 'queued' AND available_at IS NULL
GROUP BY queue, key_id, priority ORDER BY min(id);

-- name: ranks
-- For each place in the line of a key: how many of its tasks come before, up to a bound.
SELECT w.queue, w.task_id, r.n, r.samples
FROM ({rows queue text, key_id text, least int, priority int, tag real, task_id text}) AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS n, CAST(coalesce(sum(count), 0) AS bigint) AS samples FROM (
        SELECT count FROM tasks
        WHERE queue = w.queue AND state = 'queued' AND available_at IS NULL
            AND key_id = w.key_id AND priority >= w.least
            AND (priority, tag, id) < (w.priority, w.tag, w.task_id)
        LIMIT :bound
    ) AS before
) AS r;

-- name: open_tasks
SELECT value AS key_id, (
    SELECT count(*) FROM tasks AS t WHERE t.key_id = value AND t.finished_at IS NULL
) AS n FROM ({each keys}) AS k;

-- name: advisory_lock
SELECT pg_advisory_xact_lock(hashtextextended(value, 0)) FROM ({each names}) AS n;

-- name: advisory_lock_shared
SELECT pg_advisory_xact_lock_shared(hashtextextended(value, 0)) FROM ({each names}) AS n;

-- name: time
SELECT clock_timestamp() AS now;

-- name: notify
SELECT pg_notify(:channel, value) FROM ({each parts}) AS p;

-- name: forget_words
DELETE FROM task_words WHERE task_id IN ({each ids});

-- name: open_shares
-- Restores the clocks of fair queueing. For each user of a key: the smallest tag of tasks that were
-- never leased, the largest of those that were, and the largest end of each. The model is that of a
-- pipeline's current stage.
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

-- name: prove_writable
-- A new value each time, so that the database must write.
INSERT INTO secrets (name, value) VALUES ('is-writable', uuid_send(gen_random_uuid()))
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: due_deliveries
-- Finds places by jumping from one to the next in the index; then the first deliveries of each place,
-- and of each line only the first that waits.
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
