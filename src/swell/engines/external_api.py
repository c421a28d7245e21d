"""Remote models: behind an API compatible with OpenAI's images or Replicate's predictions.

Use them to compare with your own models, or for load that a fleet cannot take, within a budget.
Derive from `OpenAIImages` or `Predictions` in a file of models:

    class Theirs(external_api.OpenAIImages):
        "What the card says."
        name = "remote/theirs"
        url = "https://api.example/v1"
        remote_model = "their-model"
        key_file = "/run/secrets/their-key"
        price_micros = 40_000
        budget_micros_per_day = 20_000_000

Such a worker needs no GPU: `swell worker --models theirs.py --slots 16`.
"""

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import urljoin, urlsplit, urlunsplit

import aiohttp
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from swell import ui
from swell.core.clock import Clock, SystemClock
from swell.core.errors import InvalidModel, InvalidRequest
from swell.engines.cog_schema import data_of
from swell.engines.external_api_outputs import Meant
from swell.net.safe_http import Outbound
from swell.net.url_policy import CheckedUrl, UrlPolicy, bare_url
from swell.sdk.context import Cancelled, Item, Reject
from swell.sdk.define import define
from swell.sdk.media import Audio, File, Image, Video, Within
from swell.sdk.model import Batch, Model
from swell.settings.environment import state_folder

#: Largest accepted response or file, in bytes.
_MOST_BYTES: Final = 100 * 1024**2

_MOST_TYPE_CHARS: Final = 127

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 3

#: Interval of checks for results and cancellation, in seconds.
_LOOK_S: Final = 0.25

#: Longest interval between two polls of a prediction, in seconds.
_SELDOM_S: Final = 4.0

#: Attempts at a busy or broken server, and the longest pause between two of them, in seconds.
_TRIES: Final = 4
_LONGEST_PAUSE_S: Final = 30.0

_BUSY: Final = frozenset({408, 409, 429, 500, 502, 503, 504})

#: Statuses that say that nothing was started. A request that costs money is retried on no others.
_NOT_BEGUN: Final = frozenset({429, 503})

#: Timeout of a request to cancel a prediction, in seconds.
_CANCEL_S: Final = 15.0

#: Wait for the id of a cancelled prediction, in seconds: less than `worker.cancel_grace_s`, after
#: which the worker kills this process and the cost would be lost.
_ID_S: Final = 3.0

#: The key is wrong, or the account has no money: another input would fail too.
_LOCKED: Final = frozenset({401, 402, 403})

#: The request was not sent.
_NEVER_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
)

#: Parses a URL and allows any address.
_ANY: Final = UrlPolicy(trusts_all=True)

#: A line of tqdm, as servers of predictions write their progress.
_PROGRESS: Final = re.compile(r"^\s*(\d+)%\s*\|.+?\|\s*(\d+)/(\d+)", re.MULTILINE)


class BudgetSpent(Reject):
    """Today's money for a remote model is spent: no retry before tomorrow succeeds."""


class _Refused(RuntimeError):
    """The API refuses, for a reason other than the input; nothing was made."""


