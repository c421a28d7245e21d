-- compatible_from: 1
-- Keys that are rotated and used, what operators did, and allowances that all backends share.
ALTER TABLE api_keys ADD COLUMN old_digest bytea;

ALTER TABLE api_keys ADD COLUMN used_at timestamptz;

CREATE INDEX api_keys_old_digest ON api_keys (old_digest) WHERE old_digest IS NOT NULL;

-- Only ever added to.
CREATE TABLE audit (
    id text COLLATE "C" PRIMARY KEY,
    body text NOT NULL
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is only added to';
END
$$;

CREATE TRIGGER audit_stays BEFORE UPDATE OR DELETE ON audit
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TRIGGER audit_stays_whole BEFORE TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Not worth its disk: after a crash of the server everybody's allowance is whole again.
CREATE UNLOGGED TABLE allowances (
    name text COLLATE "C" PRIMARY KEY,
    spent_until timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- What of each key has not ended.
CREATE INDEX tasks_open ON tasks (key_id) WHERE state IN ('queued', 'running');
