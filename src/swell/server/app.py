"""The ASGI application.

A dictionary finds paths without parameters, and Starlette's patterns find the others. The app uses
no middleware: each open event stream would keep the middleware's frames in memory.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog
from starlette.routing import compile_path

from swell.compat.path_rewrite import VERSIONED, path_meant
from swell.compat.webhook_formats import FORMATS
from swell.core.errors import Internal, MethodNotAllowed, NotFound, SwellError, Unavailable
from swell.core.records import Scope as KeyScope
from swell.server.auth import check_scope
from swell.server.background_jobs import Duties
from swell.server.dependencies import Backend
from swell.server.headers import Origins
from swell.server.models.declared_pipelines import register_pipelines
from swell.server.problem_details import closest, problem_reply
from swell.server.request import Call, ClientGone, Receive, Reply, Scope, Send
from swell.server.request_log import plain_path
from swell.server.route import Route
from swell.server.routes import served_routes
from swell.server.service import Service

_log = structlog.get_logger("swell.api")

#: Status in the log if the client hung up before the answer; never sent.
_CLIENT_GONE: Final = 499


class Endpoint:
    """Answers the requests of one operation: checks the key, runs the handler, counts."""

    def __init__(self, service: Service, route: Route) -> None:
        self._service = service
        self._handler = route.handler
        self._scope = route.scope
        self._path = route.public_path
        self._audit = route.audit
        self._refuse = route.refuse or _problem
        self._is_operators = route.scope is KeyScope.ADMIN
        is_clients = route.scope in (KeyScope.CLIENT, None)
        self._may_create_tasks = is_clients and route.method == "POST"
        self._hosts = None if route.path.startswith("/health/") else service.hosts
        # Operations that need no key say themselves which pages may read them.
        self._origins = None if route.scope is None else service.origins
        # One key may belong to many workers, so their bodies do not wait for each other.
        self._body_queue = None if route.scope is KeyScope.WORKER else service.body_queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request over ASGI."""
        service = self._service
        call = Call(scope, receive, send, service.clock.monotonic_s())
        call.body_queue = self._body_queue
        if self._may_create_tasks and service.traces is not None:
            service.traces.begin(call)
        try:
            reply = await self._answer(call)
            if self._audit and reply is not None and (self._is_operators or call.of_others):
                reply = await self._write_audit(call, reply)
        except (ClientGone, asyncio.CancelledError):
            # A server that stops cancels open requests: no client waits for an answer.
            call.status = _CLIENT_GONE
        else:
            if reply is not None:
                call.status = reply.status
                if reply.lost is not None and call.is_gone():
                    await reply.lost()
                await reply.send(call)
            key = (scope["method"], self._path, call.status)
            took_s = service.clock.monotonic_s() - call.started_s
            service.metrics.observe(key, swell_http_request_seconds=took_s)
        if service.request_log is not None:
            service.request_log.write(call, self._path)

    async def _answer(self, call: Call) -> Reply | None:
        """Return the answer; None if the handler has sent it."""
        service = self._service
        if self._origins is not None:
            _allow_origin(self._origins, call)
        try:
            if self._hosts is not None:
                self._hosts.check(call.headers.get(b"host"))
            if self._scope is not None:
                secret = call.headers.get(b"authorization")
                call.key = call.caller = await service.keys.find(secret)
                if self._scope not in call.caller.scopes:
                    check_scope(call.caller, self._scope)
                if self._scope is KeyScope.CLIENT:
                    service.limits.check(call)
            return await self._handler(service, call)
        except SwellError as error:
            service.metrics.count("swell_requests_refused_total", error.code)
            return self._refuse(call, error)
        except ClientGone:
            raise
        except Exception as error:
            _log.error(
                "request failed",
                request_id=call.request_id,
                method=call.scope["method"],
                path=plain_path(call),
                exc_info=error,
            )
            return self._refuse(call, Internal())

    async def _write_audit(self, call: Call, reply: Reply) -> Reply:
        """Write an operator's request to the audit log; return the answer, or an error."""
        try:
            await self._service.audit.note(call, self._audit, reply.status)
        except SwellError as error:
            detail = (
                "the request may have been carried out, but the audit log could not be "
                f"written: {error.detail}"
            )
            return self._refuse(call, Unavailable(detail))
        return reply


