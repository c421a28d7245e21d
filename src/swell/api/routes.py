"""The whole HTTP surface as one table.

The application, OpenAPI (`openapi.py`) and the reference (`reference.py`, docs/reference/http.md)
are made from it, so that what is served, described and documented is the same.
"""

from collections.abc import Collection
from typing import Any, Final

from swell.api import (
    accounts,
    admission,
    costs,
    erasure,
    events,
    files,
    gallery,
    messages,
    operators,
    pages,
    scaling,
    startups,
    tasks,
    webhooks,
    weights,
    workers,
)
from swell.api.facades.table import FACADE_GROUPS, FACADE_ROUTES
from swell.api.metrics import CONTENT_TYPE
from swell.api.route import Body, Header, Response, Route
from swell.dispatch import (
    Ask,
    Grant,
    Registration,
    Report,
    ReportAnswer,
    StartingAnswer,
    Welcome,
)
from swell.errors import (
    Conflict,
    CreditsUsedUp,
    ExpiredArtifact,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    InvalidRequest,
    NotFound,
    NoWorker,
    QuotaExceeded,
    RangeNotSatisfiable,
    SwellError,
    TooLarge,
    Unavailable,
    UnsupportedType,
    WouldExpire,
)
from swell.phases import Startup
from swell.registry import Scope
from swell.weights.sources import WeightsAnswer, WeightsRequest

__all__ = ["GROUPS", "ROUTES", "served_routes"]

#: Headings of the reference and tags of OpenAPI, with what they hold.
GROUPS: Final = {
    "Tasks": "Ask a model for something, follow it, get what it made.",
    "Models": "What is served and which inputs it takes.",
    "Files": "Inputs up, outputs down, by signed URLs that expire.",
    "Webhooks": "Be told of tasks by HTTP: standing endpoints, signatures, deliveries.",
    "Operators": "Queues, workers, dead letters and keys; needs an `admin` key.",
    "Service": "Health, numbers and descriptions; needs no key.",
    "Workers": "How workers get work and tell what became of it; needs a `worker` key.",
    **FACADE_GROUPS,
}

_JSON_BODY: Final[tuple[type[SwellError], ...]] = (InvalidRequest, InvalidInput, TooLarge)

_PREFER: Final = Header(
    "Prefer",
    "`wait=N` keeps the request open until the task has ended, for at most N seconds (N <= 60); "
    "a client that closes its direction meanwhile is waited with for 5 s more",
    {"type": "string", "maxLength": 100},
    "wait=30",
)
_ACCEPT: Final = Header(
    "Accept",
    "a type of files that is preferred to `application/json`, such as `image/png` or `audio/*`: a "
    "task that has succeeded is answered with its first file of this type instead of JSON; "
    "`application/octet-stream` takes any file",
    {"type": "string", "maxLength": 1000},
    "image/png",
)
_IDEMPOTENCY: Final = Header(
    "Idempotency-Key",
    "the same key gives the same task for 24 hours; with another body it is an error",
    {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]*[!-~][ -~]*$"},
    "8e03978e-40d5-43e8-bc93-6894a57f9324",
)
_LAST_EVENT: Final = Header(
    "Last-Event-ID",
    "go on after this event",
    {"type": "string", "pattern": "^[0-9]{1,15}$"},
    "1000000",
)
_RANGE: Final = Header(
    "Range", "one range of bytes", {"type": "string", "maxLength": 100}, "bytes=0-1023"
)

_TASK_EXAMPLE: Final[dict[str, Any]] = {
    "model": "demo/upper",
    "input": {"text": "hello"},
    "user": "anna",
    "finish_by_s": 60,
}

#: Why a task is not accepted that could be read.
_REFUSED: Final[tuple[type[SwellError], ...]] = (
    NoWorker,
    WouldExpire,
    QuotaExceeded,
    CreditsUsedUp,
)

