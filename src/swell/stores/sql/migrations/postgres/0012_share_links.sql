-- compatible_from: 1
-- Links to what came of tasks, which need no key; a task has at most one.
CREATE TABLE share_links (
    task_id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    token text COLLATE "C" NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    has_prompt boolean NOT NULL,
    expires_at timestamptz
);

CREATE INDEX share_links_key ON share_links (key_id, task_id);
