-- Links to what came of tasks, which need no key; a task has at most one.
CREATE TABLE share_links (
    task_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    token TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    has_prompt INTEGER NOT NULL,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX share_links_key ON share_links (key_id, task_id);