class Budget:
    """The daily budget of a remote model, shared by all workers of one user on this machine.

    Args:
        name: Of the model.
        micros_per_day: In millionths of a dollar; None for no limit.
        folder: Folder of the spending records; it outlives workers. None for this user's own.
        clock: For the current day, in UTC.

    Raises:
        InvalidModel: The folder cannot be used.
    """

    def __init__(
        self,
        name: str,
        micros_per_day: int | None,
        folder: Path | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._name = name
        self._most = micros_per_day
        if micros_per_day is not None:
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            self._path = _usable(folder) / f"swell-remote-{digest}.json"

    def take(self, micros: int) -> str:
        """Take money from today's budget before a request is sent; return the day.

        Raises:
            BudgetSpent: Too little is left.
        """
        if self._most is None or micros == 0:
            return self._today()
        with self._noted() as spent:
            if spent["micros"] + micros > self._most:
                anew = date.fromisoformat(spent["day"]) + timedelta(days=1)
                raise BudgetSpent(
                    f"the daily budget of {self._name} (budget_micros_per_day) is spent; "
                    f"it resets on {anew} at 00:00 UTC: retry then or use another model"
                )
            spent["micros"] += micros
            day: str = spent["day"]
        return day

    def give_back(self, micros: int, day: str) -> None:
        """Return unspent money to the budget of its day; no effect once that day has passed."""
        if self._most is None or micros == 0:
            return
        with self._noted() as spent:
            if spent["day"] == day:
                spent["micros"] = max(0, spent["micros"] - micros)

    def _today(self) -> str:
        return self._clock.now().date().isoformat()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[dict[str, Any]]:
        today = self._today()
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._path, flags, 0o600), "r+") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                raise PermissionError(f"{self._path} belongs to another user: remove it")
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                spent = json.loads(file.read())
            except ValueError:
                spent = {}
            if spent.get("day") != today:
                spent = {"day": today, "micros": 0}
            yield spent
            file.seek(0)
            file.truncate()
            file.write(json.dumps(spent))


def _usable(folder: Path | None) -> Path:
    """Return the folder of spending records, created if missing; None for this user's own."""
    try:
        told = state_folder() / "budgets" if folder is None else folder
        told.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = told.lstat()
        is_own = found.st_uid == os.getuid() and stat.S_ISDIR(found.st_mode)
        if folder is None and is_own:
            told.chmod(0o700)
    except (OSError, RuntimeError) as error:
        raise InvalidModel(f"{error}: set budget_folder to a writable folder") from None
    if folder is None and not is_own:
        raise InvalidModel(f"{told} belongs to another user: set budget_folder")
    return told


