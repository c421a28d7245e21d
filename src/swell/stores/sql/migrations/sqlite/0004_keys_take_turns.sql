-- The ready tasks of each key in their order: which key is next is decided when a worker asks.
DROP INDEX tasks_ready;

CREATE INDEX tasks_ready ON tasks (queue, key_id, priority, tag, id, count)
    WHERE state = 'queued' AND available_at IS NULL;
