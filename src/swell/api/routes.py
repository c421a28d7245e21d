"""The whole HTTP surface as one table.

The application, OpenAPI (`openapi.py`) and the reference (`reference.py`, docs/reference/http.md)
are made from it, so that what is served, described and documented is the same.
"""

from collections.abc import Collection
from typing import Any, Final

from swell.api import (
    accounts,
    admission,
    adoption,
    comparing,
    comparison_messages,
    comparisons,
    costs,
    erasure,
    events,
    favourites,
    files,
    gallery,
    messages,
    operators,
    pages,
    scaling,
    share_messages,
    share_page,
    shares,
    startups,
    styles,
    tasks,
    webhooks,
    weights,
    workers,
)
from swell.api.facades.table import FACADE_GROUPS, FACADE_ROUTES
from swell.api.metrics import CONTENT_TYPE
from swell.api.route import IDEMPOTENCY_KEY, Body, Header, Response, Route
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
    DamagedArtifact,
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
    "Tasks": "Create tasks, follow them, and read their results.",
    "Shares": "Links that show a task's pictures to people without a key.",
    "Models": "Served models, their inputs, versions and styles.",
    "Files": "Upload inputs and download outputs, by signed URLs that expire.",
    "Comparisons": "Compare models on the same input, vote blind, and rate them.",
    "Webhooks": "HTTP callbacks for tasks: standing webhooks, signatures, deliveries.",
    "Operators": "Queues, workers, dead letters, costs, quotas and keys; needs an `admin` key.",
    "Service": "Health, metrics and descriptions; needs no key.",
    "Workers": "The protocol of workers; needs a `worker` key.",
    **FACADE_GROUPS,
}

_JSON_BODY: Final[tuple[type[SwellError], ...]] = (InvalidRequest, InvalidInput, TooLarge)

