-- compatible_from: 1
-- What the registry keeps. `body` is the JSON of the value.
CREATE SEQUENCE models_seq;

CREATE TABLE models (
    seq bigint NOT NULL DEFAULT nextval('models_seq'),
    name text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (name, version)
);

CREATE TABLE workers (
    id text COLLATE "C" PRIMARY KEY,
    seen_at timestamptz NOT NULL,
    gone_at timestamptz,
    body text NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

CREATE TABLE api_keys (
    id text COLLATE "C" PRIMARY KEY,
    digest bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL,
    body text NOT NULL
);

CREATE TABLE secrets (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- What a backend has learnt and would rather know at its next start.
CREATE TABLE notes (
    name text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
);

-- What one process does for all, and until when it has the duty if it does not ask again.
CREATE TABLE duties (
    name text COLLATE "C" PRIMARY KEY,
    holder text NOT NULL,
    held_until timestamptz NOT NULL
) WITH (fillfactor = 50);
