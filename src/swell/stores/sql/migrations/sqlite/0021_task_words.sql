-- The words of inputs by which tasks are found, with `==` and the key that the task is of; and up to
-- which `seq` they are kept. Signs beyond ASCII stand as `=` and six digits.
CREATE VIRTUAL TABLE task_words USING fts5 (
    words, tokenize = "ascii tokenchars '='", detail = none
);

CREATE TABLE words_mark (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL
) STRICT;

INSERT INTO words_mark VALUES (1, 0);
