-- compatible_from: 1
-- Whose time an entry is of, for whom, and how many attempts and pictures it stands for.
ALTER TABLE ledger
    ADD COLUMN account text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN key_id text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN user_name text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN attempts integer NOT NULL DEFAULT 0,
    ADD COLUMN images integer NOT NULL DEFAULT 0;

-- What was charged to each machine's account so far.
CREATE TABLE accounts (
    id text COLLATE "C" PRIMARY KEY,
    seconds double precision NOT NULL,
    micros bigint NOT NULL
) WITH (fillfactor = 70);

-- The ledger by day (UTC) and what entries have in common, so that reports need not read each
-- entry. `model` is empty where no attempt was made.
CREATE TABLE costs (
    day date NOT NULL,
    kind text COLLATE "C" NOT NULL,
    pool text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    user_name text COLLATE "C" NOT NULL,
    is_priced boolean NOT NULL,
    attempts bigint NOT NULL,
    images bigint NOT NULL,
    seconds double precision NOT NULL,
    micros bigint NOT NULL,
    PRIMARY KEY (day, kind, pool, model, key_id, user_name, is_priced)
) WITH (fillfactor = 70);

INSERT INTO accounts SELECT ref, sum(seconds), coalesce(sum(micros), 0)
FROM ledger WHERE kind = 'cold_start' AND ref <> '' GROUP BY ref;

INSERT INTO costs
SELECT
    (at AT TIME ZONE 'UTC')::date, kind, pool, '', '', '', micros IS NOT NULL, 0, 0, sum(seconds),
    coalesce(sum(micros), 0)
FROM ledger GROUP BY 1, 2, 3, 7;

-- Rows are locked in one order, so that backends which charge at the same time wait for each other.
CREATE FUNCTION add_up_ledger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO costs
    SELECT
        (at AT TIME ZONE 'UTC')::date, kind, pool,
        CASE WHEN kind IN ('attempt', 'failed') THEN models ELSE '' END,
        key_id, user_name, micros IS NOT NULL, sum(attempts), sum(images), sum(seconds),
        coalesce(sum(micros), 0)
    FROM added GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (day, kind, pool, model, key_id, user_name, is_priced) DO UPDATE SET
        attempts = costs.attempts + excluded.attempts,
        images = costs.images + excluded.images,
        seconds = costs.seconds + excluded.seconds,
        micros = costs.micros + excluded.micros;
    INSERT INTO accounts
    SELECT account, sum(seconds), coalesce(sum(micros), 0) FROM added GROUP BY 1 ORDER BY 1
    ON CONFLICT (id) DO UPDATE SET
        seconds = accounts.seconds + excluded.seconds, micros = accounts.micros + excluded.micros;
    RETURN NULL;
END
$$;

CREATE TRIGGER ledger_is_added_up AFTER INSERT ON ledger REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION add_up_ledger();
