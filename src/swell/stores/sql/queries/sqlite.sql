-- Named queries. A name stands on a line of its own before its statement; docs say why, not what.

-- name: insert_task
INSERT INTO tasks (
    seq, id, model, queue, version, state, input, count, seed, priority, key_id, user_id, metadata,
    created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back, max_attempts,
    worker_id, lease_token, lease_expires_at, cancel_requested, started_at, finished_at, output,
    artifacts, error, timings, dead, retry_of, wake_at, checkpoint, traceparent, webhook
) VALUES (
    ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
    ?, ?, ?, ?, ?
);

-- name: save_task
-- Everything that may change after a task was accepted.
UPDATE tasks SET
    version = ?, state = ?, seed = ?, available_at = ?, attempt = ?, handed_back = ?,
    worker_id = ?, lease_token = ?, lease_expires_at = ?, cancel_requested = ?, started_at = ?,
    finished_at = ?, output = ?, artifacts = ?, error = ?, timings = ?, dead = ?, wake_at = ?,
    checkpoint = ?
WHERE seq = ?;

-- name: save_run
-- What else changes of a pipeline.
UPDATE tasks SET queue = ?, tag = ?, run = ? WHERE seq = ?;

-- name: save_warnings
UPDATE tasks SET warnings = ? WHERE seq = ?;

-- name: tasks_by_id
SELECT
    seq, id, model, queue, version, state, input, count, seed, priority, key_id, user_id, metadata,
    created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back, max_attempts,
    worker_id, lease_token, lease_expires_at, cancel_requested, started_at, finished_at, output,
    artifacts, error, timings, dead, retry_of, checkpoint, traceparent, removed,
    webhook, run, warnings
FROM tasks WHERE id IN (SELECT value FROM json_each(?));

-- name: task_by_id
SELECT
    seq, id, model, queue, version, state, input, count, seed, priority, key_id, user_id, metadata,
    created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back, max_attempts,
    worker_id, lease_token, lease_expires_at, cancel_requested, started_at, finished_at, output,
    artifacts, error, timings, dead, retry_of, checkpoint, traceparent, removed,
    webhook, run, warnings
FROM tasks WHERE id = ?;

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM tasks;

-- name: page_ids_found
-- In the order of `seq`, which is how they are found; a cursor stands for the place of its task.
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

-- name: ready_head
-- The next tasks of one key and band, after a place in its order, without those that have expired.
SELECT priority, tag, id FROM tasks
WHERE queue = ? AND state = 'queued' AND available_at IS NULL AND key_id = ? AND priority <= ?
    AND (priority, tag, id) > (?, ?, ?) AND ifnull(wake_at > ?, TRUE)
ORDER BY priority, tag, id LIMIT ?;

-- name: open_shares
-- What fair queueing needs to know after a restart: for each user of a key, where its tasks that
-- were never handed out begin, how far those that were have come, and where the last of either ends.
-- The two halves read one index each, so that ended tasks cost nothing. Of a pipeline it is the model
-- of the stage that it is at.
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

-- name: ready_depths
SELECT queue, count(*), sum(count), min(id) FROM tasks
WHERE state = 'queued' AND available_at IS NULL GROUP BY queue;

-- name: oldest_ready
SELECT id, key_id, user_id, priority FROM tasks
WHERE queue = ? AND state = 'queued' AND available_at IS NULL ORDER BY id LIMIT ?;

-- name: woken_depths
-- Everything that runs or is delayed has a time to wake.
SELECT queue, sum(state = 'queued' AND available_at IS NOT NULL), sum(state = 'running')
FROM tasks WHERE wake_at IS NOT NULL GROUP BY queue;

-- name: ready_lines
-- Whoever has waited longest comes first.
SELECT queue, priority, key_id, count(*), sum(count) FROM tasks
WHERE state = 'queued' AND available_at IS NULL
GROUP BY queue, key_id, priority ORDER BY min(id);