class RemoteModel(Model):
    """A model behind a remote API. Derive from one of the classes below."""

    #: Base URL of the API, as its own clients use it.
    url: ClassVar[str] = ""
    #: File that holds the key and nothing else; empty where none is needed.
    key_file: ClassVar[str] = ""
    # The price of one sample is `price_micros`, see `Model`.
    #: Daily budget of this user on this machine, in millionths of a dollar; None for no limit.
    budget_micros_per_day: ClassVar[int | None] = None
    #: Folder of the spending records; None for `swell/budgets` in this user's state folder.
    budget_folder: ClassVar[str | None] = None
    #: Private addresses that files of responses may come from, written as in
    #: `worker.allow_private_urls`. The API itself may have any address.
    allow_private_urls: ClassVar[Sequence[str]] = ()
    #: Timeout of one sample, in seconds.
    timeout_s: ClassVar[float] = 600.0
    batch = Batch(max=32)
    memory_bytes = 1_000_000

    def load(self, device: str) -> None:
        """Read the key.

        Raises:
            InvalidModel: The URL is invalid, the key unreadable, or the budget folder unusable.
            InvalidRequest: `url` or `allow_private_urls` is malformed.
        """
        if urlsplit(self.url).scheme not in ("http", "https"):
            raise InvalidModel(
                f"{self.name}: set `url` to the address of the API, such as https://…/v1"
            )
        self._origin = _origin(_ANY.check(_without_user(self.url)))
        self._policy = UrlPolicy.of(self.allow_private_urls, ("80", "443"), self.name)
        self._headers: dict[str, str] = {}
        if self.key_file:
            try:
                key = Path(self.key_file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise InvalidModel(
                    f"{self.name}: the key in {self.key_file} cannot be read ({error.strerror})"
                ) from None
            self._headers["Authorization"] = f"Bearer {key}"
        folder = None if self.budget_folder is None else Path(self.budget_folder)
        self._budget = Budget(self.name, self.budget_micros_per_day, folder)

    def run(self, items: list[Item[Any]]) -> list[Any]:
        """Request all samples concurrently; each gets its result or its error."""
        return asyncio.run(self._run_all(items))

    async def _run_all(self, items: Sequence[Item[Any]]) -> list[Any]:
        # The API may answer a request shortly after the sample's timeout: see `_begun`.
        total_s = self.timeout_s + _ID_S
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=15)
        async with aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            return await asyncio.gather(
                *(self._run_one(session, item) for item in items), return_exceptions=True
            )

    async def _run_one(self, session: aiohttp.ClientSession, item: Item[Any]) -> Any:
        """Request one sample; stop if the task is cancelled."""
        asking = asyncio.ensure_future(self._ask(session, item))
        try:
            async with asyncio.timeout(self.timeout_s):
                while not asking.done():
                    if item.cancelled:
                        raise Cancelled
                    await asyncio.wait([asking], timeout=_LOOK_S)
            return asking.result()
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, session: aiohttp.ClientSession, item: Item[Any]) -> Any:
        raise NotImplementedError

    async def _create(
        self,
        session: aiohttp.ClientSession,
        item: Item[Any],
        url: str,
        body: Any,
        unwanted: asyncio.Event | None = None,
    ) -> Any:
        """Send a request that costs money; take its price from the budget first.

        A prediction that may have started stays paid.

        Raises:
            BudgetSpent: Today's budget does not cover the price.
            Exception: See `_json`.
        """
        day, paid = self._budget.take(self.price_micros), self.price_micros
        try:
            return await self._json(
                session, "POST", url, body=body, again=_NOT_BEGUN, unwanted=unwanted
            )
        except (Reject, _Refused, *_NEVER_SENT):
            self._budget.give_back(paid, day)
            paid = 0
            raise
        finally:
            item.paid(paid)

    async def _json(
        self,
        session: aiohttp.ClientSession,
        method: str,
        url: str,
        *,
        body: Any = None,
        again: Collection[int] = _BUSY,
        unwanted: asyncio.Event | None = None,
    ) -> Any:
        """Return the API's response; retry on the statuses in `again`.

        Args:
            session: Sends the request.
            method: HTTP method.
            url: Address of the request.
            body: The JSON of the request.
            again: Statuses to retry on.
            unwanted: Once set, the request is not retried.

        Raises:
            Reject: The API refuses this input.
            RuntimeError: The API fails, or refuses this key.
        """
        unwanted = unwanted or asyncio.Event()
        for tries in range(1, _TRIES + 1):
            async with session.request(
                method, url, json=body, headers=self._headers, allow_redirects=False
            ) as answer:
                said = await _read(answer)
                if answer.status < 300:
                    return _decoded(said, url)
                error = self._error(answer.status, said)
                if answer.status not in again or tries == _TRIES:
                    raise error
                pause_s = _pause_s(answer.headers.get("Retry-After", ""), tries)
            if await _is_set_within(pause_s, unwanted):
                raise error
        raise AssertionError("the last try raises")

    def _error(self, status: int, said: bytes) -> Exception:
        words = _words_of(said) or f"HTTP {status}"
        if status in _LOCKED:
            return _Refused(
                f"{_host(self.url)} refuses the key of {self.name} ({status}): {words}; check "
                f"key_file and the account"
            )
        if 400 <= status < 500 and status not in _BUSY:
            return Reject(f"{_host(self.url)} refuses this input: {words}")
        if status < 400:
            return RuntimeError(
                f"{_host(self.url)} redirects ({status}): set `url` to the address of the API"
            )
        # The API may have processed a request that timed out (408).
        kind = _Refused if status in (409, 429) else RuntimeError
        return kind(f"{_host(self.url)} failed ({status}): {words}")

    async def _file(self, session: aiohttp.ClientSession, url: str, kind: str) -> Any:
        """Return a file of a response, from its data URI or URL.

        Raises:
            Reject: The URL is refused: a retry would find the same, and cost as much.
            RuntimeError: The file cannot be read.
        """
        try:
            if url[:5].lower() == "data:":
                return _as_media(*data_of(url), kind)
            return _as_media(*await self._fetched(session, url), kind)
        except InvalidRequest as error:
            raise Reject(f"a file of {self.name} is not fetched: {error.detail}") from None
        except ValueError as error:
            raise RuntimeError(f"{_host(self.url)} answered with no file: {error}") from None

    async def _fetched(self, session: aiohttp.ClientSession, url: str) -> tuple[bytes, str]:
        """Follow redirects, and check each; return the bytes and their media type."""
        outside = Outbound(self._policy, self.timeout_s)
        target, is_home = url, True
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                # After a redirect to another host the key is not sent again.
                checked = _ANY.check(target)
                is_home = is_home and _origin(checked) == self._origin
                opened = (
                    session.get(checked.url, headers=self._headers, allow_redirects=False)
                    if is_home
                    else outside.get(target)
                )
                async with opened as answer:
                    if answer.status not in _REDIRECTS:
                        return await self._read_file(answer, url)
                    target = urljoin(target, answer.headers.get("location", ""))
        finally:
            await outside.close()
        raise RuntimeError(f"{bare_url(url)} redirects more than {_MOST_REDIRECTS} times")

    async def _read_file(self, answer: aiohttp.ClientResponse, url: str) -> tuple[bytes, str]:
        if answer.status >= 300:
            raise RuntimeError(
                f"a file of {self.name} cannot be read: {bare_url(url)} says HTTP {answer.status}"
            )
        return await _read(answer), answer.content_type[:_MOST_TYPE_CHARS]


