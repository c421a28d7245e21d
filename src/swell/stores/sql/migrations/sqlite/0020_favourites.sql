-- What people like best of what was made: a file of a task, by its place.
CREATE TABLE favourites (
    key_id TEXT NOT NULL,
    user TEXT NOT NULL,
    task_id TEXT NOT NULL,
    artifact INTEGER NOT NULL,
    PRIMARY KEY (key_id, user, task_id, artifact)
) STRICT, WITHOUT ROWID;

CREATE INDEX favourites_task ON favourites (task_id);
