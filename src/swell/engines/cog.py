"""Models packed by cog: from an image, a running server, or a project's folder.

Name one in a file of models:

    from swell.engines import cog

    Theirs = cog.image("owner/name", "r8.example/owner/name@sha256:…")
    Other = cog.server("owner/other", "http://127.0.0.1:5000")
    Third = cog.program("owner/third", "python", "-m", "cog.server.http", folder="third")

The schema of the image is the schema of the model: fields, bounds, choices, defaults, files.
"""

import asyncio
import hashlib
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import aiohttp

from swell.core.errors import InvalidModel
from swell.engines.cog_schema import CogSchema
from swell.engines.cog_server import (
    AT_ONCE,
    ContainerOptions,
    Running,
    Server,
    ServerFailed,
    There,
    at_once,
    inspect_image,
    read_json,
    start_container,
    start_program,
)
from swell.engines.external_api import logged_progress, plain_of
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.model import Batch, Model

__all__ = ["CogModel", "ContainerOptions", "image", "program", "server"]

#: Interval of checks for cancellation and progress, in seconds.
_LOOK_S: Final = 0.25
_PROGRESS_S: Final = 0.5

#: Longest wait for a server that is busy with another task, in seconds.
_BUSY_S: Final = 600.0

#: Largest accepted response, in bytes; outputs are embedded in it.
_MOST_BYTES: Final = 512 * 1024**2

#: A version covers the content of project files up to this size, in bytes. Of larger files, which
#: are weights, it covers the name and the size.
_MOST_HASHED_BYTES: Final = 64 * 1024**2

#: Generated folders of a project.
_PASSING: Final = frozenset({".git", "__pycache__", ".venv"})

#: An input that every schema rejects. It polls a prediction, and never starts one.
_NO_INPUT: Final = {"input": 5}


_PLAINLY: Final = ContainerOptions()


