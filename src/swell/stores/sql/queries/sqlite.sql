-- Named queries. A name stands on a line of its own before its statement; docs say why, not what.

-- name: insert_task
INSERT INTO tasks (
    seq, id, model, queue, version, state, input, count, seed, priority, key_id, user, metadata,
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
    seq, id, model, queue, version, state, input, count, seed, priority, key_id, user, metadata,
    created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back, max_attempts,
    worker_id, lease_token, lease_expires_at, cancel_requested, started_at, finished_at, output,
    artifacts, error, timings, dead, retry_of, checkpoint, traceparent, removed,
    webhook, run, warnings
FROM tasks WHERE id IN (SELECT value FROM json_each(?));

-- name: task_by_id
SELECT
    seq, id, model, queue, version, state, input, count, seed, priority, key_id, user, metadata,
    created_at, start_by_at, finish_by_at, available_at, tag, attempt, handed_back, max_attempts,
    worker_id, lease_token, lease_expires_at, cancel_requested, started_at, finished_at, output,
    artifacts, error, timings, dead, retry_of, checkpoint, traceparent, removed,
    webhook, run, warnings
FROM tasks WHERE id = ?;

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM tasks;

-- name: page_ids
-- Rare filters read more than they return; the two that people page through have an index.
SELECT id FROM tasks
WHERE id < :cursor AND id > :after
    AND (:state IS NULL OR state = :state)
    AND (:model IS NULL OR model = :model)
    AND (:user IS NULL OR user = :user)
    AND (:key_id IS NULL OR key_id = :key_id)
    AND (:dead IS NULL OR dead = :dead)
ORDER BY id DESC LIMIT :limit;

-- name: page_ids_of_user
SELECT id FROM tasks
WHERE user = :user AND id < :cursor AND id > :after
    AND (:state IS NULL OR state = :state)
    AND (:model IS NULL OR model = :model)
    AND (:key_id IS NULL OR key_id = :key_id)
    AND (:dead IS NULL OR dead = :dead)
ORDER BY id DESC LIMIT :limit;

-- name: page_ids_of_dead
SELECT id FROM tasks
WHERE dead = 1 AND id < :cursor AND id > :after
    AND (:state IS NULL OR state = :state)
    AND (:model IS NULL OR model = :model)
    AND (:user IS NULL OR user = :user)
    AND (:key_id IS NULL OR key_id = :key_id)
ORDER BY id DESC LIMIT :limit;

-- name: page_ids_of_liked
-- From what is liked to the tasks: there is less of it.
SELECT t.id FROM favourites AS f CROSS JOIN tasks AS t
WHERE f.key_id = :liked_by_key AND f.user = :liked_by_user
    AND f.task_id < :cursor AND f.task_id > :after AND t.id = f.task_id
    AND (:state IS NULL OR t.state = :state)
    AND (:model IS NULL OR t.model = :model)
    AND (:user IS NULL OR t.user = :user)
    AND (:key_id IS NULL OR t.key_id = :key_id)
    AND (:dead IS NULL OR t.dead = :dead)
GROUP BY f.task_id ORDER BY f.task_id DESC LIMIT :limit;

-- name: page_ids_found
-- In the order of `seq`, which is how they are found; a cursor stands for the place of its task.
SELECT t.id FROM task_words AS w CROSS JOIN tasks AS t
WHERE w.task_words MATCH :match AND t.seq = w.rowid
    AND w.rowid < coalesce(
        (SELECT seq FROM tasks WHERE id >= :cursor ORDER BY id LIMIT 1), 9223372036854775807
    )
    AND t.id < :cursor AND t.id > :after
    AND (:state IS NULL OR t.state = :state)
    AND (:model IS NULL OR t.model = :model)
    AND (:user IS NULL OR t.user = :user)
    AND (:key_id IS NULL OR t.key_id = :key_id)
    AND (:dead IS NULL OR t.dead = :dead)
    AND (:liked_by_key IS NULL OR EXISTS (
        SELECT 1 FROM favourites
        WHERE key_id = :liked_by_key AND user = :liked_by_user AND task_id = t.id
    ))
ORDER BY w.rowid DESC LIMIT :limit;

-- name: ready_head
-- The next tasks of one key, after a place in its order.
SELECT priority, tag, id FROM tasks
WHERE queue = ? AND state = 'queued' AND available_at IS NULL AND key_id = ? AND priority <= ?
    AND (priority, tag, id) > (?, ?, ?)
ORDER BY priority, tag, id LIMIT ?;

-- name: open_shares
-- What fair queueing needs to know after a restart: for each user of a key, where its tasks that
-- were never handed out begin, how far those that were have come, and where the last of either ends.
-- The two halves read one index each, so that ended tasks cost nothing. Of a pipeline it is the model
-- of the stage that it is at.
SELECT substr(queue, 1, instr(queue || ':', ':') - 1), key_id, priority, flow, was_served,
    CASE WHEN was_served THEN max(tag) ELSE min(tag) END, max(tag + count)
FROM (
    SELECT queue, key_id, priority, coalesce(user, '') AS flow, attempt > 0 AS was_served, tag,
        count
    FROM tasks INDEXED BY tasks_ready WHERE state = 'queued' AND available_at IS NULL
    UNION ALL
    SELECT queue, key_id, priority, coalesce(user, ''), attempt > 0, tag, count
    FROM tasks INDEXED BY tasks_wake
    WHERE wake_at IS NOT NULL AND (state = 'running' OR available_at IS NOT NULL)
) GROUP BY 1, 2, 3, 4, 5;

-- name: ready_depths
SELECT queue, count(*), sum(count), min(id) FROM tasks
WHERE state = 'queued' AND available_at IS NULL GROUP BY queue;

-- name: oldest_ready
SELECT id, key_id, user, priority FROM tasks
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

-- name: put_model
INSERT INTO models (name, version, body) VALUES (?, ?, ?);

-- name: touch_model
-- Registering a known version again makes it the newest, and changes nothing else.
UPDATE models SET seq = (SELECT max(seq) + 1 FROM models) WHERE name = ? AND version = ?;

-- name: price_model
-- What others ask for a sample is none of what a version is.
UPDATE models SET body = json_set(body, '$.price_micros', ?) WHERE name = ? AND version = ?;

-- name: newest_model
SELECT version, json_extract(body, '$.price_micros') FROM models
WHERE name = ? ORDER BY seq DESC LIMIT 1;

-- name: models
SELECT body FROM models ORDER BY name, seq DESC;

-- name: put_worker
INSERT OR REPLACE INTO workers (id, seen_at, gone_at, body) VALUES (?, ?, ?, ?);

-- name: touch_worker
UPDATE workers SET seen_at = ? WHERE id = ? AND gone_at IS NULL;

-- name: worker
SELECT body, seen_at, gone_at FROM workers WHERE id = ?;

-- name: workers
SELECT body, seen_at, gone_at FROM workers;

-- name: forget_workers
DELETE FROM workers WHERE gone_at <= ?;

-- name: worker_gone
UPDATE workers SET gone_at = ? WHERE id = ? AND gone_at IS NULL;

-- name: put_key
INSERT INTO api_keys (id, digest, created_at, body, old_digest) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, body = excluded.body,
    old_digest = excluded.old_digest;

-- name: keys
SELECT body, used_at FROM api_keys ORDER BY created_at, id;

-- name: key
SELECT body FROM api_keys WHERE id = ?;

-- name: touch_key
UPDATE api_keys SET used_at = ? WHERE id = ? AND (used_at IS NULL OR used_at < ?);

-- name: key_by_digest
SELECT body, used_at FROM api_keys WHERE digest = ?;

-- name: key_by_old_digest
SELECT body, used_at FROM api_keys WHERE old_digest = ?;

-- name: record
INSERT INTO audit (id, body) VALUES (?, ?);

-- name: audit
SELECT body FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?;

-- name: startup
SELECT body FROM startups WHERE id = ?;

-- name: put_startup
INSERT INTO startups (id, family, worker_id, begun_at, is_under_way, body)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    family = excluded.family,
    worker_id = excluded.worker_id,
    begun_at = excluded.begun_at,
    is_under_way = excluded.is_under_way,
    body = excluded.body;

-- name: forget_startups
-- The second part is empty where the family has fewer. What is under way is never forgotten.
DELETE FROM startups WHERE id IN (
    SELECT id FROM startups WHERE is_under_way = 0 AND begun_at <= ?1
    UNION ALL
    SELECT id FROM (
        SELECT id FROM startups WHERE family = ?2 AND is_under_way = 0
        ORDER BY begun_at DESC, id DESC LIMIT -1 OFFSET ?3
    )
);

-- name: startups
SELECT body FROM startups ORDER BY begun_at, id;

-- name: startups_under_way
SELECT body FROM startups WHERE is_under_way = 1 ORDER BY begun_at, id;

-- name: startups_of
SELECT body FROM startups
WHERE worker_id IN (SELECT value FROM json_each(?)) AND worker_id <> '' ORDER BY begun_at, id;

-- name: charge
INSERT INTO ledger (
    id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id, user,
    attempts, images
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING;

-- name: ledger
SELECT
    number, id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user, attempts, images
FROM ledger WHERE number < ? ORDER BY number DESC LIMIT ?;

-- name: charged
SELECT id, seconds, micros FROM accounts WHERE id IN (SELECT value FROM json_each(?));

-- name: costs
SELECT
    day, kind, pool, model, key_id, '', is_priced, sum(attempts), sum(images), sum(seconds),
    sum(micros)
FROM costs WHERE day BETWEEN ? AND ?
GROUP BY day, kind, pool, model, key_id, is_priced ORDER BY day;

-- name: costs_of_users
SELECT
    day, kind, pool, model, key_id, user, is_priced, attempts, images, seconds, micros
FROM costs WHERE day BETWEEN ? AND ? ORDER BY day;

-- name: spent_until
SELECT spent_until FROM allowances WHERE name = ?;

-- name: spend
INSERT INTO allowances (name, spent_until) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET spent_until = excluded.spent_until;

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

-- name: secret
SELECT value FROM secrets WHERE name = ?;

-- name: keep_secret
INSERT OR IGNORE INTO secrets (name, value) VALUES (?, ?);

-- name: put_note
INSERT OR REPLACE INTO notes (name, value) VALUES (?, ?);

-- name: add_note
INSERT OR IGNORE INTO notes (name, value) VALUES (?, ?);

-- name: swap_note
UPDATE notes SET value = ? WHERE name = ? AND value = ?;

-- name: note
SELECT value FROM notes WHERE name = ?;

-- name: notes
SELECT name, value FROM notes WHERE substr(name, 1, length(?)) = ? ORDER BY name;

-- name: drop_note
DELETE FROM notes WHERE name = ?;

-- name: take_duty
-- Changes nothing while another process holds the duty. An end more than two leases away was
-- written before a clock was set back, and does not count.
INSERT INTO duties (name, holder, held_until) VALUES (?, ?, ?)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE duties.holder = excluded.holder OR duties.held_until <= ? OR duties.held_until > ?;

-- name: leave_duty
DELETE FROM duties WHERE name = ? AND holder = ?;

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

-- name: put_quota
INSERT INTO quotas VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET body = excluded.body;

-- name: drop_quota
DELETE FROM quotas WHERE key_id = ? AND user = ?;

-- name: quotas
SELECT body FROM quotas ORDER BY key_id, user;

-- name: quota_keys
SELECT DISTINCT key_id FROM quotas;

-- name: quota
SELECT body FROM quotas WHERE key_id = ? AND user = ?;

-- name: credit_account
SELECT granted, spent, held FROM credit_accounts WHERE key_id = ? AND user = ?;

-- name: put_credit_account
INSERT INTO credit_accounts VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    granted = excluded.granted, spent = excluded.spent, held = excluded.held;

-- name: add_credit
INSERT INTO credit_accounts VALUES (?, ?, ?, 0, 0)
ON CONFLICT DO UPDATE SET granted = granted + excluded.granted;

-- name: credit_places
SELECT key_id, user FROM credit_accounts ORDER BY key_id, user;

-- name: put_credit
INSERT INTO credits (id, key_id, user, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING;

-- name: credits
SELECT body FROM credits WHERE :key_id IS NULL OR key_id = :key_id ORDER BY number DESC LIMIT :n;

-- name: quota_use
SELECT tasks, samples, micros, held FROM quota_uses WHERE key_id = ? AND user = ? AND period = ?;

-- name: put_quota_use
INSERT INTO quota_uses VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET
    tasks = excluded.tasks, samples = excluded.samples, micros = excluded.micros,
    held = excluded.held;

-- name: forget_quota_uses
-- Of days; months stay.
DELETE FROM quota_uses WHERE length(period) = 10 AND period < ?;

-- name: put_hold
INSERT INTO quota_holds VALUES (?, ?, ?);

-- name: hold
SELECT body FROM quota_holds WHERE id = ?;

-- name: drop_hold
DELETE FROM quota_holds WHERE id = ?;

-- name: holds
SELECT body FROM quota_holds WHERE id > ? AND at < ? ORDER BY id LIMIT ?;

-- name: post_delivery
INSERT INTO deliveries (
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: overtake
-- What failed before and waits for its next attempt, where there is something newer to tell.
UPDATE deliveries SET state = 'skipped', due_at = NULL, ended_at = :now, reason = :reason
WHERE task_id = :task_id AND endpoint = :endpoint AND due_at IS NOT NULL AND tries > 0
    AND event NOT IN ('succeeded', 'failed', 'canceled', 'expired');

-- name: drop_passing
-- What passed by and was never sent.
DELETE FROM deliveries WHERE task_id = ? AND endpoint = ? AND due_at IS NOT NULL AND tries = 0
    AND event IN ('progress', 'preview', 'artifact');

-- name: replace_passing
DELETE FROM deliveries WHERE task_id = ? AND endpoint = ? AND event = ? AND due_at IS NOT NULL
    AND tries = 0;

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
WHERE p.place NOT IN (SELECT value FROM json_each(:without))
ORDER BY d.due_at, d.seq LIMIT :limit;

-- name: next_delivery
SELECT min(due_at) FROM deliveries
WHERE due_at IS NOT NULL AND place NOT IN (SELECT value FROM json_each(?));

-- name: delivery
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries WHERE id = ?;

-- name: has_later_delivery
SELECT 1 FROM deliveries AS l JOIN deliveries AS d ON d.id = ?
WHERE l.task_id = d.task_id AND l.endpoint = d.endpoint AND l.seq > d.seq AND l.due_at IS NOT NULL
LIMIT 1;

-- name: save_delivery
UPDATE deliveries SET
    state = ?, tries = ?, due_at = ?, ended_at = ?, reason = ?, log = ?, answers = ?
WHERE id = ?;

-- name: delivery_place
SELECT seq FROM deliveries WHERE id = ?;

-- name: page_deliveries
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE seq < :before AND (:state IS NULL OR state = :state) AND (:since IS NULL OR at >= :since)
    AND (:key_id IS NULL OR key_id = :key_id)
ORDER BY seq DESC LIMIT :limit;

-- name: page_deliveries_of_key
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE key_id = :key_id AND seq < :before AND (:state IS NULL OR state = :state)
    AND (:since IS NULL OR at >= :since)
ORDER BY seq DESC LIMIT :limit;

-- name: page_deliveries_of_endpoint
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE endpoint = :endpoint AND endpoint <> '' AND seq < :before
    AND (:state IS NULL OR state = :state) AND (:since IS NULL OR at >= :since)
    AND (:key_id IS NULL OR key_id = :key_id) AND (:task_id IS NULL OR task_id = :task_id)
ORDER BY seq DESC LIMIT :limit;

-- name: page_deliveries_of_task
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE task_id = :task_id AND seq < :before AND (:state IS NULL OR state = :state)
    AND (:since IS NULL OR at >= :since) AND (:key_id IS NULL OR key_id = :key_id)
ORDER BY seq DESC LIMIT :limit;

-- name: replay_delivery
UPDATE deliveries SET state = 'waiting', tries = 0, due_at = ?, ended_at = NULL, reason = ''
WHERE id = ? AND due_at IS NULL;

-- name: give_up_deliveries
UPDATE deliveries SET state = 'failed', due_at = NULL, ended_at = ?, reason = ?
WHERE endpoint = ? AND endpoint <> '' AND id <> ? AND due_at IS NOT NULL;

-- name: retire_deliveries
DELETE FROM deliveries WHERE seq IN (
    SELECT seq FROM deliveries WHERE ended_at IS NOT NULL AND ended_at <= ? LIMIT ?
);

-- name: forget_answers
-- What receivers answered may quote what was removed.
UPDATE deliveries SET answers = NULL, data = NULL WHERE task_id = ?;

-- name: forget_deliveries
DELETE FROM deliveries WHERE task_id = ?;

-- name: waiting_deliveries
SELECT count(*), min(at) FROM deliveries WHERE due_at IS NOT NULL;

-- name: put_outline
INSERT INTO comparison_outlines
    (id, key_id, is_shared, name, created_at, closed_at, models, lines, votes)
SELECT :id, :key_id, :is_shared, :name, :created_at, :closed_at, :models, :lines, 0
WHERE (SELECT count(*) FROM comparison_outlines WHERE key_id = :key_id) < :most;

-- name: put_comparison
INSERT INTO comparisons (id, body) VALUES (?, ?);

-- name: count_comparisons
SELECT count(*) FROM comparison_outlines WHERE key_id = ?;

-- name: comparison
SELECT closed_at, body FROM comparisons JOIN comparison_outlines USING (id) WHERE id = ?;

-- name: outlines
SELECT id, name, created_at, key_id, is_shared, models, lines, votes, closed_at
FROM comparison_outlines
WHERE id < :before AND (is_shared OR key_id = :key_id OR :key_id IS NULL)
ORDER BY id DESC LIMIT :limit;

-- name: closed_comparisons
SELECT id, closed_at FROM comparison_outlines WHERE closed_at IS NOT NULL ORDER BY closed_at, id;

-- name: close_comparison
UPDATE comparison_outlines SET closed_at = ? WHERE id = ? AND closed_at IS NULL;

-- name: drop_outline
DELETE FROM comparison_outlines WHERE id = ?;

-- name: drop_comparison
DELETE FROM comparisons WHERE id = ?;

-- name: drop_votes
DELETE FROM votes WHERE comparison_id = ?;

-- name: open_comparison
SELECT id FROM comparison_outlines WHERE id = ? AND closed_at IS NULL;

-- name: change_vote
UPDATE votes SET winner = :winner, at = :at
WHERE comparison_id = :comparison_id AND line = :line AND key_id = :key_id AND voter = :voter;

-- name: count_vote
UPDATE comparison_outlines SET votes = votes + 1 WHERE id = ? AND votes < ?;

-- name: put_vote
INSERT INTO votes (comparison_id, line, key_id, voter, winner, at)
VALUES (:comparison_id, :line, :key_id, :voter, :winner, :at);

-- name: votes
SELECT comparison_id, line, key_id, voter, winner, at FROM votes WHERE comparison_id = ?
ORDER BY at, line, key_id, voter;

-- name: put_share_link
INSERT INTO share_links (task_id, key_id, token, created_at, has_prompt, expires_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET has_prompt = excluded.has_prompt, expires_at = excluded.expires_at;

-- name: drop_share_link
DELETE FROM share_links WHERE task_id = ?;

-- name: share_link
SELECT task_id, key_id, token, created_at, has_prompt, expires_at FROM share_links WHERE token = ?;

-- name: share_link_of
SELECT task_id, key_id, token, created_at, has_prompt, expires_at FROM share_links WHERE task_id = ?;

-- name: share_links
SELECT task_id, key_id, token, created_at, has_prompt, expires_at FROM share_links
WHERE task_id < :before ORDER BY task_id DESC LIMIT :limit;

-- name: share_links_of_key
SELECT task_id, key_id, token, created_at, has_prompt, expires_at FROM share_links
WHERE key_id = :key_id AND task_id < :before ORDER BY task_id DESC LIMIT :limit;

-- name: favour
INSERT OR IGNORE INTO favourites (key_id, user, task_id, artifact) VALUES (?, ?, ?, ?);

-- name: disfavour
DELETE FROM favourites WHERE key_id = ? AND user = ? AND task_id = ? AND artifact = ?;

-- name: favourites
SELECT task_id, artifact FROM favourites
WHERE key_id = ? AND user = ? AND task_id IN (SELECT value FROM json_each(?))
ORDER BY task_id, artifact;

-- name: forget_favourites
DELETE FROM favourites WHERE task_id = ?;

-- name: check_words_mark
-- Numbers of tasks that are gone are given again after a start.
UPDATE words_mark SET seq = min(seq, (SELECT coalesce(max(seq), 0) FROM tasks));

-- name: without_words
SELECT seq, key_id, input FROM tasks WHERE seq > (SELECT seq FROM words_mark)
ORDER BY seq LIMIT ?;

-- name: put_words
INSERT INTO task_words (rowid, words) VALUES (?, ?);

-- name: move_words_mark
UPDATE words_mark SET seq = ?;

-- name: forget_words
DELETE FROM task_words WHERE rowid = (SELECT seq FROM tasks WHERE id = ?);
