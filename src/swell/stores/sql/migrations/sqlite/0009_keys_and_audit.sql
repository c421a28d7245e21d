-- Keys rotate, and tell when they were last used; what operators did; allowances that are shared.
ALTER TABLE api_keys ADD COLUMN old_digest BLOB;
ALTER TABLE api_keys ADD COLUMN used_at INTEGER;
CREATE INDEX api_keys_old_digest ON api_keys (old_digest) WHERE old_digest IS NOT NULL;

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What was written down stays as it is.
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit log is append-only'); END;

CREATE TABLE allowances (
    name TEXT PRIMARY KEY,
    spent_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
