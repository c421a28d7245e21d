"""Forms: the one file in one, passed on as it comes; or all of its parts, one after another.

Nothing of a form is kept but the headers of one part, so its size costs no memory.

Source:
    RFC 7578 (multipart/form-data), RFC 2046, section 5.1 (its parts).
"""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from swell.errors import InvalidRequest

#: Parts of a form, with or without a file: each costs a little time.
_MAX_PARTS: Final = 100

#: The headers of a part may take 16 KiB together.
_MAX_HEADERS: Final = 8
_MAX_HEADER_BYTES: Final = 2048

#: The header that names the boundary; it has at most 70 characters.
_MAX_TYPE_BYTES: Final = 1024

#: Longest value of a field, unless whoever reads it says otherwise.
MAX_FIELD_BYTES: Final = 1024 * 1024

#: How the bytes of a part may be written: as they are.
_PLAIN: Final = frozenset({b"", b"binary", b"8bit", b"7bit"})


@dataclass(frozen=True, slots=True)
class FilePart:
    """What a form says of its file."""

    filename: str
    #: As the client wrote it, without parameters and in lower case.
    media_type: str


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form: a field, or a file."""

    name: str
    #: None for a field.
    filename: str | None
    #: As the client wrote it, without parameters and in lower case.
    media_type: str
    #: Its bytes as they come. What is not read of it before the next part is passed over.
    data: AsyncIterator[bytes]

    async def text(self, limit_bytes: int = MAX_FIELD_BYTES) -> str:
        """Return a field's value.

        Raises:
            InvalidRequest: It is longer than `limit_bytes`, or not UTF-8.
        """
        value = b""
        async for piece in self.data:
            value += piece
            if len(value) > limit_bytes:
                raise InvalidRequest(
                    f"the form's field {self.name[:60]!r} has more than {limit_bytes:,} bytes"
                )
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"the form's field {self.name[:60]!r} is not UTF-8") from error


async def read_parts(content_type: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[Part]:
    """Yield the parts of a form in their order; read each before the next is asked for.

    Args:
        content_type: Header of the request.
        chunks: Its body.

    Raises:
        InvalidRequest: The form cannot be read.
    """
    form = _Parts(_boundary(content_type))

    async def data() -> AsyncIterator[bytes]:
        while (piece := await form.next_piece(chunks)) is not None:
            yield piece

    while (head := await form.next_head(chunks)) is not None:
        yield Part(head.name, head.filename, head.media_type, data())


async def open_form(
    content_type: bytes, chunks: AsyncIterator[bytes]
) -> tuple[FilePart, AsyncIterator[bytes]]:
    """Return what a form says of its one file, and the file's bytes as they come.

    Fields without a file name are passed over. That the form is whole, and that no second file
    follows, shows at its end: then the iterator raises what is said below.

    Args:
        content_type: Header of the request.
        chunks: Its body.

    Raises:
        InvalidRequest: The form cannot be read, or does not hold exactly one file.
    """
    form = _Form(_boundary(content_type))
    async for chunk in chunks:
        form.feed(chunk)
        if form.file is not None:
            return form.file, _rest(form, chunks)
    form.check_whole()
    raise _not_one(0)


async def _rest(form: "_Form", chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in form.take():
        yield piece
    async for chunk in chunks:
        form.feed(chunk)
        for piece in form.take():
            yield piece
    form.check_whole()


@dataclass(frozen=True, slots=True)
class _Head:
    """The headers of a part."""

    name: str
    filename: str | None
    media_type: str


class _Reader:
    """A form as far as it has come: what both ways to read one have in common."""

    def __init__(self, boundary: bytes) -> None:
        self._is_whole = False
        self._n_parts = 0
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_to_name,
                    "on_header_value": self._add_to_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
                max_header_count=_MAX_HEADERS,
                max_header_size=_MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise _unreadable(error) from error

    def feed(self, chunk: bytes) -> None:
        """Read on.

        Raises:
            InvalidRequest: This is no form, or it has a second file.
        """
        if self._is_whole:
            return  # what stands behind the last boundary means nothing
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _unreadable(error) from error

    def check_whole(self) -> None:
        """Raise `InvalidRequest` if the last boundary has not come."""
        if not self._is_whole:
            raise InvalidRequest("the form cannot be read: it ends before its last boundary")

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > _MAX_PARTS:
            raise InvalidRequest(f"the form has more than {_MAX_PARTS} parts: send the file alone")
        self._headers = {}

    def _add_to_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._value.strip()
        self._name = self._value = b""

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        filename = options.get(b"filename")
        written = self._headers.get(b"content-transfer-encoding", b"").lower()
        if filename is not None and written not in _PLAIN:
            raise InvalidRequest("the form's file is encoded: send its bytes as they are")
        media_type, _ = parse_options_header(self._headers.get(b"content-type", b"text/plain"))
        self._open(
            _Head(
                options.get(b"name", b"").decode(errors="replace"),
                None if filename is None else filename.decode(errors="replace"),
                media_type.decode("latin-1"),
            )
        )

    def _end(self) -> None:
        self._is_whole = True

    def _open(self, head: _Head) -> None:
        """Note that a part begins, whose headers are there."""
        raise NotImplementedError

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        """Take bytes of the part that was opened last."""
        raise NotImplementedError


class _Form(_Reader):
    """A form of which one file is wanted."""

    def __init__(self, boundary: bytes) -> None:
        super().__init__(boundary)
        #: The file, once its headers are there.
        self.file: FilePart | None = None
        self._data: list[bytes] = []
        self._is_in_file = False

    def take(self) -> list[bytes]:
        """Return the file's bytes that have come since the last call."""
        taken, self._data = self._data, []
        return taken

    def _open(self, head: _Head) -> None:
        self._is_in_file = head.filename is not None
        if head.filename is None:
            return
        if self.file is not None:
            raise _not_one(2)
        self.file = FilePart(head.filename, head.media_type)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._data.append(data[start:end])