-- name: rank
SELECT count(*), coalesce(sum(count), 0) FROM (
    SELECT count FROM tasks
    WHERE queue = ? AND state = 'queued' AND available_at IS NULL AND key_id = ?
        AND priority >= ? AND (priority, tag, id) < (?, ?, ?)
    LIMIT ?
);

-- name: due_ids
SELECT id FROM tasks WHERE wake_at <= ? ORDER BY wake_at LIMIT ?;

-- name: overlong_waits
-- Whose lease or backoff ends later than any that begins now, after a clock was set back.
SELECT id FROM tasks INDEXED BY tasks_wake
WHERE wake_at > min(:lease, :backoff) AND (lease_expires_at > :lease OR available_at > :backoff)
LIMIT :limit;

-- name: next_wake
SELECT min(wake_at) FROM tasks WHERE wake_at IS NOT NULL;

-- name: retry_of
SELECT id FROM tasks WHERE retry_of = ?;

-- name: idempotent
SELECT task_id, fingerprint, created_at FROM idempotency WHERE key_id = ? AND key = ?;

-- name: keep_idempotent
INSERT OR REPLACE INTO idempotency (key_id, key, task_id, fingerprint, created_at)
VALUES (?, ?, ?, ?, ?);

-- name: forget_idempotent
DELETE FROM idempotency WHERE created_at <= ?;

-- name: open_tasks
-- What waits, and what will be woken: what runs has a lease that runs out, what is delayed a time.
SELECT
    (SELECT count(*) FROM tasks
        WHERE state = 'queued' AND available_at IS NULL AND key_id = ?)
    + (SELECT count(*) FROM tasks
        WHERE wake_at IS NOT NULL AND key_id = ?
            AND (state = 'running' OR (state = 'queued' AND available_at IS NOT NULL)));

-- name: prove_writable
-- Another value each time, so that there is something to write.
INSERT OR REPLACE INTO secrets (name, value) VALUES ('is-writable', randomblob(16));

-- name: discard
INSERT OR IGNORE INTO discarded (key) VALUES (?);

-- name: discarded
SELECT key FROM discarded ORDER BY seq LIMIT ?;

-- name: forget_discarded
DELETE FROM discarded WHERE key IN (SELECT value FROM json_each(?));

-- name: keep_upload
INSERT OR IGNORE INTO uploads (key, created_at) VALUES (?, ?);

-- name: forget_upload
DELETE FROM uploads WHERE key = ?;

-- name: use_file
INSERT OR IGNORE INTO file_uses (key, task_id) VALUES (?, ?);

-- name: use_same_files
INSERT OR IGNORE INTO file_uses (key, task_id) SELECT key, :new_id FROM file_uses
WHERE task_id = :old_id;

-- name: is_used
SELECT 1 FROM file_uses WHERE key = ? LIMIT 1;

-- name: files_of
SELECT key FROM file_uses WHERE task_id = ?;

-- name: forget_uses
DELETE FROM file_uses WHERE task_id = ?;

-- name: unused_uploads
SELECT key FROM uploads WHERE created_at <= ?
    AND NOT EXISTS (SELECT 1 FROM file_uses WHERE file_uses.key = uploads.key)
ORDER BY created_at LIMIT ?;

-- name: ended_ids
-- `removed` names the values that a task may have which still has the part in question.
SELECT id FROM tasks
WHERE removed IN (SELECT value FROM json_each(:removed)) AND finished_at <= :before
    AND (:models IS NULL OR model IN (SELECT value FROM json_each(:models)))
    AND model NOT IN (SELECT value FROM json_each(:except_models))
LIMIT :limit;

-- name: remove_parts
UPDATE tasks SET removed = ?, input = ?, metadata = ? WHERE id = ?;

-- name: delete_task
DELETE FROM tasks WHERE id = ?;

-- name: due_deliveries
-- Places are found by jumping from one to the next in the index; of each its first, and of each line
-- the first that waits.
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
-- Numbers of tasks that are gone are given again after a start.
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

-- name: forget_words
DELETE FROM task_words WHERE rowid = (SELECT seq FROM tasks WHERE id = ?);
