"""What stands between a crowd and Swell: it has the key, and the crowd has a cookie.

A page asks its own server, and that asks Swell, so that no key is ever in a browser. Whoever comes
for the first time gets a name, signed, in a cookie that no script can read; tasks are asked for on
behalf of that name, so that users take turns, and nobody sees, follows or removes another's.

    browser ──cookie──▶ front ──key, user──▶ Swell

Pictures are shown the shortest way: Swell's URLs of files are signed and need no key. What is saved
comes through the front, under a name.
"""

import hmac
import json
import mimetypes
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

__all__ = [
    "Front",
    "Refusal",
    "Served",
    "asked_by_page",
    "body_of",
    "name_in",
    "refused",
    "signed",
]

HERE: Final = Path(__file__).parent
COOKIE: Final = "user"
#: A page is known for so long, in seconds: a year.
COOKIE_S: Final = 365 * 86_400
#: What a page may say of a task; all else the front says.
FIELDS: Final = ("model", "input", "count", "seed")
#: Largest request of a page, in bytes: pictures and sounds come as uploads.
MOST_JSON_BYTES: Final = 64 * 1024
MOST_FILE_BYTES: Final = 20 * 1024 * 1024
NO_HEADERS: Final[Mapping[str, str]] = {}


@dataclass(frozen=True)
class Served:
    """The Swell behind an app."""

    url: str
    #: For tasks.
    key: str
    key_id: str
    #: For what only an operator may do, such as granting credits.
    admin_key: str
    #: A folder of the app's own, which stays.
    folder: Path


