-- What lists tell of comparisons, apart, so that they read no body.
CREATE TABLE comparison_outlines (
    id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    is_shared INTEGER NOT NULL,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    closed_at INTEGER,
    models INTEGER NOT NULL,
    lines INTEGER NOT NULL,
    votes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX comparison_outlines_key ON comparison_outlines (key_id);

CREATE INDEX comparison_outlines_closed ON comparison_outlines (closed_at, id)
    WHERE closed_at IS NOT NULL;

-- What follows the whole seconds of a moment in the body, if anything, is microseconds.
INSERT INTO comparison_outlines
SELECT
    id, json_extract(body, '$.key_id'), json_extract(body, '$.is_shared'),
    json_extract(body, '$.name'),
    CAST(strftime('%s', json_extract(body, '$.created_at')) AS INTEGER) * 1000000
    + CAST(substr(json_extract(body, '$.created_at'), 21, 6) AS INTEGER),
    closed_at, json_array_length(body, '$.models'), json_array_length(body, '$.rows'),
    (SELECT count(*) FROM votes WHERE comparison_id = comparisons.id)
FROM comparisons;

ALTER TABLE comparisons DROP COLUMN closed_at;
