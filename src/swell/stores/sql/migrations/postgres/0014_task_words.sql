-- compatible_from: 1
-- The words of inputs by which tasks are found, with `==` and the key that the task is of; and up to
-- which id none lacks them.
CREATE TABLE task_words (
    task_id text COLLATE "C" PRIMARY KEY,
    words tsvector NOT NULL
);

CREATE INDEX task_words_words ON task_words USING gin (words);

CREATE TABLE words_mark (
    one boolean PRIMARY KEY CHECK (one),
    task_id text COLLATE "C" NOT NULL
);

INSERT INTO words_mark VALUES (true, '');