class Refusal(Exception):
    """A page asked for what it may not have."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


# --- pure


def signed(name: str, secret: bytes) -> str:
    """Return a name that nobody else can make up."""
    return f"{name}.{hmac.digest(secret, name.encode(), 'sha256').hex()}"


def name_in(cookie: str | None, secret: bytes) -> str | None:
    """Return the name in a cookie; None where it is not one of ours."""
    name, _, _ = (cookie or "").partition(".")
    return name if cookie and hmac.compare_digest(cookie, signed(name, secret)) else None


def asked_by_page(body: bytes, models: Collection[str], user: str) -> dict[str, Any]:
    """Return the task that a page asks for, on behalf of its user.

    Raises:
        Refusal: It is no task, or of a model that is not the app's.
    """
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise Refusal(400, 'send JSON such as {"model": "…", "input": {…}}')
    if said.get("model") not in models:
        raise Refusal(403, f"this app has {', '.join(sorted(models))}")
    return {name: said[name] for name in FIELDS if name in said} | {"user": user}


# --- the front


class Front:
    """An app's server: its page, and those of Swell's paths that a page may use.

    Args:
        served: The Swell behind it.
        page: Folder with the app's `index.html`.
        models: What its page may ask for.
        routes: The app's own, which come first.
    """

    def __init__(
        self, served: Served, page: Path, models: Collection[str], routes: Sequence[Route] = ()
    ) -> None:
        self.served = served
        self._models = frozenset(models)
        self._secret = _kept_secret(served.folder / "cookies.secret")
        self._http: aiohttp.ClientSession | None = None
        self.app = Starlette(
            routes=[
                *routes,
                Route("/tasks", self._submit, methods=["POST"]),
                Route("/tasks", self._list),
                Route("/tasks/{id}", self._get),
                Route("/tasks/{id}", self._remove, methods=["DELETE"]),
                Route("/tasks/{id}/events", self._events),
                Route("/tasks/{id}/files/{index:int}", self._file),
                Route("/tasks/{id}/cancel", self._cancel, methods=["POST"]),
                Route("/uploads", self._upload, methods=["POST"]),
                Route("/styles", self._styles),
                Route("/models/{owner}/{name}", self._model),
                Mount("/shared", StaticFiles(directory=HERE / "page")),
                Mount("/", StaticFiles(directory=page, html=True)),
            ],
            lifespan=self._open,
            exception_handlers={Refusal: refused},
        )
        self.app.add_middleware(_Named, secret=self._secret)

    @asynccontextmanager
    async def _open(self, _: Starlette) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with aiohttp.ClientSession(self.served.url, timeout=timeout) as self._http:
            await self.opened()
            yield

    async def opened(self) -> None:
        """Do what an app does before it answers anybody."""

    async def ask(
        self,
        method: str,
        path: str,
        *,
        is_admin: bool = False,
        headers: Mapping[str, str] = NO_HEADERS,
        **sent: Any,
    ) -> tuple[int, Any]:
        """Ask Swell; return the status and what it says."""
        assert self._http is not None, "the app has started"
        async with self._http.request(
            method, path, headers={**headers, **self._key(is_admin)}, **sent
        ) as answer:
            return answer.status, await answer.json()

    def _key(self, is_admin: bool = False) -> Mapping[str, str]:
        key = self.served.admin_key if is_admin else self.served.key
        return {"Authorization": f"Bearer {key}"}

    async def submit(self, task: dict[str, Any]) -> tuple[int, Any]:
        """Ask for the task that a page asks for; apps add what is theirs."""
        return await self.ask("POST", "/v1/tasks", json=task)

    async def _submit(self, request: Request) -> Response:
        body = await body_of(request, MOST_JSON_BYTES)
        task = asked_by_page(body, self._models, request.state.user)
        return _answer(*await self.submit(task))

    async def _list(self, request: Request) -> Response:
        query = {"user": request.state.user, "limit": "50"}
        return _answer(*await self.ask("GET", "/v1/tasks", params=query))

    async def _get(self, request: Request) -> Response:
        return _answer(200, await self._own(request))

    async def _cancel(self, request: Request) -> Response:
        task = await self._own(request)
        return _answer(*await self.ask("POST", f"/v1/tasks/{task['id']}/cancel"))

    async def _remove(self, request: Request) -> Response:
        """Remove what a task took and made, and the files of both."""
        task = await self._own(request)
        return _answer(*await self.ask("DELETE", f"/v1/tasks/{task['id']}"))

    async def _events(self, request: Request) -> Response:
        task = await self._own(request)
        seen = request.headers.get("last-event-id")
        headers = self._key() if seen is None else {**self._key(), "Last-Event-ID": seen}
        return StreamingResponse(
            self._read(f"/v1/tasks/{task['id']}/events", headers),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    async def _file(self, request: Request) -> Response:
        """Give a file of a task to be saved, as the task's id and what kind of file it is."""
        task, index = await self._own(request), request.path_params["index"]
        if index >= len(task["artifacts"]):
            raise Refusal(404, "the task has no such file")
        file = task["artifacts"][index]
        ending = mimetypes.guess_extension(file["content_type"]) or ""
        name = f"{task['id']}-{index + 1}{ending}"
        return StreamingResponse(
            self._read(file["url"], {}),
            media_type=file["content_type"],
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    async def _read(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        assert self._http is not None, "the app has started"
        async with self._http.get(url, headers=headers) as answer:
            answer.raise_for_status()
            async for part in answer.content.iter_any():
                yield part

    async def _upload(self, request: Request) -> Response:
        body = await body_of(request, MOST_FILE_BYTES)
        kind = {"Content-Type": request.headers.get("content-type", "application/octet-stream")}
        return _answer(*await self.ask("POST", "/v1/uploads", data=body, headers=kind))

    async def _styles(self, _: Request) -> Response:
        return _answer(*await self.ask("GET", "/v1/styles"))

    async def _model(self, request: Request) -> Response:
        """Tell of one of the app's models: its card, and the schema that a form is made of."""
        name = f"{request.path_params['owner']}/{request.path_params['name']}"
        if name not in self._models:
            raise Refusal(404, f"this app has {', '.join(sorted(self._models))}")
        return _answer(*await self.ask("GET", f"/v1/models/{name}"))

    async def _own(self, request: Request) -> dict[str, Any]:
        """Return a task of whoever asks.

        Raises:
            Refusal: There is none.
        """
        status, task = await self.ask("GET", f"/v1/tasks/{request.path_params['id']}")
        if status != 200 or task["user"] != request.state.user:
            raise Refusal(404, "you have no such task")
        found: dict[str, Any] = task
        return found


class _Named:
    """Gives whoever comes a name, and a cookie where there is none yet."""

    def __init__(self, app: Any, secret: bytes) -> None:
        self._app, self._secret = app, secret

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        known = name_in(request.cookies.get(COOKIE), self._secret)
        name = known or secrets.token_hex(12)
        request.state.user = name
        cookie = (
            f"{COOKIE}={signed(name, self._secret)}; Path=/; Max-Age={COOKIE_S}; HttpOnly; "
            f"SameSite=Lax{'; Secure' if scope['scheme'] == 'https' else ''}"
        )

        async def named(message: Any) -> None:
            if message["type"] == "http.response.start" and known is None:
                message["headers"] = [*message["headers"], (b"set-cookie", cookie.encode())]
            await send(message)

        await self._app(scope, receive, named)


async def body_of(request: Request, most_bytes: int) -> bytes:
    """Return a body, read no further than it may be long.

    Raises:
        Refusal: It is longer.
    """
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most_bytes:
            raise Refusal(413, f"this takes {most_bytes:,} bytes at most")
        parts.append(part)
    return b"".join(parts)


def _answer(status: int, said: Any) -> Response:
    return JSONResponse(said, status_code=status)


async def refused(_: Request, error: Exception) -> Response:
    """Tell a refusal, as Starlette has handlers do."""
    assert isinstance(error, Refusal)
    return _answer(error.status, {"status": error.status, "detail": error.detail})


def _kept_secret(path: Path) -> bytes:
    """Return the secret that cookies are signed with, made at the first start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_bytes(32))
    return path.read_bytes()
