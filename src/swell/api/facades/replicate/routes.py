"""Replicate's paths: the façade's part of the route table."""

from typing import Any, Final

from swell.api.facades.replicate import deployments, files, models, predictions, streams
from swell.api.facades.replicate import messages as shapes
from swell.api.facades.replicate.messages import HOME
from swell.api.route import IDEMPOTENCY_KEY, Body, Handler, Header, Response, Route
from swell.errors import (
    Conflict,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    InvalidRequest,
    NotFound,
    NoWorker,
    SwellError,
    TooLarge,
    Unauthenticated,
    UnsupportedType,
    WouldExpire,
)
from swell.registry import Scope

_GROUP: Final = "Replicate"

#: Headings of the reference.
GROUPS: Final = {
    _GROUP: "The API of Replicate's clients; see docs/clients.md. `/replicate/v1/v1/…` and "
    "`/replicate/…` are the same paths, however a client builds them from its base URL."
}

_PREFER: Final = Header(
    "Prefer",
    "`wait`, or `wait=N`: hold the request until the prediction ends, for at most N seconds (N < "
    "60)",
    {"type": "string", "maxLength": 100},
    "wait=30",
)
_CANCEL_AFTER: Final = Header(
    "Cancel-After",
    "deadline of the prediction, `5s` to `24h`; refused if it cannot be met",
    {"type": "string", "maxLength": 40},
    "1m30s",
)
_LAST_EVENT: Final = Header(
    "Last-Event-ID",
    "continue after this event",
    {"type": "string", "pattern": "^[0-9]{1,16}-[0-9]{1,4}$"},
    "1000000-0",
)

_MAKES: Final[tuple[type[SwellError], ...]] = (
    InvalidRequest,
    InvalidInput,
    TooLarge,
    NotFound,
    UnsupportedType,
    IdempotencyMismatch,
    NoWorker,
    WouldExpire,
)
_MADE: Final = {
    201: Response("The ended prediction", shapes.ReplicatePrediction),
    202: Response("The prediction, `starting`", shapes.ReplicatePrediction),
}
_EXAMPLE: Final[dict[str, Any]] = {"version": "demo/upper", "input": {"text": "hello"}}


def _route(
    method: str,
    path: str,
    handler: Handler,
    summary: str,
    message: type[Any] | None,
    *,
    errors: tuple[type[SwellError], ...] = (),
    **more: Any,
) -> Route:
    responses = more.pop("responses", None) or {200: Response(summary, message)}
    scope = more.pop("scope", Scope.CLIENT)
    return Route(
        method,
        HOME + path,
        handler,
        scope,
        summary,
        _GROUP,
        responses,
        errors,
        facade="replicate",
        **more,
    )


def _makes(path: str, handler: Handler, summary: str) -> Route:
    example = _EXAMPLE if path == "/predictions" else {"input": _EXAMPLE["input"]}
    return _route(
        "POST",
        path,
        handler,
        summary,
        None,
        errors=_MAKES,
        responses=_MADE,
        body=Body(shapes.ReplicatePredictionRequest, example=example),
        headers=(_PREFER, _CANCEL_AFTER, IDEMPOTENCY_KEY),
    )


_PREDICTIONS: Final = (
    _makes("/predictions", predictions.create, "Create a prediction with a version"),
    _makes(
        "/models/{owner}/{name}/predictions",
        predictions.create_of_model,
        "Create a prediction with a model",
    ),
    _makes(
        "/deployments/{owner}/{name}/predictions",
        predictions.create_of_deployment,
        "Create a prediction with a deployment",
    ),
    _route(
        "GET",
        "/predictions",
        predictions.list_predictions,
        "A page of predictions, newest first",
        shapes.ReplicatePredictionList,
        errors=(InvalidRequest, InvalidInput),
        query=shapes.ReplicateQuery,
    ),
    _route(
        "GET",
        "/predictions/{id}",
        predictions.get,
        "The prediction",
        shapes.ReplicatePrediction,
        errors=(NotFound,),
    ),
    _route(
        "POST",
        "/predictions/{id}/cancel",
        predictions.cancel,
        "Cancel a prediction",
        shapes.ReplicatePrediction,
        errors=(NotFound,),
        audit="tasks.cancel",
    ),
    _route(
        "GET",
        "/predictions/{id}/stream",
        streams.stream,
        "Stream a prediction's output and logs",
        None,
        errors=(InvalidRequest, Unauthenticated, Forbidden, NotFound),
        responses={200: Response("Server-sent events", media_type="text/event-stream")},
        scope=None,
        description="The prediction contains this signed URL; it also works with the key. Events "
        "are `output`, `logs`, `error` and finally `done`, each with an id.",
        query=dict,
        headers=(_LAST_EVENT,),
    ),
)

