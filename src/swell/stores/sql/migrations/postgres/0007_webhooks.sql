-- compatible_from: 1
-- Where a task's events are sent (JSON), and what is to be delivered, or was.
ALTER TABLE tasks ADD COLUMN webhook text;

CREATE TABLE deliveries (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    task_id text COLLATE "C" NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    event text COLLATE "C" NOT NULL,
    place text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    at timestamptz NOT NULL,
    data text,
    state text COLLATE "C" NOT NULL,
    tries integer NOT NULL,
    due_at timestamptz,
    ended_at timestamptz,
    reason text NOT NULL,
    log text,
    answers text
) WITH (fillfactor = 70);

CREATE INDEX deliveries_due ON deliveries (place, due_at, seq) WHERE due_at IS NOT NULL;

CREATE INDEX deliveries_next ON deliveries (due_at) WHERE due_at IS NOT NULL;

-- Those of one task to one receiver, in order.
CREATE INDEX deliveries_line ON deliveries (task_id, endpoint, seq);

CREATE INDEX deliveries_key ON deliveries (key_id, seq);

CREATE INDEX deliveries_endpoint ON deliveries (endpoint, seq) WHERE endpoint <> '';

CREATE INDEX deliveries_ended ON deliveries (ended_at) WHERE ended_at IS NOT NULL;