_TASK_OVER: Final = Response("The task, which has ended", messages.TaskView)
_OF_A_FILE: Final = (
    ("swell-task", "With a file: the id of its task"),
    ("swell-task-state", "With a file: `succeeded`"),
    ("swell-artifacts", "With a file: how many its task has"),
)
_TASK_OR_FILE: Final = Response(
    "The task, which has ended; or the file of it that `Accept` prefers, whose task is named by "
    "`Location` and `Swell-Task` and whose own URL is `Content-Location`",
    messages.TaskView,
    files=("image/*", "audio/*", "video/*", "text/plain", "application/octet-stream"),
    headers=_OF_A_FILE,
)
_FILE_ELSEWHERE: Final = Response(
    "The task, which has succeeded; the file that `Accept` prefers is larger than 16 MiB, or not "
    "kept by this server, and can be read at `Location` without a key",
    messages.TaskView,
    headers=_OF_A_FILE,
)
_TASK_NOT_YET: Final = Response("The task, which has not ended yet", messages.TaskView)

_TASKS: Final = (
    Route(
        "POST",
        "/v1/tasks",
        tasks.create,
        Scope.CLIENT,
        "Create a task",
        "Tasks",
        {201: _TASK_OR_FILE, 202: _TASK_NOT_YET, 303: _FILE_ELSEWHERE},
        (*_JSON_BODY, Forbidden, NotFound, IdempotencyMismatch, *_REFUSED),
        "An answer of 2xx means that the task is durable and will reach exactly one end. The file "
        "that `Accept` prefers needs `Prefer` too, or a task that has ended before; where there is "
        "none of that type, JSON comes.",
        Body(messages.TaskRequest, example=_TASK_EXAMPLE),
        headers=(_PREFER, _ACCEPT, _IDEMPOTENCY),
    ),
    Route(
        "POST",
        "/v1/tasks/batch",
        tasks.create_batch,
        Scope.CLIENT,
        "Create up to 1,000 tasks",
        "Tasks",
        {
            201: Response("The tasks, which have all ended", messages.BatchView),
            202: Response("The tasks, in the order of the request", messages.BatchView),
        },
        (*_JSON_BODY, IdempotencyMismatch, *_REFUSED),
        "All are accepted or none. An idempotency key stands for the batch as a whole.",
        Body(messages.BatchRequest, example={"tasks": [_TASK_EXAMPLE]}),
        headers=(_IDEMPOTENCY,),
    ),
    Route(
        "POST",
        "/v1/estimate",
        admission.show_estimate,
        Scope.CLIENT,
        "Ask what would become of a task",
        "Tasks",
        {200: Response("Whether, when and for how much; none is made", messages.EstimateView)},
        (*_JSON_BODY, Forbidden, NotFound),
        "Takes the same body as `POST /v1/tasks` and makes no task. Says its place in the queue, "
        "when it would start and end, what it would cost, what would be changed of it where it "
        "allows that (`degrade`), and whether and why it would be refused.",
        Body(messages.TaskRequest, example=_TASK_EXAMPLE),
    ),
    Route(
        "GET",
        "/v1/quota",
        accounts.show_allowance,
        Scope.CLIENT,
        "Show what is left to use",
        "Tasks",
        {200: Response("What is left of each limit", messages.AllowanceView)},
        (InvalidRequest, InvalidInput),
        "Of the key that asks, and of one of its users where `user` names one.",
        query=messages.OwnQuery,
    ),
    Route(
        "GET",
        "/v1/tasks",
        tasks.list_tasks,
        Scope.CLIENT,
        "List tasks",
        "Tasks",
        {200: Response("A page of tasks, newest first", messages.TaskList)},
        (InvalidRequest, InvalidInput),
        "A client key sees its own tasks, an admin key sees all.",
        query=messages.TaskQuery,
    ),
    Route(
        "GET",
        "/v1/tasks/{id}",
        tasks.get,
        Scope.CLIENT,
        "Get a task",
        "Tasks",
        {200: Response("The task as it is now", messages.TaskView)},
        (NotFound,),
    ),
    Route(
        "DELETE",
        "/v1/tasks/{id}",
        erasure.erase,
        Scope.CLIENT,
        "Remove a task's data",
        "Tasks",
        {200: Response("The task without its data; no object of it is left", messages.TaskView)},
        (NotFound, Conflict, Unavailable),
        "Removes input, metadata, output and their files from an ended task, uploads that another "
        "task uses excepted. It can be listed still, and not be repeated. Doing so again changes "
        "nothing.",
        audit="tasks.erase",
    ),
    Route(
        "POST",
        "/v1/tasks/{id}/cancel",
        tasks.cancel,
        Scope.CLIENT,
        "Cancel a task",
        "Tasks",
        {200: Response("The task; a running one ends within a step", messages.TaskView)},
        (NotFound,),
        "A queued task ends at once. Canceling again, or a task that has ended, changes nothing.",
        audit="tasks.cancel",
    ),
    Route(
        "POST",
        "/v1/tasks/{id}/retry",
        tasks.retry,
        Scope.CLIENT,
        "Repeat an ended task",
        "Tasks",
        {201: _TASK_OVER, 202: Response("The new task", messages.TaskView)},
        (NotFound, Conflict, QuotaExceeded, CreditsUsedUp),
        "The old task keeps its outcome. Repeating it again gives the same new task.",
        audit="tasks.retry",
    ),
    Route(
        "GET",
        "/v1/tasks/{id}/events",
        events.stream_events,
        Scope.CLIENT,
        "Follow a task",
        "Tasks",
        {
            200: Response("Server-sent events", media_type="text/event-stream"),
            204: Response("The reader has seen the end already", media_type=""),
        },
        (InvalidRequest, InvalidInput, NotFound),
        "Events are `queued` (with position and estimate), `started`, `progress`, `preview` and "
        "`artifact`, and at last one of `succeeded`, `failed`, `canceled` and `expired`, whose "
        "data is the whole task. Ids grow; a comment comes every 15 seconds.",
        query=messages.EventsQuery,
        headers=(_LAST_EVENT,),
    ),
)

