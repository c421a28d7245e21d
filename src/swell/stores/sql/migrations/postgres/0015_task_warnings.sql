-- compatible_from: 1
-- What the model says about a result (tuple of `swell.results.TaskWarning`, JSON).
ALTER TABLE tasks ADD COLUMN warnings text;
