-- Models compared (`swell.comparisons.Comparison`, JSON). `closed_at` is when the voting ended.
CREATE TABLE comparisons (
    id TEXT PRIMARY KEY,
    closed_at INTEGER,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One for each row and person. `winner` is null where all are as good.
CREATE TABLE votes (
    comparison_id TEXT NOT NULL,
    line INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    voter TEXT NOT NULL,
    winner INTEGER,
    at INTEGER NOT NULL,
    PRIMARY KEY (comparison_id, line, key_id, voter)
) STRICT, WITHOUT ROWID;
