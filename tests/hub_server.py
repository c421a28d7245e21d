"""A small Hugging Face Hub with a store for large files.

It answers what huggingface_hub 2.4 asks and what the Hub documents: a revision's commit and files,
and `resolve` with `X-Repo-Commit`, `X-Linked-Etag` and `X-Linked-Size`. Large files lead to a store
by a signed URL, where tokens are refused, or to Xet storage in a folder; small ones lead to the
hub's own cache and may come packed. A gated repository lists its files to all, and gives them to
those who may read them. A separate thread serves it, since the client blocks.

Source: https://huggingface.co/docs/hub/api, https://huggingface.co/docs/xet/file-id.
"""

import asyncio
import contextlib
import gzip
import hashlib
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web


def is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".onnx")


@dataclass
class Repository:
    """One repository: folders by commit, and the commits of branches and tags."""

    commits: dict[str, Path]
    branches: dict[str, str]
    #: Needed for the files; empty where all may read them.
    token: str = ""
    #: Whether its existence is hidden from those without the token.
    is_private: bool = False
    #: Tokens of people who have not accepted the licence.
    unaccepted: frozenset[str] = frozenset()
    #: Folder of Xet storage that has its large files.
    xet: Path | None = None


@dataclass
class HubServer:
    """The hub, the requests it got, and the failures it plays."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    #: New names of repositories that were moved.
    moved: dict[str, str] = field(default_factory=dict)
    url: str = ""
    store: str = ""
    #: Method, path and `Authorization` of each request, to the hub and to the store.
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    stored: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    #: Break the connection after this number of bytes, one entry per answer of the store.
    breaks: list[int] = field(default_factory=list)
    #: Answer with these statuses first, per request of the hub.
    statuses: list[int] = field(default_factory=list)
    #: Number of signed addresses that have expired when they are used.
    expired: int = 0
    #: Whether small files come packed even to clients that did not ask for it.
    always_packs: bool = False
    #: Called after files were listed.
    on_listed: Callable[[], Any] = lambda: None
    #: Address that the hub gives as its own; empty for the right one.
    told_url: str = ""
    #: What tokens for Xet storage were asked with.
    xet_tokens: list[str | None] = field(default_factory=list)
    _signed: dict[str, Path] = field(default_factory=dict)

    @contextlib.contextmanager
    def serve(self) -> Iterator["HubServer"]:
        """Serve the hub and its store on two ports of this machine."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        runners = asyncio.run_coroutine_threadsafe(self._start(), loop).result(10)
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(_stop(runners), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _start(self) -> list[web.AppRunner]:
        hub, store = web.Application(middlewares=[self._noted]), web.Application()
        hub.router.add_get("/api/models/{owner}/{name}", self._about)
        hub.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._about)
        hub.router.add_get("/api/models/{owner}/{name}/xet-read-token/{revision}", self._xet_token)
        hub.router.add_get("/{owner}/{name}/resolve/{revision}/{path:.+}", self._resolve)
        hub.router.add_get("/api/resolve-cache/{owner}/{name}/{commit}/{path:.+}", self._small)
        store.router.add_get("/{key}", self._large)
        runners = [web.AppRunner(app) for app in (hub, store)]
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runners[0].addresses[0][1]}"
        self.store = f"http://localhost:{runners[1].addresses[0][1]}"
        return runners

    @web.middleware
    async def _noted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.asked.append((request.method, request.path, request.headers.get("Authorization")))
        if self.statuses:
            return web.Response(status=self.statuses.pop(0))
        answer: web.StreamResponse = await handler(request)
        return answer

    def _refused(self, status: int, code: str, message: str) -> web.Response:
        """Return an error in the hub's form: its code in a header."""
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        return web.json_response({"error": message}, status=status, headers=headers)

    def _found(self, request: web.Request) -> tuple[str, Repository, str] | web.Response:
        """Return the name, the repository and the commit that are asked for, or why not."""
        name = f"{request.match_info['owner']}/{request.match_info['name']}"
        if name in self.moved:
            place = str(request.rel_url).replace(name, self.moved[name], 1)
            return web.Response(status=307, headers={"Location": place})
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        repository = self.repositories.get(name)
        if repository is None or (repository.is_private and token != repository.token):
            # The answer does not show whether a private repository exists.
            status = 404 if token else 401
            return self._refused(status, "RepoNotFound", "Repository not found")
        revision = request.match_info.get("revision") or request.match_info.get("commit") or "main"
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self._refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name, repository, commit

    def _closed(self, request: web.Request, name: str) -> web.Response | None:
        """Return the refusal of a repository's files; None where they may be read."""
        repository = self.repositories[name]
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not repository.token or token == repository.token:
            return None
        status = 403 if token in repository.unaccepted else 401
        return self._refused(status, "GatedRepo", f"Access to model {name} is restricted.")

    async def _about(self, request: web.Request) -> web.Response:
        found = self._found(request)
        if isinstance(found, web.Response):
            return found
        name, repository, commit = found
        folder = repository.commits[commit]
        siblings: list[dict[str, Any]] = []
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            entry: dict[str, Any] = {"rfilename": path.relative_to(folder).as_posix()}
            content = path.read_bytes()
            if "blobs" in request.query:
                entry |= {"size": len(content), "blobId": blob_of(content)}
            if "blobs" in request.query and is_large(path):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        self.on_listed()
        about = {
            "_id": "0" * 24,
            "id": name,
            "modelId": name,
            "sha": commit,
            "private": False,
            "gated": "auto" if repository.token else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": ["diffusers"],
            "siblings": siblings,
        }
        return web.json_response(about)

    async def _xet_token(self, request: web.Request) -> web.Response:
        found = self._found(request)
        if isinstance(found, web.Response):
            return found
        name, repository, _ = found
        if closed := self._closed(request, name):
            return closed
        self.xet_tokens.append(request.headers.get("Authorization"))
        entry = {"casUrl": f"local://{repository.xet}", "accessToken": "xet", "exp": 1 << 40}
        return web.json_response(entry)

    async def _resolve(self, request: web.Request) -> web.Response:
        found = self._found(request)
        if isinstance(found, web.Response):
            return found
        name, repository, commit = found
        if closed := self._closed(request, name):
            return closed
        path = repository.commits[commit] / request.match_info["path"]
        if not path.is_file():
            refused = self._refused(404, "EntryNotFound", "Entry not found")
            refused.headers["X-Repo-Commit"] = commit
            return refused
        content = path.read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Size": str(len(content)),
            "Accept-Ranges": "bytes",
        }
        if not is_large(path):
            headers["X-Linked-Etag"] = f'"{blob_of(content)}"'
            place = f"/api/resolve-cache/{name}/{commit}/{request.match_info['path']}"
            return web.Response(status=307, headers=headers | {"Location": place})
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        if repository.xet is not None:
            headers["X-Xet-Hash"] = await asyncio.to_thread(_stored, repository.xet, content)
            route = f"{self.told_url or self.url}/api/models/{name}/xet-read-token/{commit}"
            headers["Link"] = f'<{route}>; rel="xet-auth"'
        key = secrets.token_hex(8)
        self._signed[key] = path
        place = f"{self.store}/{key}?X-Amz-Signature={secrets.token_hex(8)}"
        return web.Response(status=302, headers=headers | {"Location": place})

    async def _small(self, request: web.Request) -> web.Response:
        found = self._found(request)
        if isinstance(found, web.Response):
            return found
        name, repository, commit = found
        if closed := self._closed(request, name):
            return closed
        content = (repository.commits[commit] / request.match_info["path"]).read_bytes()
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{blob_of(content)}"',
            "Content-Disposition": "inline",
        }
        if self.always_packs or "gzip" in request.headers.get("Accept-Encoding", ""):
            # A body that is packed on the way has another size, and no strong tag.
            headers |= {"Content-Encoding": "gzip", "ETag": f'W/"{blob_of(content)}"'}
            content = gzip.compress(content)
        return web.Response(body=content, headers=headers)

    async def _large(self, request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        token = request.headers.get("Authorization")
        self.stored.append((request.method, wanted, token))
        if token is not None:
            return web.Response(status=400, text="Only one auth mechanism allowed")
        path = self._signed.get(request.match_info["key"])
        if self.expired:
            self.expired, path = self.expired - 1, None
        if path is None:
            return web.Response(status=403, text="Request has expired")
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "Accept-Ranges": "bytes"}
        start = 0
        if wanted and request.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                headers["Content-Range"] = f"bytes */{len(content)}"
                return web.Response(status=416, headers=headers)
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if start else 200, headers=headers)
        response.content_length = len(content) - start
        await response.prepare(request)
        limit = self.breaks.pop(0) if self.breaks else len(content)
        await response.write(content[start : start + limit])
        if start + limit < len(content):
            assert request.transport is not None
            request.transport.close()
        return response


async def _stop(runners: list[web.AppRunner]) -> None:
    servers = [runner.server for runner in runners]
    for runner in runners:
        await runner.cleanup()
    # Clients may have connected during the cleanup, or not have read everything yet.
    await asyncio.sleep(0.02)
    for server in servers:
        assert server is not None
        await server.shutdown(0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    # Connections that no server knows yet, or no longer.
    for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
        transport.abort()
    # Aborted transports release their sockets before the loop ends.
    await asyncio.sleep(0.01)


def _stored(folder: Path, content: bytes) -> str:
    """Put a content into Xet storage; return its name there."""
    import hf_xet  # noqa: PLC0415

    with hf_xet.XetSession().new_upload_commit(endpoint=f"local://{folder}") as commit:
        upload = commit.start_upload_bytes(content, hf_xet.SKIP_SHA256)
    name: str = upload.result().xet_info.hash
    return name


def blob_of(content: bytes) -> str:
    """Return the name that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
