"""Queue positions, and estimates of when a task starts and ends."""
