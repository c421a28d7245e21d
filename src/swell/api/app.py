"""The ASGI application.

Paths without a placeholder are found in a dictionary, and so are one task and its events, which are
asked for most often. Starlette's router matches the rest.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from starlette.applications import Starlette
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp

from swell.api.auth import check_scope
from swell.api.call import Call, ClientGone, Receive, Reply, Scope, Send
from swell.api.duties import Duties
from swell.api.facades.paths import FACADES, path_meant
from swell.api.headers import Origins
from swell.api.hook_formats import FORMATS, SEALS
from swell.api.pipelines import register_pipelines
from swell.api.problems import closest, problem_reply
from swell.api.requests import CLIENT_GONE, plain_path
from swell.api.route import Route
from swell.api.routes import served_routes
from swell.api.service import Service
from swell.api.settings import Backend
from swell.errors import Internal, MethodNotAllowed, NotFound, SwellError, Unavailable
from swell.registry import Scope as KeyScope

_log = structlog.get_logger("swell.api")

_TASKS: Final = "/v1/tasks/"


class Endpoint:
    """Runs one row of the table: key, handler, errors, numbers."""

    __slots__ = (
        "_audit",
        "_handler",
        "_is_operators",
        "_is_probe",
        "_path",
        "_refuse",
        "_scope",
        "_service",
    )

    def __init__(self, service: Service, route: Route) -> None:
        self._service = service
        self._handler = route.handler
        self._scope = route.scope
        self._path = route.public_path
        self._audit = route.audit
        self._refuse = route.refuse or _problem
        self._is_operators = route.scope is KeyScope.ADMIN
        self._is_probe = route.path.startswith("/health/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request over ASGI."""
        call = Call(scope, receive, send, self._service.new_request_id())
        try:
            reply = await self.answer(call)
        except (ClientGone, asyncio.CancelledError):
            # The server cancels what is still open when it stops: nobody is left to be told.
            call.status = CLIENT_GONE
            self._service.requests.log(call, self._path)
            return
        if reply is not None:
            call.status = reply.status
            if reply.lost is not None and call.is_gone():
                await reply.lost()
            await reply.send(call)
        self.count(call)

    async def answer(self, call: Call) -> Reply | None:
        """Return the answer to a request; None where the handler has written it itself.

        Raises:
            ClientGone: There is nobody to answer.
        """
        service = self._service
        service.requests.enter(call)
        if self._scope is not KeyScope.WORKER:
            # One key may be that of many workers, whose reports nobody else sends.
            call.body_queue = service.body_queue
        if service.origins is not None and self._scope is not None:
            # What needs no key says itself who may read it.
            _tell_origin(service.origins, call)
        try:
            if service.hosts is not None and not self._is_probe:
                service.hosts.check(call.header(b"host"))
            if self._scope is not None:
                told = call.header(b"authorization")
                call.key = service.keys.known(told) or await service.keys.find(told)
                check_scope(call.key, self._scope)
                if self._scope is KeyScope.CLIENT:
                    service.limits.check(call)
            reply = await self._handler(service, call)
        except SwellError as error:
            service.metrics.request_refused(error.code)
            reply = self._refuse(call, error)
        except ClientGone:
            raise
        except Exception as error:
            _log_fault(call, error)
            reply = self._refuse(call, Internal())
        if self._audit and reply is not None and (self._is_operators or call.of_others):
            return await self._write_down(call, reply)
        return reply

    async def _write_down(self, call: Call, reply: Reply) -> Reply:
        """Keep what an operator did; return the answer, or that it could not be kept."""
        try:
            await self._service.audit.note(call, self._audit, reply.status)
        except SwellError as error:
            detail = (
                "the request may have been carried out, but the audit log could not be "
                f"written: {error.detail}"
            )
            return self._refuse(call, Unavailable(detail))
        return reply

    def count(self, call: Call) -> None:
        """Note how long a request took that has been answered."""
        service = self._service
        took_s = service.clock.monotonic_s() - call.started_s
        service.metrics.http(call.scope["method"], self._path, call.status).observe(took_s)
        if service.requests.is_logging:
            service.requests.log(call, self._path)


class _Methods:
    """All operations of one path."""

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        self._service = service
        self._endpoints = {route.method: Endpoint(service, route) for route in routes}
        if "GET" in self._endpoints:
            self._endpoints["HEAD"] = self._endpoints["GET"]
        self._allowed = ", ".join(sorted(self._endpoints))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        call = Call(scope, receive, send, self._service.new_request_id())
        self._service.requests.enter(call)
        origins = self._service.origins
        if origins is not None:
            preflight = _preflight(origins, call)
            if preflight is not None:
                await self._service.requests.refuse(call, preflight)
                return
            _tell_origin(origins, call)
        error = MethodNotAllowed(
            f"{call.path} does not take {scope['method'][:20]}: use {self._allowed}",
            headers={"Allow": self._allowed},
        )
        await self._service.requests.refuse(call, _problem(call, error))