class OpenAIImages(RemoteModel):
    """Pictures from an API that is compatible with OpenAI's `POST /images/generations`."""

    Output = Image
    #: Name of the model at the API.
    remote_model: ClassVar[str] = ""
    #: Sent with each request in addition to the input, such as `{"quality": "low"}`.
    always: ClassVar[Mapping[str, Any]] = {}

    class Input(BaseModel):
        """What to draw."""

        model_config = ConfigDict(extra="forbid")
        prompt: Annotated[
            str, Field(min_length=1, max_length=32_000, examples=["a red fox"]), ui.textarea()
        ]
        size: Annotated[
            str, Field(pattern=r"^(auto|[1-9]\d{1,3}x[1-9]\d{1,3})$", description="auto, or WxH")
        ] = "auto"

    async def _ask(self, session: aiohttp.ClientSession, item: Item[Any]) -> Any:
        body = {
            **self.always,
            "model": self.remote_model,
            "prompt": item.input.prompt,
            "size": item.input.size,
            "n": 1,
        }
        url = f"{self.url.rstrip('/')}/images/generations"
        answer = await self._create(session, item, url, body)
        try:
            (made,) = answer["data"]
            if made.get("b64_json"):
                return _picture(base64.b64decode(made["b64_json"]))
            return await self._file(session, urljoin(url, made["url"]), "image")
        except (KeyError, TypeError, ValueError) as error:
            raise RuntimeError(f"{_host(self.url)} answered with no picture") from error


