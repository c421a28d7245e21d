"""fal's API below `/fal`: run an app and wait, or queue a request and follow it.

An app is `owner/alias`, the name of a model; a path after it (`/dev`) counts only if an alias has
the whole name. A request is a task with the same id.

Source:
    fal-client 1.0.3, @fal-ai/client 1.10.1, and fal's documentation of its queue, November 2026.
"""
