-- Statements for both databases, with the parameters and macros of `swell.db.sql`.

-- name: newest_models
SELECT body FROM models AS m WHERE name IN ({each names})
    AND NOT EXISTS (SELECT 1 FROM models AS n WHERE n.name = m.name AND n.seq > m.seq);

-- name: put_model
-- Registering a known version again makes it the newest, and changes nothing else.
INSERT INTO models (seq, name, version, body)
VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM models), :name, :version, :body)
ON CONFLICT (name, version) DO UPDATE SET seq = excluded.seq RETURNING body;

-- name: price_model
UPDATE models SET body = :body WHERE name = :name AND version = :version;

-- name: models
SELECT body FROM models ORDER BY name, seq DESC;

-- name: put_worker
INSERT INTO workers (id, seen_at, gone_at, body) VALUES (:id, :seen_at, :gone_at, :body)
ON CONFLICT (id) DO UPDATE
SET seen_at = excluded.seen_at, gone_at = excluded.gone_at, body = excluded.body;

-- name: touch_workers
UPDATE workers SET seen_at = :seen_at WHERE gone_at IS NULL AND id IN (
    SELECT id FROM workers WHERE id IN ({each ids}) ORDER BY id {lock FOR UPDATE}
);

-- name: worker_for_update
SELECT body, seen_at, gone_at FROM workers WHERE id = :id {lock FOR UPDATE};

-- name: workers
SELECT body, seen_at, gone_at FROM workers;

-- name: forget_workers
DELETE FROM workers WHERE gone_at <= :before;

-- name: worker_gone
UPDATE workers SET gone_at = :gone_at WHERE id = :id AND gone_at IS NULL;

-- name: key_for_update
SELECT body, used_at FROM api_keys WHERE id = :id {lock FOR UPDATE};

-- name: put_key
INSERT INTO api_keys (id, digest, created_at, body, old_digest)
VALUES (:id, :digest, :created_at, :body, :old_digest)
ON CONFLICT (id) DO UPDATE SET digest = excluded.digest, body = excluded.body,
    old_digest = excluded.old_digest;

-- name: keys
SELECT body, used_at FROM api_keys ORDER BY created_at, id;

-- name: key
SELECT body, used_at FROM api_keys WHERE id = :id;

-- name: key_by_digest
-- By its secret, or else by the one before its last rotation.
SELECT body, used_at FROM api_keys WHERE digest = :digest OR old_digest = :digest
ORDER BY (digest = :digest) DESC LIMIT 1;

-- name: touch_keys
UPDATE api_keys SET used_at = u.used_at FROM ({rows id text, used_at time}) AS u
WHERE api_keys.id = u.id AND (api_keys.used_at IS NULL OR api_keys.used_at < u.used_at);

-- name: put_audit
INSERT INTO audit (id, body) {rows id text, body text};

-- name: audit
SELECT body FROM audit WHERE id < :before ORDER BY id DESC LIMIT :limit;

-- name: add_startup
INSERT INTO startups (id, family, worker_id, begun_at, is_under_way, body)
VALUES (:id, :family, :worker_id, :begun_at, :is_under_way, :body)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: startup_for_update
SELECT body FROM startups WHERE id = :id {lock FOR UPDATE};

-- name: replace_startup
UPDATE startups SET family = :family, worker_id = :worker_id, begun_at = :begun_at,
    is_under_way = :is_under_way, body = :body
WHERE id = :id;

-- name: forget_startups
-- The newest of a family stay. A row that another transaction holds is forgotten the next time.
DELETE FROM startups WHERE id IN (
    SELECT id FROM startups WHERE NOT is_under_way AND (begun_at <= :before OR id IN (
        SELECT id FROM startups WHERE family = :family AND NOT is_under_way
        ORDER BY begun_at DESC, id DESC LIMIT 1000000 OFFSET :kept
    ))
    {lock FOR UPDATE SKIP LOCKED}
);

-- name: startups
SELECT body FROM startups ORDER BY begun_at, id;

-- name: startups_under_way
SELECT body FROM startups WHERE is_under_way ORDER BY begun_at, id;

-- name: startups_of
SELECT body FROM startups WHERE worker_id IN ({each ids}) AND worker_id <> ''
ORDER BY begun_at, id;

-- name: charge
INSERT INTO ledger (
    id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name, attempts, images
)
SELECT
    id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name, attempts, images
