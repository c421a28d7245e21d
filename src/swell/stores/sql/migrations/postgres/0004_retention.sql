-- compatible_from: 1
-- What was removed of ended tasks (1: what was asked, 2: what came of it), files that no task owns,
-- and which tasks use which files. Whoever notes a use, or discards what nobody uses, holds the
-- advisory lock of the file's key: uses together, discarding alone.
ALTER TABLE tasks ADD COLUMN removed smallint NOT NULL DEFAULT 0;

CREATE INDEX tasks_ended ON tasks (removed, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE uploads (
    key text COLLATE "C" PRIMARY KEY,
    created_at timestamptz NOT NULL
);

CREATE INDEX uploads_age ON uploads (created_at);

CREATE TABLE file_uses (
    key text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, task_id)
);

CREATE INDEX file_uses_task ON file_uses (task_id);