class _Elsewhere:
    """Answers paths that lead nowhere."""

    def __init__(self, service: Service, routes: Sequence[Route]) -> None:
        self._service = service
        self._paths = sorted({route.public_path for route in routes})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(scope, receive, send, self._service.new_request_id())
        self._service.requests.enter(call)
        if self._service.origins is not None:
            _tell_origin(self._service.origins, call)
        near = closest(call.path, self._paths, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        error = NotFound(f"no route matches {call.path[:120]}: {hint}GET /docs lists all paths")
        await self._service.requests.refuse(call, _problem(call, error))


class App:
    """The whole service as one ASGI application."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.service = Service(backend, FORMATS, SEALS)
        self._duties = Duties(self.service)
        by_path: dict[str, list[Route]] = {}
        served = served_routes(backend.settings.server.facades)
        for route in served:
            by_path.setdefault(route.path, []).append(route)
        methods = {path: _Methods(self.service, routes) for path, routes in by_path.items()}
        # Looked up first: /v1/dead/replay is not the task `replay`.
        self._fixed = {path: each for path, each in methods.items() if "{" not in path}
        others = [path for path in methods if path not in self._fixed]
        ordered = sorted(others, key=lambda path: path.count("{"))
        routes = [StarletteRoute(path, methods[path]) for path in ordered]
        self._starlette = Starlette(routes=routes)
        self._starlette.router.redirect_slashes = False
        self._starlette.router.default = _Elsewhere(self.service, served)
        self._task = methods["/v1/tasks/{id}"]
        self._events = methods["/v1/tasks/{id}/events"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(FACADES):
                path = scope["path"] = path_meant(path)
            await self._route(path, scope)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            # A WebSocket: nothing here speaks it.
            await send({"type": "websocket.close", "code": 1000})

    def _route(self, path: str, scope: Scope) -> ASGIApp:
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed
        if path.startswith(_TASKS):
            task_id, slash, rest = path[len(_TASKS) :].partition("/")
            if task_id and (not slash or rest == "events"):
                scope["path_params"] = {"id": task_id}
                return self._events if slash else self._task
        return self._starlette

    async def start(self) -> None:
        """Make ready for requests."""
        for hook in self.backend.on_start:
            await hook()
        await self.service.skew.compare()
        await self.service.cards.refresh()
        await self.service.fleet.refresh()
        await self.service.recall_times()
        await register_pipelines(self.service)
        if self.service.hooks is not None:
            await self.service.hooks.endpoints.refresh()
        self._duties.start()
        self.service.is_ready = True

    async def stop(self) -> None:
        """End what `start` began."""
        self.service.is_ready = False
        await self._duties.stop()
        for hook in self.backend.on_stop:
            await hook()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            _log.exception("start failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:
            return  # The loop ends, and did not wait for us.
        try:
            await self.stop()
        except Exception as error:
            _log.exception("stop failed")
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})


def create_app(backend: Backend) -> App:
    """Return the HTTP service over these contracts; serve it with any ASGI server."""
    return App(backend)


def _tell_origin(origins: Origins, call: Call) -> None:
    """Have the answer say whether the page that asks may read it."""
    origin = call.header(b"origin")
    if origin is not None:
        for name, value in origins.headers(origin):
            call.tell(name, value)


def _preflight(origins: Origins, call: Call) -> Reply | None:
    """Return the answer to a browser that asks whether a page may ask; None for anything else."""
    origin = call.header(b"origin")
    asked = call.header(b"access-control-request-method")
    if call.scope["method"] != "OPTIONS" or origin is None or asked is None:
        return None
    headers = origins.preflight(origin)
    return Reply(204, headers=headers) if headers else None


def _problem(call: Call, error: SwellError) -> Reply:
    if error.status >= Internal.status and error.code == Internal.code:
        _log.error("internal error", request_id=call.request_id, detail=error.detail)
    return problem_reply(error, path=call.path, request_id=call.request_id)


def _log_fault(call: Call, error: Exception) -> None:
    _log.error(
        "request failed",
        request_id=call.request_id,
        method=call.scope["method"],
        path=plain_path(call),
        exc_info=error,
    )