_MODELS: Final = (
    Route(
        "GET",
        "/v1/models",
        operators.list_models,
        Scope.CLIENT,
        "List models",
        "Models",
        {200: Response("The current version of every model", messages.ModelList)},
    ),
    Route(
        "GET",
        "/v1/models/{owner}/{name}",
        operators.get_model,
        Scope.CLIENT,
        "Get a model",
        "Models",
        {200: Response("Its card, schemas and measured times", messages.ModelView)},
        (NotFound,),
        "The name may end with `:version`.",
    ),
    Route(
        "GET",
        "/v1/models/{owner}/{name}/versions",
        operators.list_versions,
        Scope.CLIENT,
        "List a model's versions",
        "Models",
        {200: Response("Its versions, newest first", messages.ModelList)},
        (NotFound,),
    ),
    Route(
        "GET",
        "/v1/models/{owner}/{name}/samples/{digest}",
        gallery.show_sample,
        None,
        "Show a sample of a model's card",
        "Models",
        {
            200: Response("The picture, sound or text", media_type="image/webp"),
            304: Response("It has not changed", media_type=""),
        },
        (NotFound,),
        "The URL comes with the model, needs no key, and always shows the same picture.",
    ),
)

_FILES: Final = (
    Route(
        "POST",
        "/v1/uploads",
        files.upload,
        Scope.CLIENT,
        "Upload an input file",
        "Files",
        {201: Response("Where it lies, for use in an input", messages.UploadView)},
        (InvalidRequest, InvalidInput, TooLarge, UnsupportedType),
        "Send the file as the body with its content type, or as a form with one file.",
        Body(media_types=("application/octet-stream", "image/png", "multipart/form-data")),
        query=messages.UploadQuery,
    ),
    Route(
        "GET",
        "/v1/artifacts/{key:path}",
        files.get_artifact,
        None,
        "Read a file",
        "Files",
        {
            200: Response("The file", media_type="application/octet-stream"),
            206: Response("The range that was asked", media_type="application/octet-stream"),
            302: Response(
                "Where the bucket gives the file, with `objects.serve` = `redirect`", media_type=""
            ),
            304: Response("It has not changed", media_type=""),
        },
        (InvalidRequest, Forbidden, NotFound, ExpiredArtifact, RangeNotSatisfiable),
        "The URL comes signed with a task or an upload and needs no key until it expires. With "
        "`&w=128`, `256` or `512` a picture that a task made comes as WebP of that width.",
        query=dict,
        headers=(_RANGE,),
    ),
    Route(
        "PUT",
        "/v1/artifacts/{key:path}",
        files.put_artifact,
        None,
        "Deliver a file",
        "Files",
        {201: Response("What was stored", messages.StoredView)},
        (InvalidRequest, Forbidden, Conflict, TooLarge),
        "For workers, with a URL of `POST /worker/v1/uploads`.",
        Body(media_types=("application/octet-stream", "image/png")),
        query=dict,
    ),
)

