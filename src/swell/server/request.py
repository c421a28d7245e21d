"""One HTTP request and its answer, as thin as ASGI allows.

Handlers take a `Call` and return a `Reply`. Cookies, forms and URLs are parsed only on demand:
most requests need the path, one or two headers and the body.
"""

import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

import msgspec

from swell.core.errors import UNREADABLE, InvalidRequest, TooLarge
from swell.core.records import ApiKey
from swell.core.telemetry import Trace, request_id
from swell.server.headers import GUARDS, NO_POLICY, Headers

if TYPE_CHECKING:
    from swell.server.body_queue import BodyQueue
    from swell.server.decoding import Reader

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON = b"application/json"

#: The ids of requests that this process answers: ten digits of its own, and a number.
_PROCESS: Final = secrets.token_hex(5)
_numbers: Final = count()
#: Request ids that clients may set: nothing that could break or fill a line of the log.
_PLAIN_ID: Final = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}")

#: Most bytes in a body of a client without a known key.
MAX_KEYLESS_BYTES: Final = 256 * 1024

#: Most values in a JSON body: fields and items, however deep. Strings may be as long as the body.
MAX_VALUES: Final = 50_000

#: Most values in a report of a worker: outputs may be long lists of numbers, such as embeddings.
MAX_WORKER_VALUES: Final = 250_000

#: Every byte but those that stand before a value, in an array or an object.
_NOT_BEFORE_VALUES: Final = bytes(set(range(256)) - set(b",[{"))

#: Longer bodies of a key wait for their turn, in bytes.
_LARGE_BYTES: Final = 256 * 1024


class ClientGone(Exception):
    """The client hung up before the request was read."""


