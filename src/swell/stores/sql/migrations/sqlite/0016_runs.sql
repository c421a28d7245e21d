-- Where a task is in its pipeline, with what its stages have given (`swell.stages.Run`, JSON).
ALTER TABLE tasks ADD COLUMN run TEXT;
