-- compatible_from: 1
-- What people like best of what was made: a file of a task, by its place.
CREATE TABLE favourites (
    key_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    artifact integer NOT NULL,
    PRIMARY KEY (key_id, user_id, task_id, artifact)
);

CREATE INDEX favourites_task ON favourites (task_id);
