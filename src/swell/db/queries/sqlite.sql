-- Named statements of one database, with the parameters and macros of `swell.db.sql`.

-- name: ready_head
-- The next tasks of one key and band, after a place in its order, without those that have expired.
SELECT priority, tag, id FROM tasks
WHERE queue = ? AND state = 'queued' AND available_at IS NULL AND key_id = ? AND priority <= ?
    AND (priority, tag, id) > (?, ?, ?) AND ifnull(wake_at > ?, TRUE)
ORDER BY priority, tag, id LIMIT ?;

-- name: ranks
-- How many tasks of a key come before a place in its line, up to a bound.
SELECT :queue AS queue, :task_id AS task_id, count(*) AS n, coalesce(sum(count), 0) AS samples
FROM (
    SELECT count FROM tasks
    WHERE queue = :queue AND state = 'queued' AND available_at IS NULL AND key_id = :key_id
        AND priority >= :least AND (priority, tag, id) < (:priority, :tag, :task_id)
    LIMIT :bound
);

-- name: open_tasks
-- Ready tasks, and those that will be woken: running tasks have a lease, delayed tasks a time.
SELECT value AS key_id,
    (SELECT count(*) FROM tasks
        WHERE state = 'queued' AND available_at IS NULL AND key_id = value)
    + (SELECT count(*) FROM tasks
        WHERE wake_at IS NOT NULL AND key_id = value
            AND (state = 'running' OR (state = 'queued' AND available_at IS NOT NULL))) AS n
FROM ({each keys});

-- name: forget_words
DELETE FROM task_words WHERE rowid IN (SELECT seq FROM tasks WHERE id IN ({each ids}));

-- name: page_ids_found
-- In the order of `seq`, as the index finds them; a cursor means the place of its task.
SELECT t.id FROM task_words AS w CROSS JOIN tasks AS t
WHERE w.task_words MATCH :search AND t.seq = w.rowid
    AND w.rowid < coalesce(
        (SELECT seq FROM tasks WHERE id >= :before ORDER BY id LIMIT 1), 9223372036854775807
    )
    AND t.id < :before AND t.id > :after
    {if state: AND t.state = :state} {if model: AND t.model = :model}
    {if user: AND t.user_id = :user} {if key_id: AND t.key_id = :key_id}
    {if is_dead: AND t.dead} {if is_not_dead: AND NOT t.dead}
    {if liked_by_key: AND t.id IN (
        SELECT f.task_id FROM favourites AS f
        WHERE f.key_id = :liked_by_key AND f.user_name = :liked_by_user
            AND f.task_id < :before AND f.task_id > :after
    )}
ORDER BY w.rowid DESC LIMIT :limit;

-- name: open_shares
-- Restores the clocks of fair queueing after a restart. For each user of a key: the smallest tag of
-- tasks that were never leased, the largest of those that were, and the largest end of each. The
-- two halves read one index each, so ended tasks cost nothing. The model is that of a pipeline's
-- current stage.
SELECT substr(queue, 1, instr(queue || ':', ':') - 1), key_id, priority, flow, was_served,
    CASE WHEN was_served THEN max(tag) ELSE min(tag) END, max(tag + count)
FROM (
    SELECT queue, key_id, priority, coalesce(user_id, '') AS flow, attempt > 0 AS was_served, tag,
        count
    FROM tasks INDEXED BY tasks_ready WHERE state = 'queued' AND available_at IS NULL
    UNION ALL
    SELECT queue, key_id, priority, coalesce(user_id, ''), attempt > 0, tag, count
    FROM tasks INDEXED BY tasks_wake
    WHERE wake_at IS NOT NULL AND (state = 'running' OR available_at IS NOT NULL)
) GROUP BY 1, 2, 3, 4, 5;

-- name: prove_writable
-- A new value each time, so that the database must write.
INSERT OR REPLACE INTO secrets (name, value) VALUES ('is-writable', randomblob(16));

-- name: due_deliveries
-- Finds places by jumping from one to the next in the index; then the first deliveries of each place,
-- and of each line only the first that waits.
WITH RECURSIVE places (place) AS (
    SELECT min(place) FROM deliveries WHERE due_at IS NOT NULL
    UNION ALL
    SELECT (
        SELECT min(d.place) FROM deliveries AS d WHERE d.due_at IS NOT NULL AND d.place > p.place
    ) FROM places AS p WHERE p.place IS NOT NULL
)
SELECT
    d.id, d.task_id, d.endpoint, d.key_id, d.event, d.place, d.attempt, d.at, d.data, d.state,
    d.tries, d.due_at, d.ended_at, d.reason, d.log, d.answers
FROM places AS p CROSS JOIN deliveries AS d ON d.seq IN (
    SELECT w.seq FROM deliveries AS w
    WHERE w.place = p.place AND w.due_at IS NOT NULL AND w.due_at <= :now AND NOT EXISTS (
        SELECT 1 FROM deliveries AS e WHERE e.task_id = w.task_id AND e.endpoint = w.endpoint
            AND e.seq < w.seq AND e.due_at IS NOT NULL
    )
    ORDER BY w.due_at, w.seq LIMIT :per_place
)
WHERE p.place NOT IN ({each without})
ORDER BY d.due_at, d.seq LIMIT :limit;

-- name: check_words_mark
-- After a start, numbers of deleted tasks are used again.
UPDATE words_mark SET seq = min(seq, (SELECT coalesce(max(seq), 0) FROM tasks));

-- name: without_words
SELECT seq AS place, key_id, input FROM tasks WHERE seq > (SELECT seq FROM words_mark)
ORDER BY seq LIMIT :limit;

-- name: put_words
INSERT INTO task_words (rowid, words) SELECT place, words FROM ({rows place int, words text});

-- name: late_words_mark
-- Numbers are in the order of commits, so the mark is never late.
SELECT seq FROM words_mark WHERE false;

-- name: move_words_mark
UPDATE words_mark SET seq = :place;
