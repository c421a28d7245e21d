"""Step-level batching: samples of many tasks share the steps of one model."""