_PREFER: Final = Header(
    "Prefer",
    "`wait=N` holds the request until the task ends, for at most N seconds (N <= 60), or 5 s "
    "more after the client closes its sending side",
    {"type": "string", "maxLength": 100},
    "wait=30",
)
_ACCEPT: Final = Header(
    "Accept",
    "a preferred file type, such as `image/png` or `audio/*`: the answer is the first such file "
    "of a succeeded task instead of JSON; `application/octet-stream` accepts any file",
    {"type": "string", "maxLength": 1000},
    "image/png",
)
_LAST_EVENT: Final = Header(
    "Last-Event-ID",
    "continue after this event",
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

_TASK_OVER: Final = Response("The ended task", messages.TaskView)
_OF_A_FILE: Final = (
    ("swell-task", "With a file: the id of its task"),
    ("swell-task-state", "With a file: `succeeded`"),
    ("swell-artifacts", "With a file: the number of files of its task"),
)
_TASK_OR_FILE: Final = Response(
    "The ended task, or its file of the preferred type: `Location` and `Swell-Task` name the "
    "task, `Content-Location` is the file's URL",
    messages.TaskView,
    files=("image/*", "audio/*", "video/*", "text/plain", "application/octet-stream"),
    headers=_OF_A_FILE,
)
_FILE_ELSEWHERE: Final = Response(
    "The succeeded task; its file of the preferred type exceeds 16 MiB or is in a bucket: read "
    "it at `Location`, without a key",
    messages.TaskView,
    headers=_OF_A_FILE,
)
_TASK_NOT_YET: Final = Response("The task, still queued or running", messages.TaskView)

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
        "A 2xx answer means that the task is durable and reaches exactly one end. To get a file "
        "with `Accept`, also send `Prefer`, or repeat the idempotency key of an ended task; "
        "without a file of that type the answer is JSON.",
        Body(messages.TaskRequest, example=_TASK_EXAMPLE),
        headers=(_PREFER, _ACCEPT, IDEMPOTENCY_KEY),
    ),
    Route(
        "POST",
        "/v1/tasks/batch",
        tasks.create_batch,
        Scope.CLIENT,
        "Create up to 1,000 tasks",
        "Tasks",
        {
            201: Response("The tasks, all ended", messages.BatchView),
            202: Response("The tasks, in the order of the request", messages.BatchView),
        },
        (*_JSON_BODY, IdempotencyMismatch, *_REFUSED),
        "The server accepts all tasks or none. An idempotency key covers the whole batch.",
        Body(messages.BatchRequest, example={"tasks": [_TASK_EXAMPLE]}),
        headers=(IDEMPOTENCY_KEY,),
    ),
    Route(
        "POST",
        "/v1/estimate",
        admission.show_estimate,
        Scope.CLIENT,
        "Estimate a task",
        "Tasks",
        {200: Response("The estimate", messages.EstimateView)},
        (*_JSON_BODY, Forbidden, NotFound),
        "Takes the body of `POST /v1/tasks` and creates nothing. Returns the place in the queue, "
        "start, end and cost, the changes that `degrade` would make, and whether and why the "
        "task would be refused.",
        Body(messages.TaskRequest, example=_TASK_EXAMPLE),
    ),
    Route(
        "GET",
        "/v1/quota",
        accounts.show_allowance,
        Scope.CLIENT,
        "Show the remaining quota",
        "Tasks",
        {200: Response("The remainder of each limit", messages.AllowanceView)},
        (InvalidRequest, InvalidInput),
        "For the caller's key, and for one of its users if `user` is given.",
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
        "A client key sees its own tasks; an admin key sees all.",
        query=messages.TaskQuery,
    ),
    Route(
        "GET",
        "/v1/tasks/{id}",
        tasks.get,
        Scope.CLIENT,
        "Get a task",
        "Tasks",
        {200: Response("The task", messages.TaskView)},
        (NotFound,),
    ),
    Route(
        "DELETE",
        "/v1/tasks/{id}",
        erasure.erase,
        Scope.CLIENT,
        "Remove a task's data",
        "Tasks",
        {
            200: Response(
                "The task without its data; all of its objects are deleted", messages.TaskView
            )
        },
        (NotFound, Conflict, Unavailable),
        "Removes input, metadata, output and their files from an ended task, except uploads that "
        "another task uses. The task can still be listed, but not repeated. Repeating the "
        "request changes nothing.",
        audit="tasks.erase",
    ),
    Route(
        "POST",
        "/v1/tasks/{id}/cancel",
        tasks.cancel,
        Scope.CLIENT,
        "Cancel a task",
        "Tasks",
        {200: Response("The task; a running one stops at its next step", messages.TaskView)},
        (NotFound,),
        "A queued task ends at once. Canceling an ended task changes nothing.",
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
        "Creates a new task; the old one keeps its outcome. A second request returns the same "
        "new task.",
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
            204: Response("The reader has already seen the end", media_type=""),
        },
        (InvalidRequest, InvalidInput, NotFound),
        "Sends `queued` (with position and estimate), `started`, `progress`, `preview` and "
        "`artifact`, and finally `succeeded`, `failed`, `canceled` or `expired` with the whole "
        "task. Ids grow; a comment every 15 seconds keeps the connection open.",
        query=messages.EventsQuery,
        headers=(_LAST_EVENT,),
    ),
)

_LIKED: Final = {200: Response("The viewer's favourites among its files", messages.FavouritesView)}

_FAVOURITES: Final = (
    Route(
        "PUT",
        "/v1/tasks/{id}/favourite",
        favourites.favour,
        Scope.CLIENT,
        "Add a favourite",
        "Tasks",
        _LIKED,
        (InvalidRequest, InvalidInput, NotFound, Conflict),
        "For the key, or one of its users (`viewer`). `GET /v1/tasks` shows favourites, and "
        "lists only them with `favourite=true`.",
        query=messages.FavouriteQuery,
        audit="tasks.favour",
    ),
    Route(
        "DELETE",
        "/v1/tasks/{id}/favourite",
        favourites.disfavour,
        Scope.CLIENT,
        "Remove a favourite",
        "Tasks",
        _LIKED,
        (InvalidRequest, InvalidInput, NotFound),
        query=messages.FavouriteQuery,
        audit="tasks.disfavour",
    ),
)

