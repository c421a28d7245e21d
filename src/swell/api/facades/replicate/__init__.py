"""Replicate's API below `/replicate/v1`, over tasks, model cards and uploads.

- `routes`        which paths there are: the façade's part of the route table;
- `views`         what its clients see: states, errors, logs, predictions; pure;
- `messages`      the shapes of all that;
- `predictions`   make one, get one, list, cancel;
- `streams`       a prediction's output and logs as server-sent events;
- `files`         uploads with a name and a description;
- `models`        cards as models and versions, and what stands around them;
- `deployments`   names of an operator's own for a model or a version of it.

Source:
    https://replicate.com/docs/reference/http; replicate-python 1.0.7 and 2.0.0b4 and
    replicate-javascript 1.4.0, which are driven unmodified in tests/clients.
"""

from swell.api.facades.replicate.routes import GROUPS, ROUTES

__all__ = ["GROUPS", "ROUTES"]
