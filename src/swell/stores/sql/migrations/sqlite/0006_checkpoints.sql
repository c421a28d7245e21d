-- Where lies what an attempt that was handed back had drawn, and which objects no task needs any more.
ALTER TABLE tasks ADD COLUMN checkpoint TEXT;

CREATE TABLE discarded (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE
) STRICT;