class _NoOperation:
    """Answers the requests for which there is no operation.

    Args:
        service: The backend.
        endpoints: Method → operation of the path; empty for unknown paths.
        paths: All paths, for suggestions.
    """

    def __init__(
        self, service: Service, endpoints: Mapping[str, Endpoint], paths: Sequence[str] = ()
    ) -> None:
        self._service = service
        self._endpoints = endpoints
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        call = Call(scope, receive, send, service.clock.monotonic_s())
        reply = None
        if service.origins is not None:
            reply = _preflight(service.origins, call) if self._endpoints else None
            if reply is None:
                _allow_origin(service.origins, call)
        reply = reply or _problem(call, self._error(call))
        call.status = reply.status
        await reply.send(call)
        if service.request_log is not None:
            service.request_log.write(call, "none")

    def _error(self, call: Call) -> SwellError:
        if not self._endpoints:
            near = closest(call.path, self._paths, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            return NotFound(f"no route matches {call.path[:120]}: {hint}GET /docs lists all paths")
        allowed = ", ".join(sorted(self._endpoints))
        return MethodNotAllowed(
            f"{call.path} does not take {call.scope['method'][:20]}: use {allowed}",
            headers={"Allow": allowed},
        )


class App:
    """The whole service as one ASGI application."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.service = Service(backend, FORMATS)
        self._duties = Duties(self.service)
        served = served_routes(backend.settings.server.facades)
        by_path: dict[str, dict[str, Endpoint]] = {}
        for route in served:
            methods = by_path.setdefault(route.path, {})
            endpoint = methods.setdefault(route.method, Endpoint(self.service, route))
            if route.method == "GET":
                methods["HEAD"] = endpoint
        #: Path without parameters → method → operation.
        self._fixed = {path: methods for path, methods in by_path.items() if "{" not in path}
        #: The same for patterns of paths with parameters: those with fewer first, and among equals
        #: those that take any rest last.
        self._patterns = [
            (compile_path(path)[0], by_path[path])
            for path in sorted(by_path, key=lambda path: (path.count("{"), ":path" in path))
            if "{" in path
        ]
        self._paths = sorted({route.public_path for route in served})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        if scope["type"] == "http":
            if scope["path"].startswith(VERSIONED):
                scope["path"] = path_meant(scope["path"])
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            methods = self._fixed.get(path, {})
            if not methods:
                for pattern, of_pattern in self._patterns:
                    if found := pattern.match(path):
                        scope["path_params"], methods = found.groupdict(), of_pattern
                        break
            endpoint = methods.get(scope["method"])
            answer = endpoint or _NoOperation(self.service, methods, self._paths)
            await answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            # A WebSocket: no operation takes one.
            await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> None:
        """Make ready for requests."""
        for hook in self.backend.on_start:
            await hook()
        await self.service.skew.compare()
        await self.service.cards.refresh()
        await self.service.fleet.refresh()
        await self.service.estimates.load_times()
        await register_pipelines(self.service)
        await self.service.hooks.endpoints.refresh()
        self._duties.start()
        self.service.is_ready = True

    async def stop(self) -> None:
        """Stop background work, and run the hooks of shut-down."""
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


def _allow_origin(origins: Origins, call: Call) -> None:
    """Add the headers that let a browser's page read the answer, if it may."""
    origin = call.headers.get(b"origin")
    if origin is not None:
        for name, value in origins.headers(origin):
            call.add_header(name, value)


def _preflight(origins: Origins, call: Call) -> Reply | None:
    """Return the answer to a CORS preflight request; None for other requests."""
    origin = call.headers.get(b"origin")
    method = call.headers.get(b"access-control-request-method")
    if call.scope["method"] != "OPTIONS" or origin is None or method is None:
        return None
    headers = origins.preflight(origin)
    return Reply(204, headers=headers) if headers else None


def _problem(call: Call, error: SwellError) -> Reply:
    if error.status >= Internal.status and error.code == Internal.code:
        _log.error("internal error", request_id=call.request_id, detail=error.detail)
    return problem_reply(error, path=call.path, request_id=call.request_id)