_WEBHOOKS: Final = (
    Route(
        "POST",
        "/v1/webhooks",
        webhooks.create,
        Scope.CLIENT,
        "Make a standing webhook",
        "Webhooks",
        {201: Response("The webhook with its signing secret", messages.EndpointView)},
        (*_JSON_BODY, Forbidden, Conflict, Unavailable),
        "It is told what happens to the key's tasks from now on; with several backends, from a "
        "few seconds later on.",
        Body(
            messages.EndpointRequest,
            example={"url": "https://shop.example/hooks", "events": ["succeeded", "failed"]},
        ),
        audit="webhooks.create",
    ),
    Route(
        "GET",
        "/v1/webhooks",
        webhooks.list_endpoints,
        Scope.CLIENT,
        "List standing webhooks",
        "Webhooks",
        {200: Response("Oldest first", messages.EndpointList)},
        (Unavailable,),
        "A client key sees its own, an admin key sees all.",
    ),
    Route(
        "GET",
        "/v1/webhooks/secrets/{name}",
        webhooks.show_signing_secret,
        Scope.CLIENT,
        "Show what signs for the URLs that tasks name",
        "Webhooks",
        {200: Response("The secret of the key that asks", messages.HookSecretView)},
        (NotFound, Unavailable),
        "Each key has one called `default`, and others by the names that `rotate` gave them.",
        audit="webhooks.named_secret",
    ),
    Route(
        "POST",
        "/v1/webhooks/secrets/{name}/rotate",
        webhooks.new_signing_secret,
        Scope.CLIENT,
        "Make a signing secret, or replace it",
        "Webhooks",
        {200: Response("The new secret", messages.HookSecretView)},
        (*_JSON_BODY, Unavailable),
        "Until the overlap is over both secrets sign.",
        Body(messages.HookRotateRequest, example={"overlap_s": 86400}),
        audit="webhooks.rotate_named",
    ),
    Route(
        "GET",
        "/v1/webhooks/{id}",
        webhooks.get,
        Scope.CLIENT,
        "Get a standing webhook",
        "Webhooks",
        {200: Response("The webhook, without its secret", messages.EndpointView)},
        (NotFound, Unavailable),
    ),
    Route(
        "DELETE",
        "/v1/webhooks/{id}",
        webhooks.delete,
        Scope.CLIENT,
        "Delete a standing webhook",
        "Webhooks",
        {200: Response("The webhook as it was", messages.EndpointView)},
        (NotFound, Unavailable),
        "What waits for it fails.",
        audit="webhooks.delete",
    ),
    Route(
        "POST",
        "/v1/webhooks/{id}/pause",
        webhooks.pause,
        Scope.CLIENT,
        "Pause a standing webhook",
        "Webhooks",
        {200: Response("The webhook", messages.EndpointView)},
        (NotFound, Conflict, Unavailable),
        "Nothing is sent until it is resumed; what happens meanwhile is kept for it.",
        audit="webhooks.pause",
    ),
    Route(
        "POST",
        "/v1/webhooks/{id}/resume",
        webhooks.resume,
        Scope.CLIENT,
        "Resume a standing webhook",
        "Webhooks",
        {200: Response("The webhook", messages.EndpointView)},
        (NotFound, Conflict, Unavailable),
        "Also one that was disabled, since it had answered 410; what it missed meanwhile is lost.",
        audit="webhooks.resume",
    ),
    Route(
        "GET",
        "/v1/webhooks/{id}/secret",
        webhooks.show_secret,
        Scope.CLIENT,
        "Show what signs for a standing webhook",
        "Webhooks",
        {200: Response("The secret", messages.HookSecretView)},
        (NotFound, Unavailable),
        audit="webhooks.secret",
    ),
    Route(
        "POST",
        "/v1/webhooks/{id}/rotate",
        webhooks.rotate,
        Scope.CLIENT,
        "Give a standing webhook a new secret",
        "Webhooks",
        {200: Response("The webhook with its new secret", messages.EndpointView)},
        (*_JSON_BODY, NotFound, Conflict, Unavailable),
        "Until the overlap is over both secrets sign, so that receivers can change theirs.",
        Body(messages.HookRotateRequest, example={"overlap_s": 86400}),
        audit="webhooks.rotate",
    ),
    Route(
        "POST",
        "/v1/webhooks/{id}/replay",
        webhooks.replay_failed,
        Scope.CLIENT,
        "Send again what failed for a standing webhook",
        "Webhooks",
        {200: Response("How many", messages.HookReplayView)},
        (*_JSON_BODY, NotFound, Unavailable),
        "All failed deliveries of events since then, with all their attempts anew.",
        Body(messages.HookReplayRequest, example={"since": "2026-11-26T12:00:00Z"}),
        audit="webhooks.replay",
    ),
    Route(
        "GET",
        "/v1/webhooks/deliveries",
        webhooks.list_deliveries,
        Scope.CLIENT,
        "List what was told, and what became of it",
        "Webhooks",
        {200: Response("A page of deliveries, newest first", messages.DeliveryList)},
        (InvalidRequest, InvalidInput, Unavailable),
        "A client key sees those of its own tasks, an admin key sees all.",
        query=messages.DeliveryQuery,
    ),
    Route(
        "GET",
        "/v1/webhooks/deliveries/{id}",
        webhooks.get_delivery,
        Scope.CLIENT,
        "Get a delivery",
        "Webhooks",
        {200: Response("The delivery with its attempts", messages.DeliveryView)},
        (NotFound, Unavailable),
    ),
    Route(
        "POST",
        "/v1/webhooks/deliveries/{id}/replay",
        webhooks.replay,
        Scope.CLIENT,
        "Send a delivery again",
        "Webhooks",
        {200: Response("The delivery, which is due now", messages.DeliveryView)},
        (NotFound, Conflict, Unavailable),
        "Under the same `webhook-id`, with all its attempts anew.",
        audit="webhooks.replay_one",
    ),
)