_FILES: Final = (
    _route(
        "POST",
        "/files",
        files.create,
        "Upload a file",
        None,
        errors=(InvalidRequest, TooLarge, UnsupportedType),
        responses={201: Response("The file", shapes.ReplicateFile)},
        description="A form with the file as `content`, and optionally `filename` and `metadata` "
        "(JSON). Inputs refer to it by its `urls.get`.",
        body=Body(media_types=("multipart/form-data",)),
    ),
    _route(
        "GET",
        "/files",
        files.list_files,
        "A page of files, newest first",
        shapes.ReplicateFileList,
        errors=(InvalidRequest, InvalidInput),
        query=shapes.ReplicateQuery,
    ),
    _route("GET", "/files/{id}", files.get, "A file", shapes.ReplicateFile, errors=(NotFound,)),
    _route(
        "DELETE",
        "/files/{id}",
        files.delete,
        "Delete a file",
        None,
        errors=(NotFound,),
        audit="files.delete",
        responses={204: Response("The file is deleted", media_type="")},
    ),
)

_MODELS: Final = (
    _route(
        "GET",
        "/models",
        models.list_models,
        "A page of models",
        shapes.ReplicateModelList,
        errors=(InvalidRequest, InvalidInput),
        query=shapes.ReplicateQuery,
    ),
    _route(
        "QUERY",
        "/models",
        models.search,
        "Search models",
        shapes.ReplicateModelList,
        errors=(TooLarge,),
        body=Body(media_types=("text/plain",)),
    ),
    _route(
        "GET",
        "/search",
        models.search_all,
        "Search models (newer clients)",
        shapes.ReplicateSearch,
        errors=(InvalidInput,),
        query=dict,
    ),
    _route(
        "GET",
        "/models/{owner}/{name}",
        models.get,
        "A model",
        shapes.ReplicateModel,
        errors=(NotFound,),
    ),
    _route(
        "GET",
        "/models/{owner}/{name}/versions",
        models.list_versions,
        "A model's versions, newest first",
        shapes.ReplicateVersionList,
        errors=(NotFound,),
    ),
    _route(
        "GET",
        "/models/{owner}/{name}/versions/{version}",
        models.get_version,
        "A version, with its schemas as OpenAPI",
        shapes.ReplicateVersion,
        errors=(NotFound,),
    ),
    _route(
        "GET",
        "/models/{owner}/{name}/readme",
        models.readme,
        "A model's description",
        None,
        errors=(NotFound,),
        responses={200: Response("Markdown", media_type="text/markdown")},
    ),
    _route(
        "GET",
        "/models/{owner}/{name}/examples",
        models.list_examples,
        "Example inputs, as predictions",
        shapes.ReplicatePredictionList,
        errors=(NotFound,),
    ),
    _route("GET", "/account", models.get_account, "The key's account", shapes.ReplicateAccount),
    _route("GET", "/hardware", models.list_hardware, "The pools of workers", dict),
    _route(
        "GET",
        "/collections",
        models.list_collections,
        "The owners of models, as collections",
        dict,
    ),
    _route(
        "GET",
        "/collections/{slug}",
        models.get_collection,
        "The models of one owner",
        shapes.ReplicateCollection,
        errors=(NotFound,),
    ),
    _route(
        "GET",
        "/webhooks/default/secret",
        models.webhook_secret,
        "The secret that signs the key's webhooks",
        shapes.ReplicateSecret,
    ),
)

_DEPLOYMENTS: Final = (
    _route(
        "GET",
        "/deployments",
        deployments.list_deployments,
        "Deployments, including one for each model",
        shapes.ReplicateDeploymentList,
    ),
    _route(
        "POST",
        "/deployments",
        deployments.create,
        "Create a deployment",
        None,
        errors=(InvalidRequest, InvalidInput, NotFound, Conflict),
        responses={201: Response("The deployment", shapes.ReplicateDeployment)},
        scope=Scope.ADMIN,
        body=Body(
            shapes.ReplicateDeploymentRequest,
            example={"name": "large", "model": "demo/upper", "min_instances": 0},
        ),
        audit="deployments.create",
    ),
    _route(
        "GET",
        "/deployments/{owner}/{name}",
        deployments.get,
        "A deployment",
        shapes.ReplicateDeployment,
        errors=(NotFound,),
    ),
    _route(
        "PATCH",
        "/deployments/{owner}/{name}",
        deployments.update,
        "Update a deployment",
        shapes.ReplicateDeployment,
        errors=(InvalidRequest, InvalidInput, NotFound, Conflict),
        scope=Scope.ADMIN,
        body=Body(shapes.ReplicateDeploymentUpdate, example={"version": "1"}),
        audit="deployments.update",
    ),
    _route(
        "DELETE",
        "/deployments/{owner}/{name}",
        deployments.delete,
        "Delete a deployment",
        None,
        errors=(NotFound, Conflict),
        responses={204: Response("The file is deleted", media_type="")},
        scope=Scope.ADMIN,
        audit="deployments.delete",
    ),
)

ROUTES: Final[tuple[Route, ...]] = (*_PREDICTIONS, *_FILES, *_MODELS, *_DEPLOYMENTS)
