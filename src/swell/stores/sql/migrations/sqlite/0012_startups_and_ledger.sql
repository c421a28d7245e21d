-- Cold starts, restarts and switches: the last of each family, which is kind, pool and models.
-- `family` is their SHA-256; `worker_id` is set where a cold start's worker has registered.
CREATE TABLE startups (
    id TEXT PRIMARY KEY,
    family TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    begun_at INTEGER NOT NULL,
    is_under_way INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX startups_family ON startups (family, begun_at, id) WHERE is_under_way = 0;

CREATE INDEX startups_age ON startups (begun_at) WHERE is_under_way = 0;

CREATE INDEX startups_worker ON startups (worker_id) WHERE worker_id <> '';

CREATE INDEX startups_under_way ON startups (begun_at) WHERE is_under_way = 1;

-- What machine time went into. Only ever added to; `micros` are millionths of a dollar.
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    pool TEXT NOT NULL,
    models TEXT NOT NULL,
    worker_id TEXT NOT NULL,
    ref TEXT NOT NULL,
    outcome TEXT NOT NULL,
    seconds REAL NOT NULL,
    micros INTEGER
) STRICT;

CREATE INDEX ledger_at ON ledger (at);

CREATE TRIGGER ledger_is_not_changed BEFORE UPDATE ON ledger
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;

CREATE TRIGGER ledger_is_not_deleted BEFORE DELETE ON ledger
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;

-- `INSERT OR REPLACE` takes an entry away without a trigger on DELETE.
CREATE TRIGGER ledger_is_not_replaced BEFORE INSERT ON ledger
WHEN EXISTS (SELECT 1 FROM ledger WHERE number = NEW.number)
BEGIN SELECT raise(ABORT, 'the ledger is append-only'); END;