FROM ({rows id text, at time, kind text, pool text, models text, worker_id text, ref text,
    outcome text, seconds real, micros int, account text, key_id text, user_name text,
    attempts int, images int}) AS e WHERE true
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: ledger
SELECT
    number, id, at, kind, pool, models, worker_id, ref, outcome, seconds, micros, account, key_id,
    user_name AS "user", attempts, images
FROM ledger WHERE number < :before ORDER BY number DESC LIMIT :limit;

-- name: charged
SELECT id, seconds, micros FROM accounts WHERE id IN ({each accounts});

-- name: costs
SELECT
    day, kind, pool, model, key_id, CAST(sum(attempts) AS bigint) AS attempts,
    CAST(sum(images) AS bigint) AS images, sum(seconds) AS seconds,
    CASE WHEN is_priced THEN CAST(sum(micros) AS bigint) END AS micros
FROM costs WHERE day BETWEEN :since AND :until
GROUP BY day, kind, pool, model, key_id, is_priced ORDER BY day;

-- name: costs_of_users
SELECT
    day, kind, pool, model, key_id, user_name AS "user", attempts, images, seconds,
    CASE WHEN is_priced THEN micros END AS micros
FROM costs WHERE day BETWEEN :since AND :until ORDER BY day;

-- name: spent
SELECT CAST(coalesce(sum(micros), 0) AS bigint) AS micros FROM costs
WHERE day BETWEEN :since AND :until;

-- name: spend
-- Microseconds since 1970 UTC up to which an allowance is used up.
INSERT INTO allowances (name, spent_until_us)
SELECT name, :now_us + cost_us FROM ({rows name text, cost_us int}) AS s WHERE true ORDER BY name
ON CONFLICT (name) DO UPDATE SET spent_until_us = excluded.spent_until_us + CASE
    WHEN allowances.spent_until_us > :now_us THEN allowances.spent_until_us - :now_us ELSE 0 END
RETURNING name, spent_until_us;

-- name: add_secret
INSERT INTO secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: secret
SELECT value FROM secrets WHERE name = :name;

