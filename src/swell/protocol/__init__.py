"""Messages between backends, workers and the autoscaler, and the worker's HTTP client."""
