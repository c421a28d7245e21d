-- compatible_from: 1
-- What keys and their users may use, and what they have used, by day and month. `user_name` is empty
-- for the key itself, `*` for each of its users, and `=` with a name for one.
CREATE TABLE quotas (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (key_id, user_name)
);

CREATE TABLE quota_uses (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    tasks bigint NOT NULL,
    samples bigint NOT NULL,
    micros bigint NOT NULL,
    held bigint NOT NULL,
    PRIMARY KEY (key_id, user_name, period)
) WITH (fillfactor = 70);

-- Credits, in millionths of a dollar: what was granted, what of it is spent and what is held.
CREATE TABLE credit_accounts (
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    granted bigint NOT NULL,
    spent bigint NOT NULL,
    held bigint NOT NULL,
    PRIMARY KEY (key_id, user_name)
) WITH (fillfactor = 70);

CREATE TABLE credits (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    body text NOT NULL
);

-- What is held for tasks that have not ended, by their ids.
CREATE TABLE quota_holds (
    id text COLLATE "C" PRIMARY KEY,
    at timestamptz NOT NULL,
    body text NOT NULL
);
