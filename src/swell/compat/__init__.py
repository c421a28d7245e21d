"""APIs of other providers over Swell's tasks: Replicate, OpenAI, fal and LibreTranslate.

Each is a module or package that maps paths, schemas, states and errors. They share:

- `facade`: operations, declared on their handlers; `path_rewrite`: paths with and without `/v1`;
- `request_inputs`: JSON bodies, forms, data URIs; `image_fields`: picture inputs in a model's own
  names;
- `model_names`: aliases; `error_formats`: errors in other formats;
- `follow_task`: waiting for a task, and its events as server-sent events;
- `result_files`: URLs of files, and pictures as bytes;
- `retry_detection`, `unanswered_requests`: repeated requests without an idempotency key.

Tasks are created by `swell.server.tasks.submit`. `swell.server.auth` accepts keys as `Bearer`,
`Token` or `Key`.
"""
