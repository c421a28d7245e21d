"""Tasks: admission, submission, event streams, and what clients see of them."""