_OPERATORS: Final = (
    Route(
        "GET",
        "/v1/queues",
        operators.list_queues,
        Scope.ADMIN,
        "List queues",
        "Operators",
        {200: Response("Queues that are not empty", messages.QueueList)},
    ),
    Route(
        "GET",
        "/v1/workers",
        operators.list_workers,
        Scope.ADMIN,
        "List workers",
        "Operators",
        {200: Response("Workers, oldest first", messages.WorkerList)},
        (InvalidRequest, InvalidInput),
        query=messages.WorkersQuery,
    ),
    Route(
        "POST",
        "/v1/workers/{id}/drain",
        operators.drain_worker,
        Scope.ADMIN,
        "Drain a worker",
        "Operators",
        {200: Response("The worker; it finishes what it holds and goes", messages.WorkerView)},
        (NotFound,),
        audit="workers.drain",
    ),
    Route(
        "GET",
        "/v1/pools",
        startups.list_pools,
        Scope.ADMIN,
        "List pools, and how long their workers take to start",
        "Operators",
        {200: Response("Pools by name", messages.PoolList)},
    ),
    Route(
        "GET",
        "/v1/scaling",
        scaling.show_scaling,
        Scope.ADMIN,
        "Show what the autoscaler has decided, and why",
        "Operators",
        {200: Response("How it stands, and its last decisions", messages.ScalingView)},
        (InvalidRequest, InvalidInput),
        query=messages.ScalingQuery,
    ),
    Route(
        "GET",
        "/v1/costs",
        costs.show_costs,
        Scope.ADMIN,
        "Tell what things cost",
        "Operators",
        {200: Response("Costs, and what they add up to", messages.CostsList)},
        (InvalidRequest, InvalidInput),
        query=messages.CostsQuery,
    ),
    Route(
        "GET",
        "/v1/ledger",
        startups.list_ledger,
        Scope.ADMIN,
        "List what machine time went into",
        "Operators",
        {200: Response("Entries, those added last first", messages.LedgerList)},
        (InvalidRequest, InvalidInput),
        query=messages.LedgerQuery,
    ),
    Route(
        "GET",
        "/v1/dead",
        tasks.list_dead,
        Scope.ADMIN,
        "List dead letters",
        "Operators",
        {200: Response("Tasks that failed after their last attempt", messages.TaskList)},
        (InvalidRequest, InvalidInput),
        query=messages.DeadQuery,
    ),
    Route(
        "POST",
        "/v1/dead/{id}/replay",
        tasks.replay,
        Scope.ADMIN,
        "Replay a dead letter",
        "Operators",
        {201: _TASK_OVER, 202: Response("The new task", messages.TaskView)},
        (NotFound, Conflict),
        audit="dead.replay",
    ),
    Route(
        "POST",
        "/v1/dead/replay",
        tasks.replay_many,
        Scope.ADMIN,
        "Replay many dead letters",
        "Operators",
        {200: Response("What became of each", messages.DeadReplayView)},
        _JSON_BODY,
        body=Body(messages.DeadReplayRequest, example={"model": "demo/upper"}),
        audit="dead.replay_many",
    ),
    Route(
        "GET",
        "/v1/quotas",
        accounts.list_quotas,
        Scope.ADMIN,
        "List quotas",
        "Operators",
        {200: Response("Quotas, and what is left of them", messages.QuotaList)},
        (InvalidRequest, InvalidInput),
    ),
    Route(
        "PUT",
        "/v1/quotas",
        accounts.put_quota,
        Scope.ADMIN,
        "Set how much a key or a user may use",
        "Operators",
        {200: Response("The quota, and what is left of it", messages.QuotaView)},
        (*_JSON_BODY, NotFound),
        "In place of the one before. What was used since the day or the month began counts, as far "
        "as there was a quota by then. Other backends know of it within two seconds.",
        Body(messages.QuotaRequest, example={"key_id": "k1", "user": "*", "samples_per_day": 50}),
        audit="quotas.put",
    ),
    Route(
        "DELETE",
        "/v1/quotas",
        accounts.drop_quota,
        Scope.ADMIN,
        "Forget a quota",
        "Operators",
        {200: Response("An empty list", messages.QuotaList)},
        (InvalidRequest, InvalidInput, NotFound),
        query=messages.QuotaQuery,
        audit="quotas.drop",
    ),
    Route(
        "GET",
        "/v1/credits",
        accounts.list_credits,
        Scope.ADMIN,
        "List credits",
        "Operators",
        {200: Response("Accounts, and what was granted", messages.CreditsList)},
        (InvalidRequest, InvalidInput),
        query=messages.CreditsQuery,
    ),
    Route(
        "POST",
        "/v1/credits",
        accounts.add_credits,
        Scope.ADMIN,
        "Grant credits, or take them back",
        "Operators",
        {
            200: Response("They were granted before", messages.GrantView),
            201: Response("What is there now", messages.GrantView),
        },
        (*_JSON_BODY, NotFound),
        "They are needed where a quota says `is_prepaid`.",
        Body(messages.CreditRequest, example={"key_id": "k1", "micros": 5_000_000, "id": "inv-7"}),
        audit="credits.add",
    ),
    Route(
        "POST",
        "/v1/keys",
        operators.make_key,
        Scope.ADMIN,
        "Make a key",
        "Operators",
        {201: Response("The key with its secret, shown only now", messages.NewKeyView)},
        _JSON_BODY,
        body=Body(messages.KeyRequest, example={"name": "shop", "scopes": ["client"]}),
        audit="keys.create",
    ),
    Route(
        "GET",
        "/v1/keys",
        operators.list_keys,
        Scope.ADMIN,
        "List keys",
        "Operators",
        {200: Response("Keys, without their secrets", messages.KeyList)},
    ),
    Route(
        "GET",
        "/v1/keys/self",
        operators.own_key,
        Scope.CLIENT,
        "Show the key that asks",
        "Service",
        {200: Response("What it may do, without its secret", messages.KeyView)},
    ),
    Route(
        "DELETE",
        "/v1/keys/{id}",
        operators.revoke_key,
        Scope.ADMIN,
        "Revoke a key",
        "Operators",
        {200: Response("The key, which no longer works", messages.KeyView)},
        (NotFound,),
        audit="keys.revoke",
    ),
    Route(
        "POST",
        "/v1/keys/{id}/rotate",
        operators.new_secret,
        Scope.ADMIN,
        "Give a key a new secret",
        "Operators",
        {200: Response("The key with its new secret, shown only now", messages.NewKeyView)},
        (*_JSON_BODY, NotFound, Conflict),
        "It keeps its id, scopes, limits and tasks. The secret before works until the overlap is "
        "over; of several before only the last does.",
        Body(messages.RotateRequest, example={"overlap_s": 3600}),
        audit="keys.rotate",
    ),
    Route(
        "POST",
        "/v1/signing/rotate",
        operators.rotate_signing,
        Scope.ADMIN,
        "Change the secret that signs URLs",
        "Operators",
        {200: Response("From when the new one signs", messages.SigningView)},
        (*_JSON_BODY, Conflict),
        "URLs that were signed before stay good until they expire, unless they are revoked. Then "
        "tasks that wait and name files by such URLs will fail, and another backend may refuse new "
        "ones for some seconds.",
        Body(messages.RotateSigningRequest, example={"revoke": False}),
        audit="signing.rotate",
    ),
    Route(
        "GET",
        "/v1/audit",
        operators.list_audit,
        Scope.ADMIN,
        "List what operators did",
        "Operators",
        {200: Response("A page of entries, newest first", messages.AuditList)},
        (InvalidRequest, InvalidInput),
        "Whatever an operator changes is written down with its outcome before it is answered, also "
        "what was refused.",
        query=messages.AuditQuery,
    ),
)