class Predictions(RemoteModel):
    """A model behind an API that is compatible with Replicate's predictions.

    Set `Input` and `Output` to its types, and either `remote_model` (`owner/name`) or `version`.
    Only outputs that `Output` declares as files are downloaded.
    """

    remote_model: ClassVar[str] = ""
    version: ClassVar[str] = ""

    def load(self, device: str) -> None:
        """Read the key, and the types of the model's outputs.

        Raises:
            InvalidModel: `Output` is not set; or see `RemoteModel.load`.
        """
        if self.Output is None:
            raise InvalidModel(
                f"{self.name}: set `Output` to the type of its output, such as swell.Image, "
                "list[swell.File] or str: only file types are downloaded"
            )
        super().load(device)
        self._meant = Meant(define(type(self)).facts.output_schema)

    async def _ask(self, session: aiohttp.ClientSession, item: Item[Any]) -> Any:
        base = self.url.rstrip("/")
        body: dict[str, Any] = {"input": asked_of(item)}
        path = f"/models/{self.remote_model}/predictions"
        if self.version:
            path, body["version"] = "/predictions", self.version
        found = await self._begun(session, item, base, path, body)
        try:
            found = await self._follow(session, found, base, item)
        except BaseException:
            await self._cancel(session, found, base)
            raise
        return await self._outcome(session, found, base)

    async def _begun(
        self, session: aiohttp.ClientSession, item: Item[Any], base: str, path: str, body: Any
    ) -> Any:
        """Start a prediction, and return the API's response.

        If the sample is cancelled before the API answers, the prediction is still paid and would
        run on. This waits up to `_ID_S` for the response with its id, then cancels the prediction.
        """
        unwanted = asyncio.Event()
        creating = asyncio.ensure_future(self._create(session, item, base + path, body, unwanted))
        try:
            return await asyncio.shield(creating)
        except asyncio.CancelledError:
            unwanted.set()
            await asyncio.wait([creating], timeout=_ID_S)
            if creating.done() and creating.exception() is None:
                await self._cancel(session, creating.result(), base)
            raise
        finally:
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)

    async def _follow(
        self, session: aiohttp.ClientSession, found: Any, base: str, item: Item[Any]
    ) -> Any:
        pause_s = _LOOK_S
        while _state(found) in ("starting", "processing"):
            _tell_progress(found, item)
            await asyncio.sleep(pause_s)
            pause_s = min(_SELDOM_S, 1.2 * pause_s)
            found = await self._json(session, "GET", _link(found, "get", base))
        return found

    async def _cancel(self, session: aiohttp.ClientSession, found: Any, base: str) -> None:
        """Cancel a prediction; it may already have ended."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CANCEL_S):
                await self._json(session, "POST", _link(found, "cancel", base), again=())

    async def _outcome(self, session: aiohttp.ClientSession, found: Any, base: str) -> Any:
        if _state(found) != "succeeded":
            why = str(found.get("error") or f"it is {_state(found)!r} there")
            raise RuntimeError(f"{self.name} failed at {_host(self.url)}: {why[:500]}")
        return await self._output(session, found.get("output"), self._meant)

    async def _output(self, session: aiohttp.ClientSession, value: Any, meant: Meant) -> Any:
        """Return an output with its URLs replaced by files, which are fetched concurrently."""
        if isinstance(value, str) and meant.file is not None and _is_url(value):
            return await self._file(session, value, meant.file)
        if meant.is_file_alone and value is not None:
            raise RuntimeError(
                f"{_host(self.url)} returned a {type(value).__name__}, not the URL of a file "
                f"as `Output` of {self.name} declares: set `Output` to the type that it returns"
            )
        if isinstance(value, list):
            items = (
                self._output(session, each, meant.item(index)) for index, each in enumerate(value)
            )
            return list(await asyncio.gather(*items))
        if isinstance(value, dict):
            values = (self._output(session, each, meant.value(key)) for key, each in value.items())
            return dict(zip(value, await asyncio.gather(*values), strict=True))
        return value


def asked_of(item: Item[Any]) -> dict[str, Any]:
    """Return an input as JSON: files as data URIs, and the sample's own seed where it takes one."""
    asked: dict[str, Any] = item.input.model_dump(mode="python", exclude_none=True)
    if "seed" in type(item.input).model_fields:
        own = asked.get("seed")
        asked["seed"] = item.seed if own is None else own + item.index
    plain: dict[str, Any] = plain_of(asked)
    return plain