_SHARE: Final = Response("The link", share_messages.ShareView)

_SHARES: Final = (
    Route(
        "POST",
        "/v1/tasks/{id}/share",
        shares.share,
        Scope.CLIENT,
        "Share a task's result",
        "Shares",
        {200: _SHARE},
        (*_JSON_BODY, NotFound, Conflict),
        "The link shows pictures, model, settings and, unless you leave it out, the prompt, "
        "without a key. It ends when it is revoked, expires, or the task's outputs are removed. "
        "A second request changes what the link shows and keeps the link.",
        Body(share_messages.ShareRequest, example={"with_prompt": False}),
        audit="tasks.share",
    ),
    Route(
        "GET",
        "/v1/tasks/{id}/share",
        shares.get_share,
        Scope.CLIENT,
        "Get a task's link",
        "Shares",
        {200: _SHARE},
        (InvalidRequest, InvalidInput, NotFound),
    ),
    Route(
        "DELETE",
        "/v1/tasks/{id}/share",
        shares.unshare,
        Scope.CLIENT,
        "Revoke a link",
        "Shares",
        {200: Response("The link as it was", share_messages.ShareView)},
        (NotFound,),
        "The link stops working; sharing the task again creates another one.",
        audit="tasks.unshare",
    ),
    Route(
        "GET",
        "/v1/shares",
        shares.list_shares,
        Scope.CLIENT,
        "List links",
        "Shares",
        {200: Response("Links, newest tasks first", share_messages.ShareList)},
        (InvalidRequest, InvalidInput),
        "A client key sees the links of its own tasks; an admin key sees all. Expired links are "
        "included.",
        query=share_messages.SharesQuery,
    ),
    Route(
        "GET",
        "/v1/shares/{token}",
        shares.look,
        None,
        "Get shared content",
        "Shares",
        {200: Response("The shared part of the task", share_messages.SharedView)},
        (InvalidRequest, InvalidInput, NotFound),
        "`/s/{token}` shows the same as a page.",
    ),
    Route(
        "GET",
        "/v1/shares/{token}/pictures/{number}",
        shares.show_picture,
        None,
        "Get a shared picture",
        "Shares",
        {
            200: Response("The picture", media_type="image/webp"),
            304: Response("It has not changed", media_type=""),
        },
        (InvalidRequest, InvalidInput, NotFound),
        query=share_messages.SharedPictureQuery,
    ),
)

_ADOPTION: Final = Response("The stages of the model's versions", messages.AdoptionView)

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
        {200: Response("The model's card, schemas and measured times", messages.ModelView)},
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
        "Get a sample of a model's card",
        "Models",
        {
            200: Response("The picture, sound or text", media_type="image/webp"),
            304: Response("It has not changed", media_type=""),
        },
        (NotFound,),
        "The URL comes with the model, needs no key, and its content never changes.",
    ),
    Route(
        "GET",
        "/v1/models/{owner}/{name}/adoption",
        adoption.show_adoption,
        Scope.ADMIN,
        "Show the rollout of a model",
        "Models",
        {200: _ADOPTION},
        (InvalidRequest, InvalidInput, NotFound, Conflict),
    ),
    Route(
        "POST",
        "/v1/models/{owner}/{name}/canary",
        adoption.start_version_canary,
        Scope.ADMIN,
        "Start a canary",
        "Models",
        {200: _ADOPTION},
        (*_JSON_BODY, NotFound, Conflict),
        "Gives a version a share of the tasks that name no version; a live worker must have it. "
        "A second request can change the share and keeps the evidence. Swell rolls the canary "
        "back if it fails significantly more often, or takes significantly longer, than the live "
        "version.",
        Body(messages.CanaryRequest, example={"version": "3f2a9c1be07d", "share": 0.05}),
        audit="models.canary",
    ),
    Route(
        "POST",
        "/v1/models/{owner}/{name}/promote",
        adoption.promote_version,
        Scope.ADMIN,
        "Promote a version",
        "Models",
        {200: _ADOPTION},
        (*_JSON_BODY, NotFound, Conflict),
        "Makes a version live: the one named, or the canary. Versions registered later get only "
        "tasks that name them.",
        Body(messages.PromoteRequest, example={"version": "3f2a9c1be07d"}),
        audit="models.promote",
    ),
    Route(
        "POST",
        "/v1/models/{owner}/{name}/rollback",
        adoption.roll_back_version,
        Scope.ADMIN,
        "Roll back a version",
        "Models",
        {200: _ADOPTION},
        (*_JSON_BODY, NotFound, Conflict),
        "Ends the canary; without a canary, the previous live version becomes live again.",
        Body(messages.RollbackRequest, example={"reason": "hands have six fingers"}),
        audit="models.rollback",
    ),
    Route(
        "POST",
        "/v1/models/{owner}/{name}/retire",
        adoption.retire_version,
        Scope.ADMIN,
        "Retire a version",
        "Models",
        {200: _ADOPTION},
        (*_JSON_BODY, NotFound, Conflict),
        "A retired version gets no tasks, even those that name it. Promoting it, or making it a "
        "canary, reverses this.",
        Body(messages.RetireRequest, example={"version": "3f2a9c1be07d"}),
        audit="models.retire",
    ),
)