_SERVICE: Final = (
    Route(
        "GET",
        "/health/live",
        operators.health_live,
        None,
        "Whether the process answers",
        "Service",
        {200: Response("It does", messages.HealthView)},
    ),
    Route(
        "GET",
        "/health/ready",
        operators.health_ready,
        None,
        "Whether requests can be served",
        "Service",
        {200: Response("They can", messages.HealthView)},
        (Unavailable,),
        "Not while the disk refuses what is written: then `detail` says why, and every look tries "
        "again.",
    ),
    Route(
        "GET",
        "/metrics",
        operators.show_metrics,
        None,
        "Numbers for Prometheus",
        "Service",
        {200: Response("Text exposition format", media_type=CONTENT_TYPE)},
    ),
    Route(
        "GET",
        "/openapi.json",
        pages.openapi_json,
        None,
        "This surface as OpenAPI 3.1",
        "Service",
        {200: Response("OpenAPI 3.1", dict)},
    ),
    Route(
        "GET",
        "/llms.txt",
        pages.llms_txt,
        None,
        "What this server offers, for language models",
        "Service",
        {200: Response("Markdown", media_type="text/plain; charset=utf-8")},
    ),
)


def _page(
    path: str, handler: Any, summary: str, errors: tuple[type[SwellError], ...] = ()
) -> Route:
    html = {200: Response("HTML", media_type="text/html; charset=utf-8")}
    return Route(
        "GET", path, handler, None, summary, "Service", html, errors, is_page=True, query=dict
    )