def plain_of(value: Any) -> Any:
    """Return a value as JSON, with its files as data URIs."""
    if isinstance(value, File):
        return _data_uri(value.read(), value.content_type)
    if isinstance(value, Image):
        return _data_uri(*_encoded(value))
    if isinstance(value, Mapping):
        return {name: plain_of(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_of(each) for each in value]
    return value


def _encoded(image: Image) -> tuple[bytes, str]:
    """Return a picture as a file, as it came or as PNG, and its media type."""
    picture = image.pil()
    if image.encoded is not None:
        return image.encoded, picture.get_format_mimetype() or "image/png"  # type: ignore[attr-defined]
    made = io.BytesIO()
    picture.save(made, "PNG")
    return made.getvalue(), "image/png"


def _data_uri(data: bytes, content_type: str) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Return a body that is not too large."""
    parts, total = [], 0
    async for part in _chunks(answer):
        total += len(part)
        if total > _MOST_BYTES:
            raise RuntimeError(f"an answer has more than {_MOST_BYTES:,} bytes")
        parts.append(part)
    return b"".join(parts)


def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    return answer.content.iter_chunked(1 << 18)


def _decoded(said: bytes, url: str) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        raise RuntimeError(f"{_host(url)} answered with no JSON") from None


def _words_of(said: bytes) -> str:
    """Return the error text of an API answer."""
    try:
        told = json.loads(said)
    except ValueError:
        return ""
    if isinstance(told, dict):
        error = told.get("error")
        inner = error.get("message") if isinstance(error, dict) else error
        return str(inner or told.get("detail") or told.get("title") or "")[:500]
    return ""


async def _is_set_within(duration_s: float, event: asyncio.Event) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            await event.wait()
    return event.is_set()


def _pause_s(retry_after: str, tries: int) -> float:
    if retry_after.isascii() and retry_after.isdecimal():
        return min(_LONGEST_PAUSE_S, float(retry_after))
    return min(_LONGEST_PAUSE_S, 0.5 * 2.0 ** (tries - 1))


def _host(url: str) -> str:
    return urlsplit(url).hostname or url


def _without_user(url: str) -> str:
    """Return an operator's URL without its user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _origin(url: CheckedUrl) -> tuple[str, str, int]:
    return urlsplit(url.url).scheme, url.host, url.port


def _is_url(value: str) -> bool:
    return value[:8].lower().startswith(("https://", "http://", "data:"))


def _state(found: Any) -> str:
    return str(found.get("status", "")) if isinstance(found, dict) else ""


def _link(found: Mapping[str, Any], name: str, base: str) -> str:
    """Return a link of a prediction. It must lead to the API: its requests carry the key."""
    told = str((found.get("urls") or {}).get(name) or "")
    if urlsplit(told)[:2] == urlsplit(base)[:2]:
        return told
    suffix = "" if name == "get" else f"/{name}"
    return f"{base}/predictions/{found.get('id', '')}{suffix}"


def _tell_progress(found: Mapping[str, Any], item: Item[Any]) -> None:
    told = logged_progress(found.get("logs"))
    if told is not None:
        item.progress(*told)


def logged_progress(logs: Any) -> tuple[int, int] | None:
    """Return the completed and total steps that tqdm logged; None if it logged none."""
    lines = _PROGRESS.findall(str(logs or ""))
    if not lines:
        return None
    _, done, total = lines[-1]
    return int(done), int(total)


def _as_media(data: bytes, content_type: str, kind: str) -> Any:
    """Return a file as the declared type; one of any type by its media type."""
    family = content_type.partition("/")[0] if kind == "file" else kind
    if family == "image":
        return _picture(data)
    made = {"audio": Audio, "video": Video}.get(family, File)
    return made(data, content_type=content_type or None)


def _picture(data: bytes) -> Image:
    """Return a picture from an API, checked."""
    try:
        return Image(data).checked(Within())
    except PydanticCustomError as error:
        raise RuntimeError(f"the response contains no valid picture: {error}") from None
