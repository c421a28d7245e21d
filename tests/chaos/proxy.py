"""A process between two others that can cut, stall, lose, repeat, delay and refuse what they say.

    python -m chaos.proxy

It reads JSON lines from its standard input and answers each with a line: first the links,
`[{"name", "port", "targets"}]`, then one rule at a time, `{"link": …, …fields of Rule}`. A link
listens on its port and passes HTTP/1.1 on to one of its targets, whichever takes the connection;
so it is also what balances load between many backends. Bodies are passed on whole, so that every
fault hits a request or an answer, except a cut, which resets whatever is open at any byte.
"""

import asyncio
import contextlib
import random
import socket
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["Link", "Proxy", "Rule"]

#: The largest head that is read.
_MOST_HEAD_BYTES: Final = 256 * 1024


class Rule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a link treats what passes. Chances lie between 0 and 1."""

    #: Reset what is open, and whoever connects.
    cut: bool = False
    #: Nothing passes in either direction; what was said is delivered once the rule is over.
    stall: bool = False
    #: Requests vanish. Their connections are reset once the rule is over, as a network would.
    lose_requests: bool = False
    #: The other side acts on requests, and its answers vanish.
    lose_answers: bool = False
    #: Chance that the other side acts, and the connection is reset instead of an answer.
    drop_answer: float = 0.0
    #: Chance that a request is sent once more, by another connection, up to `late_s` later.
    twice: float = 0.0
    late_s: float = 0.0
    #: Requests and answers wait up to so long.
    delay_s: float = 0.0
    #: Answer 503 to requests of these methods.
    refuse: tuple[str, ...] = ()


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One way through the proxy."""

    name: str
    port: int
    targets: tuple[int, ...]


class Proxy:
    """The process, as seen by whoever started it.

    Args:
        log: Where its complaints go.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, links: list[Link]) -> None:
        """Start it; returns when it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chaos.proxy"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=Path(__file__).resolve().parents[1],
            )
        self._say(links)

    def set(self, link: str, rule: Rule | None = None) -> None:
        """Put a link under a rule from now on; None lets everything pass."""
        self._say({"link": link, **msgspec.to_builtins(rule or Rule())})

    def end(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            # Waits, and closes the pipes.
            self._process.communicate()

    def _say(self, message: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(message) + b"\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != b"ok\n":
            raise RuntimeError(
                f"the proxy failed:\n{self._log.read_text(errors='replace')[-2000:]}"
            )


class _Lost(Exception):
    """The connection is to be reset."""


@dataclass(slots=True)
class _Message:
    """A request or an answer, whole."""

    head: bytes
    body: bytes
    #: Whether the connection ends with it.
    is_last: bool = False

    @property
    def method(self) -> str:
        return self.head.partition(b" ")[0].decode("latin-1")


@dataclass(slots=True, eq=False)
class _Way:
    """A link at work."""

    link: Link
    rule: Rule = field(default_factory=Rule)
    rng: random.Random = field(default_factory=random.Random)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    late: set["asyncio.Task[None]"] = field(default_factory=set)

    def follow(self, rule: Rule) -> None:
        self.rule = rule
        self.over.set()
        self.over = asyncio.Event()
        if rule.cut:
            for writer in list(self.open):
                _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open.add(writer)
        said = asyncio.create_task(_read(reader))
        upstream: list[asyncio.StreamWriter] = []
        try:
            await self._pass_on(reader, writer, said, upstream)
        except (_Lost, OSError, EOFError, asyncio.LimitOverrunError):
            _reset(writer)
        finally:
            self.open.discard(writer)
            for each in (writer, *upstream):
                each.close()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        said: "asyncio.Task[_Message | None]",
        upstream: list[asyncio.StreamWriter],
    ) -> None:
        there: asyncio.StreamReader | None = None
        while not self.rule.cut and (request := await said) is not None:
            # Whoever asked may go away while the answer is waited for, and shall be missed at once.
            said = asyncio.create_task(_read(reader))
            if request.method in self.rule.refuse:
                writer.write(_REFUSAL)
                continue
            await self._hold()
            if self.rule.lose_requests:
                await self._lose()
            if there is None:
                there, back = await self._connect()
                upstream.append(back)
            self._perhaps_again(request)
            asking = asyncio.create_task(self._ask(there, upstream[0], request))
            await asyncio.wait({asking, said}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and (said.exception() or said.result() is None):
                asking.cancel()
                return
            answer = await asking
            await self._hold()
            if self.rule.lose_answers:
                await self._lose()
            if self.rng.random() < self.rule.drop_answer:
                raise _Lost
            writer.write(answer.head + answer.body)
            await writer.drain()
            if answer.is_last:
                return
        if self.rule.cut:
            raise _Lost

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        targets = list(self.link.targets)
        self.rng.shuffle(targets)
        for port in targets:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port, limit=_MOST_HEAD_BYTES)
        raise _Lost

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: _Message
    ) -> _Message:
        writer.write(request.head + request.body)
        await writer.drain()
        answer = await _read(reader, answers=request.method)
        if answer is None:
            raise _Lost
        return answer

    async def _hold(self) -> None:
        """Wait as the rule demands."""
        if self.rule.delay_s:
            await asyncio.sleep(self.rng.uniform(0.0, self.rule.delay_s))
        while self.rule.stall:
            await self.over.wait()

    async def _lose(self) -> None:
        await self.over.wait()
        raise _Lost

    def _perhaps_again(self, request: _Message) -> None:
        if self.rng.random() < self.rule.twice:
            again = asyncio.create_task(self._again(request, self.rng.uniform(0, self.rule.late_s)))
            self.late.add(again)
            again.add_done_callback(self.late.discard)

    async def _again(self, request: _Message, late_s: float) -> None:
        """Send a request that was sent already, and read its answer for nobody."""
        await asyncio.sleep(late_s)
        with contextlib.suppress(_Lost, OSError, EOFError):
            reader, writer = await self._connect()
            try:
                await self._ask(reader, writer, request)
            finally:
                writer.close()


_REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\n"
    b"content-length: 16\r\n\r\nnot at this time"
)


async def _read(reader: asyncio.StreamReader, answers: str = "") -> _Message | None:
    """Read a request, or the answer to one of the method `answers`; None at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    fields = _fields(head)
    status = int(head.split(None, 2)[1]) if answers else 0
    is_last = fields.get("connection", "").lower() == "close"
    if answers == "HEAD" or status in (204, 304):
        return _Message(head, b"", is_last)
    if 100 <= status < 200:
        rest = await _read(reader, answers)
        return rest and _Message(head + rest.head, rest.body, rest.is_last)
    if "chunked" in fields.get("transfer-encoding", "").lower():
        return _Message(head, await _chunks(reader), is_last)
    if "content-length" in fields:
        return _Message(head, await reader.readexactly(int(fields["content-length"])), is_last)
    if answers:
        return _Message(head, await reader.read(), True)
    return _Message(head, b"", is_last)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """Read a chunked body as it stands."""
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if size == 0:
            return b"".join(parts)


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: the other side is told that the connection is gone, not that it ended."""
    with contextlib.suppress(OSError):
        held = writer.get_extra_info("socket")
        if held is not None:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _main() -> None:
    said = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(said), sys.stdin
    )
    links = msgspec.json.decode(await said.readline(), type=list[Link])
    ways = {link.name: _Way(link) for link in links}
    servers = [
        await asyncio.start_server(
            way.serve, "127.0.0.1", way.link.port, limit=_MOST_HEAD_BYTES, backlog=1024
        )
        for way in ways.values()
    ]
    print("ok", flush=True)
    while line := await said.readline():
        message = msgspec.json.decode(line)
        ways[message.pop("link")].follow(msgspec.convert(message, Rule))
        print("ok", flush=True)
    for server in servers:
        server.close()


if __name__ == "__main__":
    asyncio.run(_main())