_STYLES: Final = (
    Route(
        "GET",
        "/v1/styles",
        styles.list_styles,
        Scope.CLIENT,
        "List styles",
        "Models",
        {200: Response("Styles, in display order", messages.StyleList)},
        (),
        "A style is a change to the prompt and further input, which the client applies. Styles "
        "come from the operator's files (`server.styles`).",
    ),
    Route(
        "GET",
        "/v1/styles/{digest}",
        styles.show_picture,
        None,
        "Get a style's picture",
        "Models",
        {
            200: Response("The picture", media_type="image/webp"),
            304: Response("It has not changed", media_type=""),
        },
        (NotFound,),
        "The URL comes with the style and needs no key.",
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
        {201: Response("The stored file and its URL, for use in an input", messages.UploadView)},
        (InvalidRequest, InvalidInput, TooLarge, UnsupportedType),
        "Send the file as the body, with its content type, or as a form with one file.",
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
            206: Response("The requested range", media_type="application/octet-stream"),
            302: Response(
                "A redirect to the bucket, with `objects.serve` = `redirect`", media_type=""
            ),
            304: Response("It has not changed", media_type=""),
        },
        (
            InvalidRequest,
            Forbidden,
            NotFound,
            ExpiredArtifact,
            RangeNotSatisfiable,
            DamagedArtifact,
        ),
        "Tasks and uploads contain this signed URL; it needs no key and expires. `&w=128`, "
        "`256`, `512` or `2048` returns a task's picture as WebP of that width.",
        query=dict,
        headers=(_RANGE,),
    ),
    Route(
        "PUT",
        "/v1/artifacts/{key:path}",
        files.put_artifact,
        None,
        "Store an output file",
        "Files",
        {201: Response("The stored file", messages.StoredView)},
        (InvalidRequest, Forbidden, Conflict, TooLarge),
        "For workers, with a URL from `POST /worker/v1/uploads`.",
        Body(media_types=("application/octet-stream", "image/png")),
        query=dict,
    ),
)

