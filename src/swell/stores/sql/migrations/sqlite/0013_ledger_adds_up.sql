-- Whose time an entry is of, for whom, and how many attempts and pictures it stands for.
ALTER TABLE ledger ADD COLUMN account TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger ADD COLUMN key_id TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger ADD COLUMN user TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger ADD COLUMN images INTEGER NOT NULL DEFAULT 0;

-- What was charged to each machine's account so far.
CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    seconds REAL NOT NULL,
    micros INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The ledger by day (days since 1970 UTC) and what entries have in common, so that reports need
-- not read each entry. `model` is empty where no attempt was made.
CREATE TABLE costs (
    day INTEGER NOT NULL,
    kind TEXT NOT NULL,
    pool TEXT NOT NULL,
    model TEXT NOT NULL,
    key_id TEXT NOT NULL,
    user TEXT NOT NULL,
    is_priced INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    images INTEGER NOT NULL,
    seconds REAL NOT NULL,
    micros INTEGER NOT NULL,
    PRIMARY KEY (day, kind, pool, model, key_id, user, is_priced)
) STRICT, WITHOUT ROWID;

INSERT INTO accounts SELECT ref, sum(seconds), coalesce(sum(micros), 0)
FROM ledger WHERE kind = 'cold_start' AND ref <> '' GROUP BY ref;

INSERT INTO costs
SELECT
    at / 86400000000, kind, pool, '', '', '', micros IS NOT NULL, 0, 0, sum(seconds),
    coalesce(sum(micros), 0)
FROM ledger GROUP BY at / 86400000000, kind, pool, micros IS NOT NULL;

CREATE TRIGGER ledger_is_added_up AFTER INSERT ON ledger
BEGIN
    INSERT INTO costs VALUES (
        NEW.at / 86400000000, NEW.kind, NEW.pool,
        CASE WHEN NEW.kind IN ('attempt', 'failed') THEN NEW.models ELSE '' END,
        NEW.key_id, NEW.user, NEW.micros IS NOT NULL, NEW.attempts, NEW.images, NEW.seconds,
        coalesce(NEW.micros, 0)
    )
    ON CONFLICT DO UPDATE SET
        attempts = attempts + excluded.attempts,
        images = images + excluded.images,
        seconds = seconds + excluded.seconds,
        micros = micros + excluded.micros;
    INSERT INTO accounts VALUES (NEW.account, NEW.seconds, coalesce(NEW.micros, 0))
    ON CONFLICT DO UPDATE SET
        seconds = seconds + excluded.seconds, micros = micros + excluded.micros;
END;