_PAGES: Final = (
    _page("/", pages.home, "The web app; where it was not built, the same as `/models`"),
    _page("/assets/{name}", pages.app_file, "A file of the web app", (NotFound,)),
    _page("/models", pages.models, "Names the API, its reference and the model cards"),
    _page("/docs", pages.docs, "The reference"),
    _page("/docs/errors", pages.error_docs, "What each error means"),
    _page("/models/{owner}/{name}", pages.model_card, "A model's card", (NotFound,)),
)

_WORKERS: Final = (
    Route(
        "POST",
        "/worker/v1/starting",
        startups.starting,
        Scope.WORKER,
        "Tell how far a worker is that is not ready yet",
        "Workers",
        {200: Response("How often to tell", StartingAnswer)},
        _JSON_BODY,
        "Its phases so far, or that it died. A worker that is ready registers, and tells its cold "
        "start with that.",
        body=Body(Startup),
        audit="workers.starting",
    ),
    Route(
        "POST",
        "/worker/v1/register",
        workers.register,
        Scope.WORKER,
        "Introduce a worker",
        "Workers",
        {200: Response("What it must keep to", Welcome)},
        _JSON_BODY,
        body=Body(Registration),
        audit="workers.register",
    ),
    Route(
        "POST",
        "/worker/v1/lease",
        workers.lease,
        Scope.WORKER,
        "Ask for work and wait for it",
        "Workers",
        {200: Response("Tasks, cancellations, or neither", Grant)},
        (*_JSON_BODY, NotFound),
        body=Body(Ask),
        audit="workers.lease",
    ),
    Route(
        "POST",
        "/worker/v1/report",
        workers.report,
        Scope.WORKER,
        "Tell everything at once",
        "Workers",
        {200: Response("It is written", ReportAnswer)},
        (*_JSON_BODY, NotFound),
        body=Body(Report),
        audit="workers.report",
    ),
    Route(
        "POST",
        "/worker/v1/uploads",
        workers.uploads,
        Scope.WORKER,
        "Ask where to put outputs",
        "Workers",
        {200: Response("A signed URL for each key", workers.UploadsAnswer)},
        (*_JSON_BODY, NotFound, Forbidden, Conflict),
        "Only the holder of an attempt's lease is told. What was stored once stays as it is: the "
        "same bytes may be sent again, others are refused.",
        body=Body(workers.UploadsRequest),
        audit="workers.upload",
    ),
    Route(
        "POST",
        "/worker/v1/weights",
        weights.show_weights,
        Scope.WORKER,
        "Ask for weights that were pushed",
        "Workers",
        {200: Response("The manifest, or where its chunks are", WeightsAnswer)},
        (*_JSON_BODY, NotFound, Forbidden, Unavailable),
        "Without `chunks`: which files the version has, and of which chunks. With them, at most "
        "1,000: a signed URL for each, good for an hour, of the bucket where that signs, and else "
        "of the backend. See `swell models push`.",
        body=Body(WeightsRequest),
    ),
)

#: Every operation; the order is that of the reference, and the first match of a path wins.
ROUTES: Final[tuple[Route, ...]] = (
    *_TASKS,
    *_MODELS,
    *_FILES,
    *_WEBHOOKS,
    *_OPERATORS,
    *_SERVICE,
    *_PAGES,
    *_WORKERS,
    *FACADE_ROUTES,
)


def served_routes(facades: Collection[str]) -> tuple[Route, ...]:
    """Return our own operations and those of the façades that are on."""
    return tuple(route for route in ROUTES if not route.facade or route.facade in facades)