_COMPARISONS: Final = (
    Route(
        "POST",
        "/v1/comparisons",
        comparing.create_comparison,
        Scope.CLIENT,
        "Create a comparison",
        "Comparisons",
        {201: Response("The comparison, blind", comparison_messages.NewComparisonView)},
        (*_JSON_BODY, NotFound, Conflict),
        "Takes ended tasks in rows: the same input and seed for two to four models. Copies the "
        "pictures without metadata and shuffles each row. A failed task leaves an empty place.",
        Body(
            comparison_messages.ComparisonRequest,
            example={"rows": [{"tasks": ["0197a1", "0197a2"]}], "name": "foxes"},
        ),
        audit="comparisons.create",
    ),
    Route(
        "GET",
        "/v1/comparisons",
        comparisons.list_comparisons,
        Scope.CLIENT,
        "List comparisons",
        "Comparisons",
        {200: Response("A page of comparisons, newest first", comparison_messages.ComparisonList)},
        (InvalidRequest, InvalidInput),
        "A client key sees its own and shared comparisons; an admin key sees all.",
        query=comparison_messages.ComparisonsQuery,
    ),
    Route(
        "GET",
        "/v1/comparisons/{id}",
        comparisons.get_comparison,
        Scope.CLIENT,
        "Get a comparison",
        "Comparisons",
        {200: Response("The comparison", comparison_messages.ComparisonView)},
        (InvalidRequest, InvalidInput, Forbidden, NotFound),
        "Hides the models' names, times and costs until voting ends.",
        query=comparison_messages.ComparisonQuery,
    ),
    Route(
        "POST",
        "/v1/comparisons/{id}/votes",
        comparisons.cast_vote,
        Scope.CLIENT,
        "Vote on a row",
        "Comparisons",
        {200: Response("The vote", comparison_messages.VoteView)},
        (*_JSON_BODY, NotFound, Conflict),
        "Each voter of a key has one vote for each row; a later vote replaces it.",
        Body(comparison_messages.VoteRequest, example={"row": 0, "winner": 2, "voter": "anna"}),
        audit="comparisons.vote",
    ),
    Route(
        "POST",
        "/v1/comparisons/{id}/ballots",
        comparisons.cast_ballot,
        None,
        "Vote without a key",
        "Comparisons",
        {200: Response("The vote", comparison_messages.VoteView)},
        (*_JSON_BODY, Forbidden, Conflict),
        "Like `votes`, with the comparison's permit instead of a key. Accepts any content type "
        "as JSON, and requests from any origin.",
        Body(
            comparison_messages.BallotRequest,
            example={"permit": "T", "row": 0, "tie": True, "voter": "anna"},
        ),
    ),
    Route(
        "POST",
        "/v1/comparisons/{id}/close",
        comparisons.close_comparison,
        Scope.CLIENT,
        "End voting and reveal the models",
        "Comparisons",
        {
            200: Response(
                "The comparison with the models' names", comparison_messages.ComparisonView
            )
        },
        (Forbidden, NotFound),
        "This is final: the votes count for the ratings from now on. A second request changes "
        "nothing.",
        audit="comparisons.close",
    ),
    Route(
        "DELETE",
        "/v1/comparisons/{id}",
        comparisons.drop_comparison,
        Scope.CLIENT,
        "Delete a comparison",
        "Comparisons",
        {200: Response("The comparison as it was", comparison_messages.ComparisonView)},
        (Forbidden, NotFound),
        "Deletes its pictures and votes, and removes them from the ratings.",
        audit="comparisons.drop",
    ),
    Route(
        "GET",
        "/v1/ratings",
        comparisons.list_ratings,
        Scope.CLIENT,
        "List ratings",
        "Comparisons",
        {200: Response("Ratings, best first", comparison_messages.RatingList)},
        (InvalidRequest, InvalidInput, Unavailable),
        "Counts only comparisons with ended voting, so that no vote can be traced to a model "
        "before.",
    ),
)