class Reply(msgspec.Struct):
    """An answer: a body, or a stream of known length."""

    status: int
    body: bytes = b""
    content_type: bytes = JSON
    #: They replace the security headers of every answer.
    headers: Headers | None = None
    stream: AsyncIterator[bytes] | None = None
    #: Of the stream, in bytes.
    length: int | None = None
    #: Called if the client has hung up before the answer; None for nothing.
    lost: Callable[[], Awaitable[None]] | None = None

    async def send(self, call: "Call") -> None:
        """Write the answer, with the headers of every answer."""
        send = call.send
        headers = [(b"x-request-id", call.request_id.encode()), *call.added_headers]
        headers += self.headers or ()
        own = {name for name, _ in headers}
        headers += [each for each in (*GUARDS, NO_POLICY) if each[0] not in own]
        if self.status not in (204, 304):
            length = len(self.body) if self.length is None else self.length
            headers.append((b"content-type", self.content_type))
            headers.append((b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        if self.stream is not None and call.scope["method"] != "HEAD":
            async for chunk in self.stream:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        body = b"" if call.scope["method"] == "HEAD" else self.body
        await send({"type": "http.response.body", "body": body})


class Call:
    """One request on its way through a handler."""

    #: The caller's key; None if the operation needs none.
    key: ApiKey | None = None
    #: The same, on a path that needs a key.
    caller: ApiKey
    #: Status of an answer that the handler wrote itself.
    status = 200
    #: The task that it made, for the log; empty for none or several.
    task_id = ""
    #: Its span; None if it is not traced.
    trace: Trace | None = None
    #: For the audit log: the id of the target, a text, and whether an operator acts on a task or
    #: worker of another key.
    target = ""
    about = ""
    of_others = False
    #: Where large bodies of its key wait for their turn; None for a worker's, which do not.
    body_queue: "BodyQueue | None" = None
    #: Checks of its inputs so far (`Cards.check_input`).
    checked = 0
    #: The whole body, once it was read.
    content = b""
    #: Headers of every answer to this request, errors included.
    added_headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, scope: Scope, receive: Receive, send: Send, started_s: float = 0.0) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        #: When it began, in monotonic seconds.
        self.started_s = started_s
        #: Parameters of the path.
        self.params: dict[str, str] = scope.get("path_params", {})
        #: By lower-case name; of several with one name, the first.
        self.headers: dict[bytes, bytes] = dict(reversed(scope.get("headers", ())))
        asked = self.headers.get(b"x-request-id")
        if asked is not None and _PLAIN_ID.fullmatch(asked):
            self.request_id = asked.decode("ascii")
        else:
            self.request_id = f"req_{_PROCESS}{next(_numbers):08x}"
        # Every line of the log about this request has its id.
        request_id.set(self.request_id)

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a header to the answer, also to an error."""
        self.added_headers += ((name, value),)

    def own_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of every answer to this request."""
        return [(b"x-request-id", self.request_id.encode()), *GUARDS, *self.added_headers]

    @property
    def path(self) -> str:
        """The path that was asked."""
        return str(self.scope["path"])

    @property
    def media_type(self) -> str:
        """The body's media type in lower case, without parameters; empty without the header."""
        value = self.headers.get(b"content-type") or b""
        return value.split(b";", 1)[0].strip().lower().decode("latin-1")

    def query(self) -> dict[str, str]:
        """Return the query parameters.

        Raises:
            InvalidRequest: One is given twice, or is not UTF-8.
        """
        try:
            raw = self.scope["query_string"].decode("ascii")
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=50)
        except ValueError as error:
            raise InvalidRequest("the query string is not URL-encoded UTF-8") from error
        found = dict(pairs)
        if len(found) != len(pairs):
            raise InvalidRequest("a query parameter is given twice; give each once")
        return found

    async def read(self, reader: "Reader", limit_bytes: int) -> Any:
        """Return the message in the body.

        Raises:
            InvalidRequest: The body is not JSON of the reader's type, or is declared as another
                content type.
            TooLarge: As `body`.
        """
        if self.headers.get(b"content-type", JSON) != JSON:
            self.check_json()
        body = await self.body(limit_bytes)
        try:
            return reader.decode(body)
        except UNREADABLE as error:
            raise reader.refusal(body, error) from error

    def check_json(self) -> None:
        """Check that the content type is JSON or missing.

        Raises:
            InvalidRequest: It is another one.
        """
        media_type = self.media_type
        if media_type and media_type != "application/json" and not media_type.endswith("+json"):
            raise InvalidRequest(
                f"the body's content type is {media_type[:60]!r}: send "
                "`Content-Type: application/json`"
            )

    async def body(self, limit_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            TooLarge: It is longer than `limit_bytes`, counted as it comes, or without a known key
                than `MAX_KEYLESS_BYTES`; or it has more than `MAX_VALUES` values, in a worker's
                body `MAX_WORKER_VALUES`.
            TooManyRequests: Too many bytes of the key wait already.
            ClientGone: The client hung up.
        """
        if self.key is None:
            limit_bytes = min(limit_bytes, MAX_KEYLESS_BYTES)
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            data: bytes = message.get("body", b"")
            if len(data) > limit_bytes:
                raise self._too_large(limit_bytes)
        else:
            data = b"".join([chunk async for chunk in self._chunks(message, limit_bytes)])
        self.content = data
        if len(data) <= MAX_VALUES:
            return data
        if self.body_queue is None:
            check_values(data, MAX_WORKER_VALUES)
        elif self.key is None or len(data) <= _LARGE_BYTES:
            check_values(data, MAX_VALUES)
        else:
            await self.body_queue.take(self.key.id, data)
        return data

    def limit_bytes(self, limit_bytes: int) -> int:
        """Return how long the body may be: without a known key, at most `MAX_KEYLESS_BYTES`."""
        return min(limit_bytes, MAX_KEYLESS_BYTES) if self.key is None else limit_bytes

    async def chunks(self, limit_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body as it comes.

        Raises:
            TooLarge: It is longer than `limit_bytes`.
            ClientGone: The client hung up.
        """
        async for chunk in self._chunks(await self.receive(), limit_bytes):
            yield chunk

    async def _chunks(
        self, message: MutableMapping[str, Any], limit_bytes: int
    ) -> AsyncIterator[bytes]:
        total = 0
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            total += len(chunk)
            if total > limit_bytes:
                raise self._too_large(limit_bytes)
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                return
            message = await self.receive()

    def _too_large(self, limit_bytes: int) -> TooLarge:
        error = too_large(limit_bytes)
        if self.key is None and limit_bytes == MAX_KEYLESS_BYTES:
            error.detail = (
                f"the body is larger than {limit_bytes:,} bytes, and the request has no key in its "
                "Authorization header: send less, or send a key there"
            )
        return error

    def is_gone(self) -> bool:
        """Whether the client has hung up. The body must have been read."""
        message = poll(self.receive())
        return message is not None and message["type"] == "http.disconnect"


def poll(step: Awaitable[Any]) -> Any:
    """Run an awaitable only as far as it goes without waiting; None if it would wait.

    It lets one loop look after thousands of streams without a task for each.
    """
    if not isinstance(step, Coroutine):
        return None
    try:
        step.send(None)
    except StopIteration as done:
        return done.value
    # It would wait: close it, which also removes it from the waiters.
    step.close()
    return None


def too_large(limit_bytes: int) -> TooLarge:
    """Return the error of a body that is longer than it may be."""
    # The rest of the body is not read, so the connection cannot be used again.
    return TooLarge(
        f"the body is larger than {limit_bytes:,} bytes: send less, or upload files with "
        "POST /v1/uploads and name their URLs",
        headers={"connection": "close"},
    )


def check_values(data: bytes, most: int = MAX_VALUES) -> int:
    """Check that JSON has no more values than may be decoded at once; return how many it may have.

    Raises:
        TooLarge: It has more than `most`.
    """
    if len(data) <= most:
        return len(data)
    count = count_values(data, most)
    if count > most:
        raise TooLarge(
            f"the body has more than {most:,} values, counting each field and each item of a "
            "list: send fewer at once, or upload a long list as a file with POST /v1/uploads and "
            "name its URL"
        )
    return count


def count_values(data: bytes, most: int = MAX_VALUES) -> int:
    """Return how many values JSON has, at most. Far above `most` the number is rough.

    For ten megabytes it takes some milliseconds, where decoding takes half a second.
    """
    count = len(data.translate(None, _NOT_BEFORE_VALUES))
    if count > most:
        # Text may be full of commas. An object's field has at most two strings.
        plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
        if plain.count(b'"') <= 4 * most:
            bare = b"".join(plain.split(b'"')[::2])
            count = len(bare.translate(None, _NOT_BEFORE_VALUES))
    return count
