"""APIs of others, spoken over Swell's one task resource: a façade for each.

A façade is one module that maps paths, states and errors; what all of them need stands beside it:

- `paths`     which there are, below which paths they lie, and which misspelt base URLs are meant;
- `table`     their rows of the route table;
- `inputs`    data URIs and files of other APIs in inputs, as uploads of ours;
- `links`     URLs of files that any client may read directly, and pages of lists;
- `repeats`   a request that a client sends again without an idempotency key.

Tasks are made by `swell.api.submit`, keys are read by `swell.api.auth` (which takes `Bearer`,
`Token` and `Key`), forms by `swell.api.forms`, errors are told by `swell.api.problems` in a body
that all these clients can read, unless a route's `refuse` says otherwise.
"""
