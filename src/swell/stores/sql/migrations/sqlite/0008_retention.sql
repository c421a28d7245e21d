-- What was removed of ended tasks (1: what was asked, 2: what came of it), files that no task owns,
-- and which tasks use which files.
ALTER TABLE tasks ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;

CREATE INDEX tasks_ended ON tasks (removed, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE uploads (
    key TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX uploads_age ON uploads (created_at);

CREATE TABLE file_uses (
    key TEXT NOT NULL,
    task_id TEXT NOT NULL,
    PRIMARY KEY (key, task_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX file_uses_task ON file_uses (task_id);
