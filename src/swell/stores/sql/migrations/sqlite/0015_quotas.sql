-- What keys and their users may use, and what they have used, by day and month. `user` is empty for
-- the key itself, `*` for each of its users, and `=` with a name for one.
CREATE TABLE quotas (
    key_id TEXT NOT NULL,
    user TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (key_id, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE quota_uses (
    key_id TEXT NOT NULL,
    user TEXT NOT NULL,
    period TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    micros INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (key_id, user, period)
) STRICT, WITHOUT ROWID;

-- Credits, in millionths of a dollar: what was granted, what of it is spent and what is held.
CREATE TABLE credit_accounts (
    key_id TEXT NOT NULL,
    user TEXT NOT NULL,
    granted INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    held INTEGER NOT NULL,
    PRIMARY KEY (key_id, user)
) STRICT, WITHOUT ROWID;

CREATE TABLE credits (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    key_id TEXT NOT NULL,
    user TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;

-- What is held for tasks that have not ended, by their ids.
CREATE TABLE quota_holds (
    id TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT, WITHOUT ROWID;
