"""A small server that speaks as the Hugging Face Hub does, with a store of its own at another name.

What it says is what huggingface_hub 2.4 reads and what the Hub documents: commits by branch, pages
of a tree, `resolve` with `X-Repo-Commit`, `X-Linked-Etag` and `X-Linked-Size`. Large files lead to
a store by a signed address, where tokens are refused; small ones lead to the hub's own cache and
may come packed. A gated repository tells everybody what it has, and gives files to those who may
read them. A thread of its own serves it, since that client blocks.

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

#: Files a page.
PAGE = 2


def is_large(path: Path) -> bool:
    return path.suffix in (".safetensors", ".bin", ".onnx")


@dataclass
class Repository:
    """One repository: folders by commit, and the commits of branches and tags."""

    commits: dict[str, Path]
    branches: dict[str, str]
    #: Needed for the files; empty for everybody.
    token: str = ""
    #: Whether those without the token do not even hear that it exists.
    is_private: bool = False
    #: Tokens of people who have not accepted the licence.
    unaccepted: frozenset[str] = frozenset()
    is_xet: bool = False


@dataclass
class HubServer:
    """The hub, what was asked of it, and what is to go wrong."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    #: New names of repositories that were moved.
    moved: dict[str, str] = field(default_factory=dict)
    url: str = ""
    store: str = ""
    #: Method, path and `Authorization` of each request, to the hub and to the store.
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    stored: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    #: Break the connection after so many bytes, one entry per answer of the store.
    breaks: list[int] = field(default_factory=list)
    #: Answer with these statuses first, per request of the hub.
    statuses: list[int] = field(default_factory=list)
    #: So many signed addresses have run out when they are used.
    expired: int = 0
    #: Whether small files come packed even to whoever did not ask for it.
    always_packs: bool = False
    #: Called after each page of a tree.
    on_tree: Callable[[], Any] = lambda: None
    #: What pages of a tree say the hub's address is; empty for its own.
    told_url: str = ""
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
            for runner in runners:
                asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    async def _start(self) -> list[web.AppRunner]:
        hub, store = web.Application(middlewares=[self._noted]), web.Application()
        hub.router.add_get("/api/models/{owner}/{name}", self._about)
        hub.router.add_get("/api/models/{owner}/{name}/revision/{revision}", self._about)
        hub.router.add_get("/api/models/{owner}/{name}/tree/{revision}", self._tree)
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
        """Return an error as the hub tells it: its code in a header."""
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
            # Nobody is told whether a private repository exists.
            status = 404 if token else 401
            return self._refused(status, "RepoNotFound", "Repository not found")
        revision = request.match_info.get("revision") or request.match_info.get("commit") or "main"
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self._refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name, repository, commit

    def _closed(self, request: web.Request, name: str) -> web.Response | None:
        """Return why the files of a repository are not for whoever asks."""
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
        files = sorted(p for p in repository.commits[commit].rglob("*") if p.is_file())
        names = [path.relative_to(repository.commits[commit]).as_posix() for path in files]
        told = {
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
            "siblings": [{"rfilename": each} for each in names],
        }
        return web.json_response(told)

    async def _tree(self, request: web.Request) -> web.Response:
        found = self._found(request)
        if isinstance(found, web.Response):
            return found
        _, repository, commit = found
        folder = repository.commits[commit]
        entries: list[dict[str, Any]] = []
        for path in sorted(folder.rglob("*")):
            told = {"path": path.relative_to(folder).as_posix(), "size": 0, "type": "directory"}
            if path.is_file():
                content = path.read_bytes()
                told |= {"type": "file", "size": len(content), "oid": blob_of(content)}
                if is_large(path):
                    told["lfs"] = {
                        "oid": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 134,
                    }
                    if repository.is_xet:
                        told["xetHash"] = hashlib.blake2s(content).hexdigest()
            else:
                told["oid"] = "0" * 40
            entries.append(told)
        at = int(request.query.get("cursor", 0))
        headers = {}
        if at + PAGE < len(entries):
            following = request.rel_url.update_query(cursor=str(at + PAGE))
            headers["Link"] = f'<{self.told_url or self.url}{following}>; rel="next"'
        self.on_tree()
        return web.json_response(entries[at : at + PAGE], headers=headers)

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
        if repository.is_xet:
            headers["X-Xet-Hash"] = hashlib.blake2s(content).hexdigest()
            route = f"{self.url}/api/models/{name}/xet-read-token/{commit}"
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
            # What is packed on the way has another size, and no strong tag.
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


def blob_of(content: bytes) -> str:
    """Return the name that git gives a content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
