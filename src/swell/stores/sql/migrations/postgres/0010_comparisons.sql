-- compatible_from: 1
-- Models compared (`swell.comparisons.Comparison`, JSON). `closed_at` is when the voting ended.
CREATE TABLE comparisons (
    id text COLLATE "C" PRIMARY KEY,
    closed_at timestamptz,
    body text NOT NULL
);

-- One for each row and person. `winner` is null where all are as good.
CREATE TABLE votes (
    comparison_id text COLLATE "C" NOT NULL,
    line integer NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    voter text COLLATE "C" NOT NULL,
    winner integer,
    at timestamptz NOT NULL,
    PRIMARY KEY (comparison_id, line, key_id, voter)
);