class _Parts(_Reader):
    """A form of which every part is wanted."""

    def __init__(self, boundary: bytes) -> None:
        super().__init__(boundary)
        #: What has come and was not asked for yet.
        self._came: deque[_Head | bytes] = deque()

    async def next_head(self, chunks: AsyncIterator[bytes]) -> _Head | None:
        """Return the next part's headers, past the rest of the one before; None at the end."""
        while await self._fill(chunks):
            each = self._came.popleft()
            if isinstance(each, _Head):
                return each
        self.check_whole()
        return None

    async def next_piece(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Return more of the part that was begun last; None at its end."""
        if not await self._fill(chunks):
            self.check_whole()
            return None
        if isinstance(self._came[0], _Head):
            return None
        piece = self._came.popleft()
        assert isinstance(piece, bytes), "it was a moment ago"
        return piece

    async def _fill(self, chunks: AsyncIterator[bytes]) -> bool:
        """Read until something is there; return whether it is."""
        while not self._came:
            chunk = await anext(chunks, None)
            if chunk is None:
                return False
            self.feed(chunk)
        return True

    def _open(self, head: _Head) -> None:
        self._came.append(head)

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._came.append(data[start:end])


def _boundary(content_type: bytes) -> bytes:
    if len(content_type) <= _MAX_TYPE_BYTES:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if boundary:
            return boundary
    raise InvalidRequest("the form cannot be read: its Content-Type names no boundary")


def _unreadable(error: FormParserError) -> InvalidRequest:
    return InvalidRequest(f"the form cannot be read: {error}")


def _not_one(n: int) -> InvalidRequest:
    many = "no file" if n == 0 else f"{n} files or more"
    return InvalidRequest(f"the form holds {many}: send exactly one part with a file name")