_WEBHOOKS: Final = (
    Route(
        "POST",
        "/v1/webhooks",
        webhooks.create,
        Scope.CLIENT,
        "Create a standing webhook",
        "Webhooks",
        {201: Response("The webhook with its signing secret", messages.EndpointView)},
        (*_JSON_BODY, Forbidden, Conflict, Unavailable),
        "It receives events of the key's tasks from now on; with several backends, after a few "
        "seconds.",
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
        {200: Response("Webhooks, oldest first", messages.EndpointList)},
        (Unavailable,),
        "A client key sees its own; an admin key sees all.",
    ),
    Route(
        "GET",
        "/v1/webhooks/secrets/{name}",
        webhooks.show_signing_secret,
        Scope.CLIENT,
        "Get a signing secret",
        "Webhooks",
        {200: Response("The secret of the caller's key", messages.HookSecretView)},
        (NotFound, Unavailable),
        "It signs requests to URLs that tasks name. Each key has `default`, and others created "
        "with `rotate`.",
        audit="webhooks.named_secret",
    ),
    Route(
        "POST",
        "/v1/webhooks/secrets/{name}/rotate",
        webhooks.new_signing_secret,
        Scope.CLIENT,
        "Create or replace a signing secret",
        "Webhooks",
        {200: Response("The new secret", messages.HookSecretView)},
        (*_JSON_BODY, Unavailable),
        "Both secrets sign during the overlap.",
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
        {200: Response("The deleted webhook", messages.EndpointView)},
        (NotFound, Unavailable),
        "Waiting deliveries fail.",
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
        "Swell keeps events until the webhook is resumed.",
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
        "Also re-enables one that was disabled by a 410; events in between are lost to it.",
        audit="webhooks.resume",
    ),
    Route(
        "GET",
        "/v1/webhooks/{id}/secret",
        webhooks.show_secret,
        Scope.CLIENT,
        "Get a standing webhook's secret",
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
        "Rotate a standing webhook's secret",
        "Webhooks",
        {200: Response("The webhook with its new secret", messages.EndpointView)},
        (*_JSON_BODY, NotFound, Conflict, Unavailable),
        "Both secrets sign during the overlap, so receivers can replace theirs.",
        Body(messages.HookRotateRequest, example={"overlap_s": 86400}),
        audit="webhooks.rotate",
    ),
    Route(
        "POST",
        "/v1/webhooks/{id}/replay",
        webhooks.replay_failed,
        Scope.CLIENT,
        "Replay failed deliveries of a webhook",
        "Webhooks",
        {200: Response("The number of deliveries", messages.HookReplayView)},
        (*_JSON_BODY, NotFound, Unavailable),
        "Sends all failed deliveries of events since that time again, with a new series of "
        "attempts.",
        Body(messages.HookReplayRequest, example={"since": "2026-11-26T12:00:00Z"}),
        audit="webhooks.replay",
    ),
    Route(
        "GET",
        "/v1/webhooks/deliveries",
        webhooks.list_deliveries,
        Scope.CLIENT,
        "List deliveries",
        "Webhooks",
        {200: Response("A page of deliveries, newest first", messages.DeliveryList)},
        (InvalidRequest, InvalidInput, Unavailable),
        "A client key sees those of its own tasks; an admin key sees all.",
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
        "Replay a delivery",
        "Webhooks",
        {200: Response("The delivery, due now", messages.DeliveryView)},
        (NotFound, Conflict, Unavailable),
        "Sends it under the same `webhook-id`, with a new series of attempts.",
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
        {200: Response("The worker; it finishes its tasks and exits", messages.WorkerView)},
        (NotFound,),
        audit="workers.drain",
    ),
    Route(
        "GET",
        "/v1/pools",
        startups.list_pools,
        Scope.ADMIN,
        "List pools, with start times of their workers",
        "Operators",
        {200: Response("Pools by name", messages.PoolList)},
    ),
    Route(
        "GET",
        "/v1/scaling",
        scaling.show_scaling,
        Scope.ADMIN,
        "Show the autoscaler's state and decisions",
        "Operators",
        {200: Response("Its state and latest decisions", messages.ScalingView)},
        (InvalidRequest, InvalidInput),
        query=messages.ScalingQuery,
    ),
    Route(
        "GET",
        "/v1/costs",
        costs.show_costs,
        Scope.ADMIN,
        "Show costs",
        "Operators",
        {200: Response("Costs and their total", messages.CostsList)},
        (InvalidRequest, InvalidInput),
        query=messages.CostsQuery,
    ),
    Route(
        "GET",
        "/v1/ledger",
        startups.list_ledger,
        Scope.ADMIN,
        "List the ledger of machine time",
        "Operators",
        {200: Response("Entries, latest first", messages.LedgerList)},
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
        {200: Response("Tasks that failed their last attempt", messages.TaskList)},
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
        {200: Response("The result for each", messages.DeadReplayView)},
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
        {200: Response("Quotas and their remainder", messages.QuotaList)},
        (InvalidRequest, InvalidInput),
    ),
    Route(
        "PUT",
        "/v1/quotas",
        accounts.put_quota,
        Scope.ADMIN,
        "Set a quota",
        "Operators",
        {200: Response("The quota and its remainder", messages.QuotaView)},
        (*_JSON_BODY, NotFound),
        "Replaces the quota of a key or user. Usage since the start of the day or month counts, "
        "if there was a quota by then. Other backends apply it within two seconds.",
        Body(messages.QuotaRequest, example={"key_id": "k1", "user": "*", "samples_per_day": 50}),
        audit="quotas.put",
    ),
    Route(
        "DELETE",
        "/v1/quotas",
        accounts.drop_quota,
        Scope.ADMIN,
        "Delete a quota",
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
        {200: Response("Accounts and grants", messages.CreditsList)},
        (InvalidRequest, InvalidInput),
        query=messages.CreditsQuery,
    ),
    Route(
        "POST",
        "/v1/credits",
        accounts.add_credits,
        Scope.ADMIN,
        "Add or remove credits",
        "Operators",
        {
            200: Response("This id was granted before", messages.GrantView),
            201: Response("The new balance", messages.GrantView),
        },
        (*_JSON_BODY, NotFound),
        "Needed for quotas with `is_prepaid`.",
        Body(messages.CreditRequest, example={"key_id": "k1", "micros": 5_000_000, "id": "inv-7"}),
        audit="credits.add",
    ),
    Route(
        "POST",
        "/v1/keys",
        operators.make_key,
        Scope.ADMIN,
        "Create a key",
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
        "Show the caller's key",
        "Service",
        {200: Response("The key, without its secret", messages.KeyView)},
    ),
    Route(
        "DELETE",
        "/v1/keys/{id}",
        operators.revoke_key,
        Scope.ADMIN,
        "Revoke a key",
        "Operators",
        {200: Response("The revoked key", messages.KeyView)},
        (NotFound,),
        audit="keys.revoke",
    ),
    Route(
        "POST",
        "/v1/keys/{id}/rotate",
        operators.new_secret,
        Scope.ADMIN,
        "Rotate a key",
        "Operators",
        {200: Response("The key with its new secret, shown only now", messages.NewKeyView)},
        (*_JSON_BODY, NotFound, Conflict),
        "Gives the key a new secret and keeps its id, scopes, limits and tasks. The previous "
        "secret works during the overlap; older ones stop at once.",
        Body(messages.RotateRequest, example={"overlap_s": 3600}),
        audit="keys.rotate",
    ),
    Route(
        "POST",
        "/v1/signing/rotate",
        operators.rotate_signing,
        Scope.ADMIN,
        "Rotate the URL signing secret",
        "Operators",
        {200: Response("When the new secret takes effect", messages.SigningView)},
        (*_JSON_BODY, Conflict),
        "URLs signed before stay valid until they expire, unless you revoke them. After a "
        "revocation, queued tasks with such URLs in their input fail, and other backends may "
        "refuse new URLs for some seconds.",
        Body(messages.RotateSigningRequest, example={"revoke": False}),
        audit="signing.rotate",
    ),
    Route(
        "GET",
        "/v1/audit",
        operators.list_audit,
        Scope.ADMIN,
        "List the audit log",
        "Operators",
        {200: Response("A page of entries, newest first", messages.AuditList)},
        (InvalidRequest, InvalidInput),
        "Swell records every change by an operator, and every refused one, before it answers.",
        query=messages.AuditQuery,
    ),
)

