"""APIs of others, spoken over Swell's one task resource: a façade for each.

A façade is one module that maps paths, states and errors; what all of them need stands beside it:

- `paths`     which there are, below which paths they lie, and which misspelt base URLs are meant;
- `table`     their rows of the route table;
- `inputs`    data URIs and files of other APIs in inputs, as uploads of ours;
- `links`     URLs of files that any client may read directly, and pages of lists;
- `repeats`   a request that a client sends again without an idempotency key;
- `unanswered` a request whose client hung up before the answer, and sends it again;
- `aliases`   which model is meant by the name of another;
- `pictures`  sizes, steps and files of pictures in a model's own words;
- `files`     pictures as bytes of an answer, in the format that was asked for;
- `endings`   waiting for a task's end while a request is open;
- `streaming` what happens to a task, as server-sent events in other words.

Tasks are made by `swell.api.submit`, keys are read by `swell.api.auth` (which takes `Bearer`,
`Token` and `Key`), forms by `swell.api.forms`, errors are told by `swell.api.problems` in a body
that all these clients can read, unless a route's `refuse` says otherwise.
"""
