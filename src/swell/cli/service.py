"""Runs the backend in this process: opens it, listens, and closes it in order."""

import asyncio
import contextlib
import dataclasses
import errno
import gc
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import uvicorn

from swell.bootstrap.autoscaler import pool_models
from swell.bootstrap.backend import build_backend, close_backend
from swell.bootstrap.data_folder import lock_data
from swell.cli.added import names_of
from swell.cli.keyring import keep_local_key
from swell.cli.options import is_loopback
from swell.cli.output import CommandFailed, talk
from swell.cli.tally import Tally
from swell.cli.tls import ServerTls, open_tls
from swell.client.access import forget_server
from swell.core.background_tasks import keep_running
from swell.core.clock import Clock
from swell.server.app import App, create_app
from swell.server.dependencies import Backend
from swell.server.paced_accept import PacedServer
from swell.server.uvicorn_guard import GuardedProtocol, guarded_protocol
from swell.settings.load import Settings

#: Connections that may wait to be accepted; many clients may connect at once.
_BACKLOG = 4096

#: Number of ports to try after the default one, if no port is configured.
_PORTS_TRIED = 100

#: After hanging up on clients, requests have this many ticks to end before they are cancelled.
_HANG_UP_TICKS = 10
_TICK_S = 0.1

#: Browsers use only TLS for a year. Not sent with a self-signed certificate: it would apply to
#: every service at `localhost`.
_ONLY_TLS = ("strict-transport-security", "max-age=31536000")

#: Longest time for the application to stop after that, in seconds.
_STOP_S = 5.0