_SERVICE: Final = (
    Route(
        "GET",
        "/health/live",
        operators.health_live,
        None,
        "Check that the process answers",
        "Service",
        {200: Response("It answers", messages.HealthView)},
    ),
    Route(
        "GET",
        "/health/ready",
        operators.health_ready,
        None,
        "Check that requests can be served",
        "Service",
        {200: Response("They can be served", messages.HealthView)},
        (Unavailable,),
        "Fails while the disk refuses writes, for example; `detail` gives the reason, and every "
        "check tries again.",
    ),
    Route(
        "GET",
        "/metrics",
        operators.show_metrics,
        None,
        "Metrics for Prometheus",
        "Service",
        {200: Response("Text exposition format", media_type=CONTENT_TYPE)},
    ),
    Route(
        "GET",
        "/openapi.json",
        pages.openapi_json,
        None,
        "This API as OpenAPI 3.1",
        "Service",
        {200: Response("OpenAPI 3.1", dict)},
    ),
    Route(
        "GET",
        "/llms.txt",
        pages.llms_txt,
        None,
        "A description of this server for language models",
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
    _page("/", pages.home, "The web app, or `/models` if it was not built"),
    _page("/assets/{name}", pages.app_file, "A file of the web app", (NotFound,)),
    _page("/models", pages.models, "Links to the API, its reference and the model cards"),
    _page("/docs", pages.docs, "The API reference"),
    _page("/docs/errors", pages.error_docs, "The error reference"),
    _page("/s/{token}", share_page.shared_page, "The page of a share link", (NotFound,)),
    _page("/models/{owner}/{name}", pages.model_card, "A model's card", (NotFound,)),
)

_WORKERS: Final = (
    Route(
        "POST",
        "/worker/v1/starting",
        startups.starting,
        Scope.WORKER,
        "Report the progress of a starting worker",
        "Workers",
        {200: Response("The reporting interval", StartingAnswer)},
        _JSON_BODY,
        "Reports the phases so far, or a failed start. A ready worker registers, and reports its "
        "cold start with that.",
        body=Body(Startup),
        audit="workers.starting",
    ),
    Route(
        "POST",
        "/worker/v1/register",
        workers.register,
        Scope.WORKER,
        "Register a worker",
        "Workers",
        {200: Response("The worker's id and intervals", Welcome)},
        (*_JSON_BODY, Conflict),
        body=Body(Registration),
        audit="workers.register",
    ),
    Route(
        "POST",
        "/worker/v1/lease",
        workers.lease,
        Scope.WORKER,
        "Lease tasks",
        "Workers",
        {200: Response("Tasks, cancellations, or nothing", Grant)},
        (*_JSON_BODY, NotFound),
        body=Body(Ask),
        audit="workers.lease",
    ),
    Route(
        "POST",
        "/worker/v1/report",
        workers.report,
        Scope.WORKER,
        "Report progress and outcomes",
        "Workers",
        {200: Response("The stored result", ReportAnswer)},
        (*_JSON_BODY, NotFound),
        body=Body(Report),
        audit="workers.report",
    ),
    Route(
        "POST",
        "/worker/v1/uploads",
        workers.uploads,
        Scope.WORKER,
        "Get upload URLs for outputs",
        "Workers",
        {200: Response("A signed URL for each key", workers.UploadsAnswer)},
        (*_JSON_BODY, NotFound, Forbidden, Conflict),
        "Only for the holder of the attempt's lease. A stored file never changes: the same bytes "
        "are accepted again, others are refused.",
        body=Body(workers.UploadsRequest),
        audit="workers.upload",
    ),
    Route(
        "POST",
        "/worker/v1/weights",
        weights.show_weights,
        Scope.WORKER,
        "Get pushed weights",
        "Workers",
        {200: Response("The manifest, or the URLs of its chunks", WeightsAnswer)},
        (*_JSON_BODY, NotFound, Forbidden, Unavailable),
        "Without `chunks`: the files of the version and their chunks. With up to 1,000 `chunks`: "
        "a signed URL for each, valid for an hour, of the bucket if it signs, or else of the "
        "backend. See `swell models push`.",
        body=Body(WeightsRequest),
    ),
)

#: Every operation; the order is that of the reference, and the first match of a path wins.
ROUTES: Final[tuple[Route, ...]] = (
    *_TASKS,
    *_FAVOURITES,
    *_SHARES,
    *_MODELS,
    *_STYLES,
    *_FILES,
    *_COMPARISONS,
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
