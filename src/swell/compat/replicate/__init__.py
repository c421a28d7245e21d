"""Replicate's API below `/replicate/v1`, over tasks, model cards and uploads.

Source:
    https://replicate.com/docs/reference/http; replicate-python 1.0.7 and 2.0.0b4 and
    replicate-javascript 1.4.0, which are driven unmodified in tests/clients.
"""