class Interrupts:
    """SIGINT and SIGTERM: the first asks for a graceful stop, the second for an immediate one."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def install(self) -> None:
        """Install the signal handlers in the running loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._take)

    def _take(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, because `Service.stop` stops parts in order.

    Args:
        config: The configuration of uvicorn.
        shared: The socket, if other processes also accept from it.
    """

    def __init__(self, config: uvicorn.Config, shared: socket.socket | None) -> None:
        super().__init__(config)
        self._shared = shared

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, and listen."""
        if self._shared is None:
            await super().startup(sockets)
            return
        await super().startup([])
        protocol = partial(
            cast("type[GuardedProtocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        n_open = self.server_state.connections.__len__
        paced = PacedServer(self._shared, protocol, n_open, self.config.ssl)
        self.servers = [cast("asyncio.Server", paced)]


class Service:
    """A running backend.

    Args:
        backend: Parts of the backend.
        url: URL for clients.
        local_url: URL of the listening socket.
        server: The started HTTP server.
        serving: Task that ends with the server.
        tls: The certificate; None without TLS.
    """

    def __init__(
        self,
        backend: Backend,
        url: str,
        local_url: str,
        server: uvicorn.Server,
        serving: "asyncio.Task[None]",
        tls: ServerTls | None = None,
    ) -> None:
        self.tls = tls
        self.backend = backend
        self.url = url
        self.local_url = local_url
        self.serving = serving
        self._server = server

    @property
    def app(self) -> App:
        """The ASGI application."""
        app = self._server.config.app
        assert isinstance(app, App), "it was made so"
        return app

    @property
    def ca_file(self) -> str:
        """File of the certificate, for clients on this machine; empty without TLS."""
        return "" if self.tls is None else str(self.tls.cert.absolute())

    async def stop(self, hurry: asyncio.Event) -> None:
        """Stop listening, and let open requests end; hang up when `hurry` is set."""
        self._server.should_exit = True
        insisted = asyncio.create_task(hurry.wait())
        await asyncio.wait({self.serving, insisted}, timeout=0.3)
        # End event streams now; clients can reopen them at another server.
        self.backend.bus.end()
        await asyncio.wait({self.serving, insisted}, return_when=asyncio.FIRST_COMPLETED)
        insisted.cancel()
        if not self.serving.done():
            await self._end_requests()
        with contextlib.suppress(asyncio.CancelledError):
            await self.serving

    async def _end_requests(self) -> None:
        """Hang up on all clients, and give the application a short time to shut down.

        uvicorn's `force_exit` is not used because it skips the application's shutdown.
        """
        state = self._server.server_state
        for _ in range(_HANG_UP_TICKS):
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.wait({self.serving}, timeout=_TICK_S)
            if self.serving.done():
                return
        for task in list(state.tasks):
            task.cancel()
        await asyncio.wait({self.serving}, timeout=_STOP_S)
        self.serving.cancel()


@asynccontextmanager
async def open_service(
    settings: Settings,
    clock: Clock,
    *,
    hurry: asyncio.Event,
    shared: socket.socket | None = None,
    tally: Tally | None = None,
) -> AsyncIterator[Service]:
    """Run the backend while the block runs.

    Args:
        settings: The settings.
        clock: The time.
        hurry: Set to hang up on open requests.
        shared: The socket to listen on, if other processes also accept from it.
        tally: Adds the metrics of other processes.

    Raises:
        Conflict: Another backend runs on the same data folder.
        CommandFailed: The port is taken, or the server did not start.
    """
    _allow_many_connections()
    # If processes share a port, their parent holds the lock of the folder.
    with locked_folder(settings) if shared is None else contextlib.nullcontext():
        listener = listen(settings) if shared is None else shared
        models = launchable_models(settings)
        backend = await build_backend(settings, clock, launchable=lambda: models)
        if tally is not None:
            backend = dataclasses.replace(backend, together=tally.together)
        try:
            tls = await open_tls(settings, clock)
            server = _Server(_config(settings, backend, tls), shared)
            local_url = local_url_of(listener, is_tls=tls is not None)
            serving = await _serving(server, listener)
            service = Service(backend, url_of(settings, local_url), local_url, server, serving, tls)
            loops = {}
            if tls is not None:
                loops["tls"] = partial(tls.watch, clock)
            if backend.is_shared:
                loops["local_key"] = partial(keep_local_key, backend, settings.data_dir)
            beside = [
                asyncio.create_task(keep_running(loop, clock, name=name))
                for name, loop in loops.items()
            ]
            try:
                yield service
            finally:
                for each in beside:
                    each.cancel()
                await service.stop(hurry)
        finally:
            await close_backend(backend)
            listener.close()


@contextlib.contextmanager
def locked_folder(settings: Settings) -> Iterator[None]:
    """Lock the data folder while the block runs, and remove a stale server URL from it.

    Raises:
        AlreadyRunning: Another backend holds the lock.
        Unusable: The folder cannot be written.
    """
    with lock_data(settings.data_dir):
        try:
            _forget_server(settings)
            yield
        finally:
            _forget_server(settings)


def _forget_server(settings: Settings) -> None:
    with contextlib.suppress(OSError):  # a full disk; the next start overwrites it
        forget_server(settings.data_dir)


def launchable_models(settings: Settings) -> list[str]:
    """Return the names of the models that workers of this machine or of pools can serve."""
    own = [] if settings.pool.workers == 0 else names_of(settings)
    return list(dict.fromkeys([*own, *pool_models(settings)]))


def _config(settings: Settings, backend: Backend, tls: ServerTls | None) -> uvicorn.Config:
    timeouts = settings.server.head_timeout_s, settings.server.body_timeout_s
    return uvicorn.Config(
        create_app(backend),
        http=guarded_protocol(*timeouts),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        # Longer than clients keep idle connections, so that the client closes them.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(settings.server.drain_s)),
        backlog=_BACKLOG,
        ssl_context_factory=None if tls is None else lambda config, default: tls.context,
        headers=[] if tls is None or tls.is_self_signed else [_ONLY_TLS],
    )


async def _serving(server: uvicorn.Server, listener: socket.socket) -> "asyncio.Task[None]":
    """Start a server, and return a task that ends with it."""
    _collect_rarely()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if serving.done():
            await serving
            raise CommandFailed("the HTTP service did not start: its log above says why")
        await asyncio.sleep(0.005)
    return serving


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens on the configured address.

    On a loopback address without a configured port, it takes the next free port if 8000 is taken.

    Raises:
        CommandFailed: The address is not available.
    """
    host, port = settings.server.host, settings.server.port
    is_named = "port" in settings.server.model_fields_set or not is_loopback(host)
    last = port if is_named else port + _PORTS_TRIED
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for number in range(port, last + 1):
        try:
            listener.bind((host, number))
            break
        except OSError as error:
            if error.errno == errno.EADDRINUSE and number < last:
                continue
            listener.close()
            raise CommandFailed(
                f"cannot listen on {host}:{number} ({error.strerror}): choose another port with "
                "--port, or --port 0 for a free one"
            ) from error
    if number != port:
        talk.print(f"Port {port} is taken by another program: using {number}")
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    return listener


def url_of(settings: Settings, local_url: str) -> str:
    """Return the URL for clients: `server.public_url`, or else the local one."""
    return (settings.server.public_url or local_url).rstrip("/")


def local_url_of(listener: socket.socket, *, is_tls: bool) -> str:
    """Return the URL of a listening socket on this machine."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if is_tls else "http"
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return (
        f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"
    )


def _collect_rarely() -> None:
    """Exclude long-lived objects from garbage collection, and run it less often.

    Few objects here are cyclic, and the default thresholds start a collection every few requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _allow_many_connections() -> None:
    """Raise the limit of file descriptors: every open event stream needs one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