class CogModel(Model):
    """A model behind a cog server. Made by `image`, `server` and `program`."""

    #: Starts the server for a device.
    start: ClassVar[Callable[[str], Running]]
    schema: ClassVar[CogSchema]
    #: How long its setup may take, in seconds.
    setup_timeout_s: ClassVar[float] = 1800.0
    #: How long one prediction may take, in seconds.
    timeout_s: ClassVar[float] = 3600.0

    def load(self, device: str) -> None:
        """Start the server, and wait until it takes predictions.

        Raises:
            ServerFailed: The server does not start.
        """
        self._device = device
        self._server = self._begin()

    def offload(self) -> int:
        """Stop the server, if Swell started it. Nothing of it stays in this process."""
        self._server.stop()
        return 0

    def onload(self) -> None:
        """Start the server again.

        Raises:
            ServerFailed: The server does not start.
        """
        self._server = self._begin()

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Request all samples concurrently; each gets its result or its error."""
        if (why := self._server.why_broken()) is not None:
            self._server.stop()
            try:
                self._server = self._begin()
            except ServerFailed as error:
                again = ServerFailed(f"{self.name} had to be started again ({why}): {error}")
                again.__cause__ = error
                # Raising it would retry with fewer items, and each retry would wait as long.
                return [again] * len(items)
        return asyncio.run(self._run_all(items))

    def _begin(self) -> Server:
        server = Server(self.name, type(self).start(self._device))
        try:
            server.wait(self.setup_timeout_s)
        except BaseException:
            server.stop()
            raise
        #: Whether predictions can be polled: without a schema the server accepts any input.
        self._tells = server.openapi() is not None
        return server

    async def _run_all(self, items: list[Item[Any]]) -> list[Any]:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=15)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            asked = (self._run_one(session, item) for item in items)
            return await asyncio.gather(*asked, return_exceptions=True)

    async def _run_one(self, session: aiohttp.ClientSession, item: Item[Any]) -> Any:
        """Request one sample; stop if the task is cancelled."""
        where = f"{self._server.url}/predictions/{uuid.uuid4().hex}"
        asking = asyncio.ensure_future(self._ask(session, where, item))
        looking = asyncio.ensure_future(self._watch(session, where, item))
        try:
            while not asking.done():
                if item.cancelled:
                    await self._cancel(session, where)
                    raise Cancelled
                await asyncio.wait([asking], timeout=_LOOK_S)
            return asking.result()
        finally:
            # The server also stops a prediction when its client disconnects.
            asking.cancel()
            looking.cancel()
            await asyncio.gather(asking, looking, return_exceptions=True)

    async def _ask(self, session: aiohttp.ClientSession, where: str, item: Item[Any]) -> Any:
        body = {"input": self._asked(item)}
        until_s = asyncio.get_running_loop().time() + _BUSY_S
        while True:
            status, said = await _put(session, where, body)
            if status != 409 or asyncio.get_running_loop().time() > until_s:
                break
            # The server is busy; the prediction has not started.
            await asyncio.sleep(_LOOK_S)
        return self._outcome(status, said)

    def _asked(self, item: Item[Any]) -> dict[str, Any]:
        asked: dict[str, Any] = item.input.model_dump(mode="python", by_alias=True)
        if "seed" in type(item.input).model_fields:
            own, most = asked.get("seed"), self.schema.largest_seed
            seed = item.seed if own is None else own + item.index
            asked["seed"] = seed if most is None else seed % (most + 1)
        plain: dict[str, Any] = plain_of({k: v for k, v in asked.items() if v is not None})
        return plain

    def _outcome(self, status: int, said: Any) -> Any:
        words = _words_of(said)
        if status == 422:
            raise Reject(f"{self.name} refuses this input: {words}")
        if status >= 300 or not isinstance(said, dict):
            raise ServerFailed(f"the server of {self.name} answered {status}: {words}")
        if said.get("status") == "canceled":
            raise Cancelled
        if said.get("status") != "succeeded":
            raise RuntimeError(f"{self.name} failed: {words}")
        return self.schema.output(said.get("output"))

    async def _watch(self, session: aiohttp.ClientSession, where: str, item: Item[Any]) -> None:
        """Report progress, if the model logs it as tqdm does."""
        while self._tells:
            await asyncio.sleep(_PROGRESS_S)
            status, said = await _put(session, where, _NO_INPUT, respond_async=True)
            if status < 300 and isinstance(said, dict):
                told = logged_progress(said.get("logs"))
                if told is not None:
                    item.progress(*told)

    async def _cancel(self, session: aiohttp.ClientSession, where: str) -> None:
        try:
            async with asyncio.timeout(_LOOK_S), session.post(f"{where}/cancel"):
                return
        except (aiohttp.ClientError, TimeoutError):
            # The server stops when its client disconnects, or has died.
            return


def image(name: str, ref: str, how: ContainerOptions = _PLAINLY, **facts: Any) -> type[CogModel]:
    """Return a model that runs in a container of an image.

    Args:
        name: `owner/name`, as it is called here.
        ref: The image; one with a digest is the same for ever.
        how: How the container is run: engine, variables, volumes, GPUs.
        facts: `concurrency` (predictions at a time; by default as many as the image was built for),
            `schema_file`, `setup_timeout_s`, `timeout_s`, `description`, and the facts of a card:
            see `swell.Model`.

    Raises:
        InvalidModel: The image cannot be pulled, or has no schema.
    """
    schema_file = facts.pop("schema_file", "")
    if schema_file:
        openapi, digest, built_for = _from_file(name, schema_file), ref, 1
    else:
        found = inspect_image(name, ref, how.engine)
        openapi, digest, built_for = found.openapi, found.id, found.at_once
    facts.setdefault("concurrency", at_once(how.env.get(AT_ONCE, built_for)))
    # Another image or other container options under the same name make another version.
    extra = {"x-cog-image": digest, "x-cog-how": _digest(repr(how))}
    return _made(name, openapi, lambda device: start_container(ref, device, how), extra, facts)


def server(name: str, url: str, **facts: Any) -> type[CogModel]:
    """Return a model on a cog server that Swell does not start; it must already run.

    Raises:
        InvalidModel: The server does not answer, or has no schema.
    """
    schema_file = facts.pop("schema_file", "")
    base = url.rstrip("/")
    openapi = _from_file(name, schema_file) if schema_file else read_json(f"{base}/openapi.json")
    if openapi is None:
        raise InvalidModel(
            f"{name}: {base}/openapi.json has no schema: start the server first, or give "
            "schema_file"
        )
    return _made(name, openapi, lambda device: There(base), {"x-cog-how": _digest(base)}, facts)


def program(
    name: str, *command: str, folder: str = "", env: Mapping[str, str] | None = None, **facts: Any
) -> type[CogModel]:
    """Return a model on a cog server that runs as a process on this machine, without a container.

    The schema comes from `schema_file` or `.cog/openapi_schema.json` in its folder. The server
    gets a `concurrency` above 1 as a variable, and its predictor must then be async.

    Raises:
        InvalidModel: There is no schema.
    """
    schema_file = facts.pop("schema_file", "") or str(Path(folder, ".cog/openapi_schema.json"))
    openapi, told = _from_file(name, schema_file), dict(env or {})
    most = facts.setdefault("concurrency", at_once(told.get(AT_ONCE, 1)))
    if most > 1:
        told.setdefault(AT_ONCE, str(most))
    extra = {"x-cog-how": _digest(repr((command, sorted(told.items()), _contents(folder))))}
    return _made(
        name, openapi, lambda device: start_program(command, folder=folder, env=told), extra, facts
    )


def _made(
    name: str,
    openapi: Any,
    start: Callable[[str], Running],
    extra: Mapping[str, Any],
    facts: dict[str, Any],
) -> type[CogModel]:
    schema = CogSchema(name, openapi)
    members = {
        "name": name,
        "__doc__": facts.pop("description", "") or str(openapi.get("info", {}).get("title", "")),
        "Input": schema.input_type(**extra),
        "Output": schema.output_type,
        "schema": schema,
        "start": staticmethod(start),
        "batch": Batch(max=facts.pop("concurrency", 1)),
        # The model belongs to the file with the line that names it.
        "__module__": sys._getframe(2).f_globals.get("__name__", __name__),
        **facts,
    }
    return type("Cog", (CogModel,), members)


def _digest(told: str) -> str:
    """Return a fingerprint of how a model is run, without secrets."""
    return hashlib.sha256(told.encode()).hexdigest()


def _contents(folder: str) -> list[tuple[str, str]]:
    """Return the files of a project, each with its digest; large files with their size."""
    found = []
    for path in sorted(Path(folder).rglob("*")) if folder else ():
        place = path.relative_to(folder)
        is_ours = not _PASSING.intersection(place.parts)
        if is_ours and path.is_file():
            size = path.stat().st_size
            told = str(size)
            if size <= _MOST_HASHED_BYTES:
                told = hashlib.sha256(path.read_bytes()).hexdigest()
            found.append((place.as_posix(), told))
    return found


def _from_file(name: str, path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidModel(f"{name}: the schema in {path} cannot be read: {error}") from None


async def _put(
    session: aiohttp.ClientSession, where: str, body: Any, *, respond_async: bool = False
) -> tuple[int, Any]:
    """Return the status and the decoded JSON of a response.

    Raises:
        ServerFailed: There is no valid response, or it is too large.
    """
    headers = {"Prefer": "respond-async"} if respond_async else {}
    try:
        async with session.put(where, json=body, headers=headers) as answer:
            said = bytearray()
            async for part in answer.content.iter_chunked(1 << 18):
                said += part
                if len(said) > _MOST_BYTES:
                    raise ServerFailed(f"an answer has more than {_MOST_BYTES:,} bytes")
            return answer.status, json.loads(said)
    except (aiohttp.ClientError, ValueError) as error:
        raise ServerFailed(f"a cog server does not answer: {error}") from error


def _words_of(said: Any) -> str:
    """Return the error text of a server's response."""
    if not isinstance(said, dict):
        return str(said)[:500]
    detail = said.get("detail")
    if isinstance(detail, list):
        return "; ".join(
            f"{'/'.join(map(str, each.get('loc', ())[2:]))}: {each.get('msg', '')}"
            for each in detail
            if isinstance(each, dict)
        )[:500]
    return str(said.get("error") or detail or said.get("status") or "")[:500]
