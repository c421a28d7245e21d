-- Where a task's events are sent (JSON), and what is to be delivered, or was.
ALTER TABLE tasks ADD COLUMN webhook TEXT;

CREATE TABLE deliveries (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    task_id TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    key_id TEXT NOT NULL,
    event TEXT NOT NULL,
    place TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at INTEGER NOT NULL,
    data TEXT,
    state TEXT NOT NULL,
    tries INTEGER NOT NULL,
    due_at INTEGER,
    ended_at INTEGER,
    reason TEXT NOT NULL,
    log TEXT,
    answers TEXT
) STRICT;

CREATE INDEX deliveries_due ON deliveries (place, due_at, seq) WHERE due_at IS NOT NULL;

CREATE INDEX deliveries_next ON deliveries (due_at) WHERE due_at IS NOT NULL;

-- Those of one task to one receiver, in order.
CREATE INDEX deliveries_line ON deliveries (task_id, endpoint, seq);

CREATE INDEX deliveries_key ON deliveries (key_id, seq);

CREATE INDEX deliveries_endpoint ON deliveries (endpoint, seq) WHERE endpoint <> '';

CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;
