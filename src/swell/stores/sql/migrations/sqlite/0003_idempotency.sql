-- The first task of a request lies under the key as the client sent it, whether it came alone or in
-- a batch, and the further ones of a batch under the key, a line feed and their place. Batches were
-- kept as `key#place` before: those of the last day are found under either name.
INSERT OR IGNORE INTO idempotency (key_id, key, fingerprint, task_id, created_at)
SELECT
    key_id,
    CASE place WHEN 0 THEN name ELSE name || char(10) || place END,
    fingerprint, task_id, created_at
FROM (
    SELECT *,
        substr(key, 1, length(rtrim(key, '0123456789')) - 1) AS name,
        CAST(substr(key, length(rtrim(key, '0123456789')) + 1) AS INTEGER) AS place
    FROM idempotency
    WHERE rtrim(key, '0123456789') LIKE '%_#' AND rtrim(key, '0123456789') <> key
);
