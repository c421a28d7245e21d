-- Where the trace of a task goes on (W3C Trace Context).
ALTER TABLE tasks ADD COLUMN traceparent TEXT;