-- name: put_note
INSERT INTO notes (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO UPDATE SET value = excluded.value;

-- name: add_note
INSERT INTO notes (name, value) VALUES (:name, :value)
ON CONFLICT (name) DO NOTHING RETURNING name;

-- name: swap_note
UPDATE notes SET value = :value WHERE name = :name AND value = :before RETURNING name;

-- name: note
SELECT value FROM notes WHERE name = :name;

-- name: notes
SELECT name, value FROM notes
WHERE substr(name, 1, length(CAST(:prefix AS text))) = :prefix ORDER BY name;

-- name: drop_notes
DELETE FROM notes WHERE name IN ({each names});

-- name: take_leader_lease
-- Changes nothing while another process holds it. An end more than two leases away was written
-- before a clock was set back, and does not count.
INSERT INTO duties (name, holder, held_until) VALUES (:name, :holder, :until)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
WHERE duties.holder = excluded.holder OR duties.held_until <= :now OR duties.held_until > :latest
RETURNING name;

-- name: release_leader_lease
DELETE FROM duties WHERE name = :name AND holder = :holder;

-- name: put_quota
INSERT INTO quotas (key_id, user_name, body) VALUES (:key_id, :user_name, :body)
ON CONFLICT (key_id, user_name) DO UPDATE SET body = excluded.body;

-- name: drop_quota
DELETE FROM quotas WHERE key_id = :key_id AND user_name = :user_name RETURNING key_id;

-- name: quotas
SELECT body FROM quotas ORDER BY key_id, user_name;

-- name: quota_keys
SELECT DISTINCT key_id FROM quotas;

-- name: quotas_at
SELECT key_id, user_name, body FROM quotas
WHERE (key_id, user_name) IN ({rows key_id text, user_name text});

-- name: credit_accounts_at
SELECT key_id, user_name, granted, spent, held FROM credit_accounts
WHERE (key_id, user_name) IN ({rows key_id text, user_name text});

-- name: put_credit_accounts
INSERT INTO credit_accounts (key_id, user_name, granted, spent, held)
SELECT key_id, user_name, granted, spent, held
FROM ({rows key_id text, user_name text, granted int, spent int, held int}) AS a WHERE true
ON CONFLICT (key_id, user_name) DO UPDATE SET
    granted = excluded.granted, spent = excluded.spent, held = excluded.held;

-- name: add_credit
INSERT INTO credit_accounts (key_id, user_name, granted, spent, held)
VALUES (:key_id, :user_name, :micros, 0, 0)
ON CONFLICT (key_id, user_name) DO UPDATE SET
    granted = credit_accounts.granted + excluded.granted;

-- name: credit_places
SELECT key_id, user_name FROM credit_accounts ORDER BY key_id, user_name;

-- name: put_credit
INSERT INTO credits (id, key_id, user_name, body) VALUES (:id, :key_id, :user_name, :body)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: credits
SELECT body FROM credits WHERE true {if key_id: AND key_id = :key_id}
ORDER BY number DESC LIMIT :limit;

-- name: quota_uses_at
SELECT key_id, user_name, period, tasks, samples, micros, held FROM quota_uses
WHERE (key_id, user_name, period) IN ({rows key_id text, user_name text, period text});

-- name: put_quota_uses
INSERT INTO quota_uses (key_id, user_name, period, tasks, samples, micros, held)
SELECT key_id, user_name, period, tasks, samples, micros, held
FROM ({rows key_id text, user_name text, period text, tasks int, samples int, micros int,
    held int}) AS u WHERE true
ON CONFLICT (key_id, user_name, period) DO UPDATE SET
    tasks = excluded.tasks, samples = excluded.samples, micros = excluded.micros,
    held = excluded.held;

-- name: forget_quota_uses
-- Of days; months stay.
DELETE FROM quota_uses WHERE length(period) = 10 AND period < :before;

-- name: put_holds
INSERT INTO quota_holds (id, at, body) {rows id text, at time, body text};

-- name: holds_by_id
SELECT body FROM quota_holds WHERE id IN ({each ids});

-- name: drop_holds
DELETE FROM quota_holds WHERE id IN ({each ids}) RETURNING body;

-- name: holds
SELECT body FROM quota_holds WHERE id > :after AND at < :before ORDER BY id LIMIT :limit;

-- name: put_comparison
INSERT INTO comparisons
    (id, key_id, is_shared, name, created_at, closed_at, models, lines, votes, body)
VALUES (:id, :key_id, :is_shared, :name, :created_at, :closed_at, :models, :lines, 0, :body);

-- name: count_comparisons
SELECT count(*) AS n FROM comparisons WHERE key_id = :key_id;

-- name: comparison
SELECT closed_at, body FROM comparisons WHERE id = :id;

-- name: outlines
SELECT
    id, name, created_at, key_id, is_shared, models AS "columns", lines AS "rows", votes, closed_at
FROM comparisons WHERE id < :before {if key_id: AND (is_shared OR key_id = :key_id)}
ORDER BY id DESC LIMIT :limit;

-- name: closed_comparisons
SELECT id, closed_at FROM comparisons WHERE closed_at IS NOT NULL ORDER BY closed_at, id;

-- name: close_comparison
UPDATE comparisons SET closed_at = :at WHERE id = :id AND closed_at IS NULL;

-- name: drop_comparison
DELETE FROM comparisons WHERE id = :id RETURNING id;

-- name: drop_votes
DELETE FROM votes WHERE comparison_id = :id;

-- name: open_comparison
-- Held until the vote is written and counted, so that none comes after the names were told.
SELECT votes FROM comparisons WHERE id = :id AND closed_at IS NULL {lock FOR UPDATE};

-- name: change_vote
UPDATE votes SET winner = :winner, at = :at
WHERE comparison_id = :comparison_id AND line = :row AND key_id = :key_id AND voter = :voter
RETURNING line;

-- name: put_vote
INSERT INTO votes (comparison_id, line, key_id, voter, winner, at)
VALUES (:comparison_id, :row, :key_id, :voter, :winner, :at);

-- name: count_vote
UPDATE comparisons SET votes = votes + 1 WHERE id = :id;

-- name: votes
SELECT comparison_id, line AS "row", key_id, voter, winner, at FROM votes
WHERE comparison_id = :id ORDER BY at, line, key_id, voter;

-- name: post_deliveries
INSERT INTO deliveries (
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, reason
)
SELECT id, task_id, endpoint, key_id, event, place, attempt, at, data, 'waiting', 0, at, ''
FROM ({rows id text, task_id text, endpoint text, key_id text, event text, place text,
    attempt int, at time, data text}) AS n;

-- name: overtake
-- Deliveries that wait for a retry while there is a newer event for the receiver.
UPDATE deliveries SET state = 'skipped', due_at = NULL, ended_at = :now, reason = :reason
WHERE seq IN (
    SELECT d.seq FROM ({rows task_id text, endpoint text}) AS n
    JOIN deliveries AS d ON d.task_id = n.task_id AND d.endpoint = n.endpoint
    WHERE d.due_at IS NOT NULL AND d.tries > 0
        AND d.event NOT IN ('succeeded', 'failed', 'canceled', 'expired')
    ORDER BY d.seq {lock FOR UPDATE OF d}
);

-- name: drop_passing
-- Progress and previews that were never sent.
DELETE FROM deliveries WHERE seq IN (
    SELECT d.seq FROM ({rows task_id text, endpoint text}) AS n
    JOIN deliveries AS d ON d.task_id = n.task_id AND d.endpoint = n.endpoint
    WHERE d.due_at IS NOT NULL AND d.tries = 0 AND d.event IN ('progress', 'preview', 'artifact')
    ORDER BY d.seq {lock FOR UPDATE OF d}
);

-- name: replace_passing
DELETE FROM deliveries WHERE seq IN (
    SELECT d.seq FROM ({rows task_id text, endpoint text, event text}) AS n
    JOIN deliveries AS d
        ON d.task_id = n.task_id AND d.endpoint = n.endpoint AND d.event = n.event
    WHERE d.due_at IS NOT NULL AND d.tries = 0 ORDER BY d.seq {lock FOR UPDATE OF d}
);

-- name: deliveries
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries WHERE id IN ({each ids});

-- name: deliveries_to_tell
SELECT
    d.id, d.task_id, d.endpoint, d.key_id, d.event, d.place, d.attempt, d.at, d.data, d.state,
    d.tries, d.due_at, d.ended_at, d.reason, d.log, d.answers,
    EXISTS (
        SELECT 1 FROM deliveries AS l WHERE l.task_id = d.task_id AND l.endpoint = d.endpoint
            AND l.seq > d.seq AND l.due_at IS NOT NULL
    ) AS has_later
FROM deliveries AS d WHERE d.id IN ({each ids}) ORDER BY d.seq {lock FOR UPDATE OF d};

-- name: removed_parts
SELECT id, removed & 1 <> 0 AS has_no_inputs, removed & 2 <> 0 AS has_no_outputs FROM tasks
WHERE id IN ({each ids});

-- name: save_deliveries
UPDATE deliveries SET
    state = n.state, tries = n.tries, due_at = n.due_at, ended_at = n.ended_at, reason = n.reason,
    log = n.log, answers = n.answers
FROM ({rows id text, state text, tries int, due_at time, ended_at time, reason text, log text,
    answers text}) AS n
WHERE deliveries.id = n.id;

-- name: delivery_place
SELECT seq FROM deliveries WHERE id = :id;

-- name: page_deliveries
-- `also_key_id` keeps planners from the index of keys, which is longer than that of a task.
SELECT
    id, task_id, endpoint, key_id, event, place, attempt, at, data, state, tries, due_at, ended_at,
    reason, log, answers
FROM deliveries
WHERE seq < :before {if task_id: AND task_id = :task_id}
    {if endpoint: AND endpoint = :endpoint AND endpoint <> ''}
    {if key_id: AND key_id = :key_id} {if also_key_id: AND key_id || '' = :also_key_id}
    {if state: AND state = :state}
ORDER BY seq DESC LIMIT :limit;

-- name: replay_deliveries
UPDATE deliveries SET state = 'waiting', tries = 0, due_at = :now, ended_at = NULL, reason = ''
WHERE seq IN (
    SELECT seq FROM deliveries WHERE due_at IS NULL {if ids: AND id IN ({each ids})}
        {if endpoint: AND endpoint = :endpoint AND endpoint <> '' AND state = 'failed'}
        {if since: AND at >= :since}
    ORDER BY seq {lock FOR UPDATE}
)
RETURNING id;

-- name: give_up_deliveries
UPDATE deliveries SET state = 'failed', due_at = NULL, ended_at = :now, reason = :reason
WHERE seq IN (
    SELECT seq FROM deliveries
    WHERE endpoint = :endpoint AND endpoint <> '' AND id <> :but AND due_at IS NOT NULL
    ORDER BY seq {lock FOR UPDATE}
)
RETURNING id;

-- name: retire_deliveries
DELETE FROM deliveries WHERE seq IN (
    SELECT seq FROM deliveries WHERE ended_at IS NOT NULL AND ended_at <= :before LIMIT :limit
    {lock FOR UPDATE SKIP LOCKED}
)
RETURNING id;

-- name: waiting_deliveries
SELECT count(*) AS waiting, min(at) AS oldest_at FROM deliveries WHERE due_at IS NOT NULL;

-- name: forget_answers
-- Answers of receivers may quote data that was removed.
UPDATE deliveries SET answers = NULL, data = NULL WHERE seq IN (
    SELECT seq FROM deliveries WHERE task_id IN ({each ids}) ORDER BY seq {lock FOR UPDATE}
);

-- name: forget_deliveries
DELETE FROM deliveries WHERE seq IN (
    SELECT seq FROM deliveries WHERE task_id IN ({each ids}) ORDER BY seq {lock FOR UPDATE}
);

-- name: task_with_outputs
-- A transaction that removes the outputs waits, and then removes the link or like too.
SELECT id FROM tasks WHERE id = :task_id AND removed & 2 = 0 {lock FOR SHARE};

-- name: put_share_link
INSERT INTO share_links (task_id, key_id, token, created_at, has_prompt, expires_at)
VALUES (:task_id, :key_id, :token, :created_at, :has_prompt, :expires_at)
ON CONFLICT (task_id)
DO UPDATE SET has_prompt = excluded.has_prompt, expires_at = excluded.expires_at
RETURNING task_id, key_id, token, created_at, has_prompt, expires_at;

-- name: drop_share_links
DELETE FROM share_links WHERE task_id IN ({each ids})
RETURNING task_id, key_id, token, created_at, has_prompt, expires_at;

-- name: share_links
SELECT task_id, key_id, token, created_at, has_prompt, expires_at FROM share_links
WHERE true {if token: AND token = :token} {if task_id: AND task_id = :task_id}
    {if key_id: AND key_id = :key_id} {if before: AND task_id < :before}
ORDER BY task_id DESC LIMIT :limit;

-- name: like
INSERT INTO favourites (key_id, user_name, task_id, artifact)
VALUES (:key_id, :user, :task_id, :artifact) ON CONFLICT DO NOTHING;

-- name: unlike
DELETE FROM favourites
WHERE key_id = :key_id AND user_name = :user AND task_id = :task_id AND artifact = :artifact;

-- name: likes
SELECT task_id, artifact FROM favourites
WHERE key_id = :key_id AND user_name = :user AND task_id IN ({each ids})
ORDER BY task_id, artifact;

-- name: forget_likes
DELETE FROM favourites WHERE task_id IN ({each ids});

-- name: page_ids
-- Rare filters read more than they return; the two that people page through have an index.
SELECT t.id FROM tasks AS t WHERE t.id < :before AND t.id > :after
    {if state: AND t.state = :state} {if model: AND t.model = :model}
    {if user: AND t.user_id = :user} {if key_id: AND t.key_id = :key_id}
    {if is_dead: AND t.dead} {if is_not_dead: AND NOT t.dead}
    {if liked_by_key: AND t.id IN (
        SELECT f.task_id FROM favourites AS f
        WHERE f.key_id = :liked_by_key AND f.user_name = :liked_by_user
            AND f.task_id < :before AND f.task_id > :after
    )}
ORDER BY t.id DESC LIMIT :limit;

-- name: tasks_by_id
SELECT {task} FROM tasks AS t WHERE t.id IN ({each ids});

-- name: tasks_locked
-- Always in the order of ids, so that two transactions never wait for each other.
SELECT {task} FROM tasks AS t WHERE t.id IN ({each ids}) ORDER BY t.id {lock FOR UPDATE};

-- name: due_tasks
-- Another backend that sweeps at the same time takes others.
SELECT {task} FROM tasks AS t WHERE t.wake_at <= :now ORDER BY t.wake_at LIMIT :limit
{lock FOR UPDATE SKIP LOCKED};

-- name: next_wake
SELECT min(wake_at) AS wake_at FROM tasks WHERE wake_at IS NOT NULL;

-- name: overlong_waits
-- After a clock was set back: leases and backoffs that end later than any that begins now.
SELECT id FROM tasks
WHERE wake_at > :least AND (lease_expires_at > :lease OR available_at > :backoff) LIMIT :limit;

-- name: ready_lines
-- In the order of the oldest task.
SELECT queue, priority, key_id, count(*) AS n, CAST(sum(count) AS bigint) AS samples FROM tasks
WHERE state = 'queued' AND available_at IS NULL
GROUP BY queue, key_id, priority ORDER BY min(id);

-- name: ready_depths
SELECT queue, count(*) AS ready, CAST(sum(count) AS bigint) AS ready_samples, min(id) AS oldest
FROM tasks WHERE state = 'queued' AND available_at IS NULL GROUP BY queue;

-- name: woken_depths
-- Every running or delayed task has a time to wake.
SELECT
    queue, count(*) FILTER (WHERE state = 'queued' AND available_at IS NOT NULL) AS delayed,
    count(*) FILTER (WHERE state = 'running') AS running
FROM tasks WHERE wake_at IS NOT NULL GROUP BY queue;

-- name: oldest_ready
SELECT id, key_id, user_id AS "user", priority FROM tasks
WHERE queue = :queue AND state = 'queued' AND available_at IS NULL ORDER BY id LIMIT :limit;

-- name: repeat_of
SELECT again_id FROM repeats WHERE task_id = :task_id;

-- name: keep_repeat
INSERT INTO repeats (task_id, again_id) VALUES (:task_id, :again_id)
ON CONFLICT (task_id) DO UPDATE SET again_id = excluded.again_id;

-- name: idempotent
SELECT key_id, key, task_id, fingerprint, created_at FROM idempotency
WHERE (key_id, key) IN ({rows key_id text, key text});

-- name: keep_idempotent
INSERT INTO idempotency (key_id, key, task_id, fingerprint, created_at)
SELECT key_id, key, task_id, fingerprint, :now
FROM ({rows key_id text, key text, task_id text, fingerprint text}) AS k WHERE true
ON CONFLICT (key_id, key) DO UPDATE SET task_id = excluded.task_id,
    fingerprint = excluded.fingerprint, created_at = excluded.created_at;

-- name: forget_idempotent
DELETE FROM idempotency WHERE created_at <= :before;

-- name: use_files
INSERT INTO file_uses (key, task_id) SELECT key, task_id
FROM ({rows key text, task_id text}) AS u WHERE true ON CONFLICT DO NOTHING;

-- name: files_of
SELECT key FROM file_uses WHERE task_id IN ({each ids});

-- name: used_files
SELECT DISTINCT key FROM file_uses WHERE key IN ({each keys});

-- name: forget_uses
DELETE FROM file_uses WHERE task_id IN ({each ids});

-- name: keep_uploads
INSERT INTO uploads (key, created_at) SELECT value, :at FROM ({each keys}) AS k WHERE true
ON CONFLICT DO NOTHING;

-- name: unused_uploads
SELECT key FROM uploads AS u WHERE created_at <= :before
    AND NOT EXISTS (SELECT 1 FROM file_uses WHERE file_uses.key = u.key)
ORDER BY created_at LIMIT :limit;

-- name: forget_unused_uploads
DELETE FROM uploads WHERE key IN ({each keys})
    AND NOT EXISTS (SELECT 1 FROM file_uses WHERE file_uses.key = uploads.key)
RETURNING key;

-- name: discard
INSERT INTO discarded (key) SELECT value FROM ({each keys}) AS k WHERE true
ON CONFLICT DO NOTHING;

-- name: discarded
SELECT key FROM discarded ORDER BY seq LIMIT :limit;

-- name: forget_discarded
DELETE FROM discarded WHERE key IN ({each keys});

-- name: ended_ids
-- Ended tasks that still have a part; `removed` adds up the parts that they do not have.
SELECT id FROM tasks
WHERE finished_at <= :before {if inputs: AND removed IN (0, 2)} {if outputs: AND removed IN (0, 1)}
    {if task: AND removed IN (0, 1, 2, 3)}
    {if models: AND model IN ({each models})} AND model NOT IN ({each except_models})
LIMIT :limit;

-- name: remove_parts
UPDATE tasks SET
    removed = r.removed, input = r.input, metadata = r.metadata, output = r.output,
    artifacts = r.artifacts, warnings = r.warnings, error = r.error, run = r.run
FROM ({rows id text, removed int, input text, metadata text, output text, artifacts text,
    warnings text, error text, run text}) AS r
WHERE tasks.id = r.id;

-- name: delete_tasks
DELETE FROM tasks WHERE id IN ({each ids});

-- name: forget_repeats
DELETE FROM repeats WHERE task_id IN ({each ids});
