-- compatible_from: 1
-- What lists tell of comparisons, apart, so that they read no body.
CREATE TABLE comparison_outlines (
    id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    is_shared boolean NOT NULL,
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    closed_at timestamptz,
    models integer NOT NULL,
    lines integer NOT NULL,
    votes integer NOT NULL
);

CREATE INDEX comparison_outlines_key ON comparison_outlines (key_id);

CREATE INDEX comparison_outlines_closed ON comparison_outlines (closed_at, id)
    WHERE closed_at IS NOT NULL;

-- Kept here, so that backends of the version before keep them too.
CREATE FUNCTION outline_comparisons() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO comparison_outlines VALUES (
            NEW.id, NEW.body::json ->> 'key_id', (NEW.body::json ->> 'is_shared')::boolean,
            NEW.body::json ->> 'name', (NEW.body::json ->> 'created_at')::timestamptz,
            NEW.closed_at, json_array_length(NEW.body::json -> 'models'),
            json_array_length(NEW.body::json -> 'rows'), 0
        );
    ELSIF TG_OP = 'UPDATE' THEN
        UPDATE comparison_outlines SET closed_at = NEW.closed_at WHERE id = NEW.id;
    ELSE
        DELETE FROM comparison_outlines WHERE id = OLD.id;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER comparisons_are_outlined AFTER INSERT OR UPDATE OR DELETE ON comparisons
    FOR EACH ROW EXECUTE FUNCTION outline_comparisons();

CREATE FUNCTION count_votes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE comparison_outlines SET votes = votes + 1 WHERE id = NEW.comparison_id;
    RETURN NULL;
END
$$;

CREATE TRIGGER votes_are_counted AFTER INSERT ON votes
    FOR EACH ROW EXECUTE FUNCTION count_votes();

-- After the triggers, so that nothing comes between.
INSERT INTO comparison_outlines
SELECT
    id, body::json ->> 'key_id', (body::json ->> 'is_shared')::boolean, body::json ->> 'name',
    (body::json ->> 'created_at')::timestamptz, closed_at,
    json_array_length(body::json -> 'models'), json_array_length(body::json -> 'rows'),
    (SELECT count(*) FROM votes WHERE comparison_id = comparisons.id)
FROM comparisons;
