-- compatible_from: 1
-- Cold starts, restarts and switches: the last of each family, which is kind, pool and models.
-- `family` is their SHA-256; `worker_id` is set where a cold start's worker has registered.
CREATE TABLE startups (
    id text COLLATE "C" PRIMARY KEY,
    family text COLLATE "C" NOT NULL,
    worker_id text COLLATE "C" NOT NULL,
    begun_at timestamptz NOT NULL,
    is_under_way boolean NOT NULL,
    body text NOT NULL
);

CREATE INDEX startups_family ON startups (family, begun_at, id) WHERE NOT is_under_way;

CREATE INDEX startups_age ON startups (begun_at) WHERE NOT is_under_way;

CREATE INDEX startups_worker ON startups (worker_id) WHERE worker_id <> '';

CREATE INDEX startups_under_way ON startups (begun_at) WHERE is_under_way;

-- What machine time went into. Only ever added to; `micros` are millionths of a dollar.
CREATE TABLE ledger (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text COLLATE "C" NOT NULL UNIQUE,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    pool text NOT NULL,
    models text NOT NULL,
    worker_id text NOT NULL,
    ref text NOT NULL,
    outcome text NOT NULL,
    seconds double precision NOT NULL,
    micros bigint
);

CREATE INDEX ledger_at ON ledger (at);

CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is only added to';
END
$$;

CREATE TRIGGER ledger_stays BEFORE UPDATE OR DELETE ON ledger
    FOR EACH ROW EXECUTE FUNCTION refuse_ledger_change();

CREATE TRIGGER ledger_stays_whole BEFORE TRUNCATE ON ledger
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change();
